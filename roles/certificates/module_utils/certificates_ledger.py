# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What was asked of certificate authorities, and what they gave: one JSON object a line, only ever added to.

An order is on the disk before the authority hears of it, so that a run that was killed counts. What an authority allows is
judged from these lines before it is contacted: a refused request costs more than none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.certificates_model import normal_name
from ansible.module_utils.runbook_state import StateError, ensure_folder, replace_text, sync_folder

EVENTS = ("order", "issued", "failed", "rate-limited", "deployed", "rolled-back", "revoked")
ENDS = ("issued", "failed", "rate-limited")
HOUR, DAY = 3600.0, 86400.0
KEEP_SECONDS = 30 * DAY
# Words of an authority's refusal that concern the account, whatever the names.
OF_THE_ACCOUNT = ("new orders", "new-orders", "registration")


class LedgerError(Exception):
    """The ledger cannot be read or written; nothing may be ordered then. The text says why and what to do."""


@dataclass(frozen=True)
class Entry:
    """One line. `at` and `retry_at` are seconds since the epoch, `names` are sorted and normal, `authority` is a directory's
    URL, "private_ca" or "self_signed", `serial` is hexadecimal.

    `failed_names` are those whose validation failed; None, where a failure does not say, stands for all names.
    """

    at: float
    event: str
    certificate: str
    names: tuple[str, ...]
    authority: str
    serial: str = ""
    reason: str = ""
    retry_at: float | None = None
    failed_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Limits:
    """What an authority allows. The defaults are Let's Encrypt's, which gives tokens back bit by bit; whoever keeps to a
    number in a sliding window keeps to that too."""

    certificates: int = 5
    certificates_seconds: float = 7 * DAY
    failures: int = 5
    failures_seconds: float = HOUR
    orders: int = 300
    orders_seconds: float = 3 * HOUR


@dataclass(frozen=True)
class Budget:
    """Whether an order may be placed now.

    `left_orders` is how many may be placed for these names, `left_failures` how many validations of the worst of them may
    still fail; `next_allowed` is the exact time (seconds since the epoch) from which one is allowed, None where it is now;
    `reason` says what is used up.
    """

    allowed: bool
    left_orders: int
    left_failures: int
    next_allowed: float | None
    reason: str


def set_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as they are compared: normal, sorted, each once."""
    return tuple(sorted({normal_name(name) for name in names}))


def moment(seconds: float) -> str:
    """Return a time as people read it: ISO 8601, UTC, whole seconds, rounded up so that it is never too early."""
    if not math.isfinite(seconds):
        return "never"
    return datetime.fromtimestamp(math.ceil(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def budget(entries: Sequence[Entry], names: Iterable[str], authority: str, now: float, limits: Limits) -> Budget:
    """Return whether `authority` may be asked now for a certificate of exactly these names.

    `entries` are in the order they were written. One that is later than `now` counts as if it were of now: the clock was
    wrong, then or now, and the authority's was not.
    """
    wanted = set_of(names)
    ours = [(at, entry) for at, entry in _timed(entries, now) if entry.authority == authority]
    told: list[tuple[float, str]] = []

    issued = _within(_counted(ours, wanted), now, limits.certificates_seconds)
    days = limits.certificates_seconds / DAY
    if (until := _until(issued, limits.certificates, limits.certificates_seconds)) is not None:
        told.append((until, f"{len(issued)} of {limits.certificates} certificates of exactly these names in {days:g} days are used"))

    orders = _within([at for at, entry in ours if entry.event == "order"], now, limits.orders_seconds)
    if (until := _until(orders, limits.orders, limits.orders_seconds)) is not None:
        hours = limits.orders_seconds / HOUR
        told.append((until, f"{len(orders)} of {limits.orders} orders of the account in {hours:g} hours are used"))

    left_failures = limits.failures
    for name in wanted:
        failures = _within([at for at, entry in ours if _failed(entry, name)], now, limits.failures_seconds)
        left_failures = min(left_failures, max(0, limits.failures - len(failures)))
        if (until := _until(failures, limits.failures, limits.failures_seconds)) is not None:
            minutes = limits.failures_seconds / 60
            told.append((until, f"{len(failures)} of {limits.failures} failed validations of {name} in {minutes:g} minutes are used"))

    refused = _refused_until(ours, wanted)
    if refused is not None and refused > now:
        told.append((refused, "the authority said when to come again"))

    left = max(0, min(limits.certificates - len(issued), limits.orders - len(orders)))
    if not told:
        return Budget(True, left, left_failures, None, "")
    ahead = [entry.at for _, entry in ours if entry.at > now]
    if ahead:
        told.append((now, f"the ledger has entries of up to {moment(max(ahead))}, which is still to come: look at the clock"))
    return Budget(False, left, left_failures, max(until for until, _ in told), "; ".join(why for _, why in told))


def _timed(entries: Sequence[Entry], now: float) -> list[tuple[float, Entry]]:
    """Return each entry with the time it counts from: never later than now, nor earlier than one that was written before it."""
    timed = []
    latest = -math.inf
    for entry in entries:
        if entry.at <= now:
            latest = max(latest, entry.at)
            timed.append((latest, entry))
        else:
            timed.append((now, entry))
    return timed


def _counted(ours: Sequence[tuple[float, Entry]], wanted: tuple[str, ...]) -> list[float]:
    """Return when certificates of these names were issued, and when those were ordered of which we do not know."""
    issued: list[float] = []
    pending: list[float] = []
    for at, entry in ours:
        if entry.names != wanted:
            continue
        if entry.event == "order":
            pending.append(at)
        elif entry.event in ENDS:
            if pending:
                pending.pop()  # an end belongs to the order before it; an older one without an end was killed
            if entry.event == "issued":
                issued.append(at)
    return sorted(issued + pending)


def _failed(entry: Entry, name: str) -> bool:
    return entry.event == "failed" and name in (entry.names if entry.failed_names is None else entry.failed_names)


def _within(times: Iterable[float], now: float, seconds: float) -> list[float]:
    return sorted(at for at in times if at + seconds > now)


def _until(times: Sequence[float], limit: int, seconds: float) -> float | None:
    """Return when fewer than `limit` of `times` are within the window, None where that is so."""
    if len(times) < limit:
        return None
    return times[-limit] + seconds if limit > 0 else math.inf


def _refused_until(ours: Sequence[tuple[float, Entry]], wanted: tuple[str, ...]) -> float | None:
    until: dict[bool, float] = {}
    for _, entry in ours:
        account = any(words in entry.reason.lower() for words in OF_THE_ACCOUNT)
        if entry.event == "rate-limited" and entry.retry_at is not None and (account or entry.names == wanted):
            until[account] = max(entry.retry_at, until.get(account, entry.retry_at))
        elif entry.event == "issued" and entry.names == wanted:
            until.clear()  # it gave one since: what it said before is over
    return max(until.values()) if until else None


class Ledger:
    """The ledger at `path` (mode 0600; its folder is made). `clock` gives the time in seconds since the epoch."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self.clock = clock

    def entries(self) -> tuple[list[Entry], list[str]]:
        """Return the entries in the order they were written, and a text for each line that could not be read.

        A last line without its end was torn by a crash: the authority was not contacted for it. Raise LedgerError.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise LedgerError(f"ledger {self.path} cannot be read: {error.strerror}; nothing is ordered without it") from error
        found: list[Entry] = []
        damaged: list[str] = []
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            entry = _entry(line)
            if entry is not None:
                found.append(entry)
            elif number == len(lines):
                damaged.append(f"{self.path}: the last line was torn by a crash; its order never reached the authority")
            else:
                damaged.append(f"{self.path}: line {number} is damaged and does not count")
        return found, damaged

    def write(
        self,
        event: str,
        certificate: str,
        names: Iterable[str],
        authority: str,
        *,
        serial: str = "",
        reason: str = "",
        retry_at: float | None = None,
        failed_names: Iterable[str] | None = None,
    ) -> Entry:
        """Add an entry, which is on the disk when this returns. Raise LedgerError where it is not: then order nothing."""
        if event not in EVENTS:
            raise LedgerError(f"event is {event!r}; it must be one of {', '.join(EVENTS)}")
        failed = None if failed_names is None else set_of(failed_names)
        entry = Entry(self.clock(), event, certificate, set_of(names), authority, serial, reason, retry_at, failed)
        line = _line(entry)
        try:
            with self._locked():
                new = not self.path.exists()
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    _append(handle, line)
                finally:
                    os.close(handle)
                if new:
                    sync_folder(self.path.parent)
        except (OSError, StateError) as error:
            raise LedgerError(f"ledger {self.path} cannot be written: {error}; free space or look at the folder's owner") from error
        return entry

    def compact(self, keep_seconds: float = KEEP_SECONDS) -> int:
        """Drop entries that are older than `keep_seconds` (at least 30 days); return how many went.

        The last of each event of a certificate stays for ever. A crash leaves the old or the new file. Raise LedgerError.
        """
        oldest = self.clock() - max(keep_seconds, KEEP_SECONDS)
        try:
            with self._locked():
                found, _ = self.entries()
                last = {(entry.certificate, entry.event): number for number, entry in enumerate(found)}
                kept = [entry for number, entry in enumerate(found) if entry.at >= oldest or number in last.values()]
                if len(kept) < len(found):
                    replace_text(self.path, "".join(_line(entry).decode() for entry in kept))
        except (OSError, StateError) as error:
            raise LedgerError(f"ledger {self.path} cannot be written: {error}; free space or look at the folder's owner") from error
        return len(found) - len(kept)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        ensure_folder(self.path.parent)
        # Not the ledger itself: compact() puts another file in its place.
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _append(handle: int, line: bytes) -> None:
    """Add a line, or nothing: what a full disk took of it is cut off again."""
    size = os.fstat(handle).st_size
    torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
    data = (b"\n" if torn else b"") + line
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise


def _line(entry: Entry) -> bytes:
    row = {key: value for key, value in asdict(entry).items() if key != "failed_names" or value is not None}
    return (json.dumps(row, sort_keys=True) + "\n").encode()


def _entry(line: bytes) -> Entry | None:
    """Return what a line says, None where it is no entry."""
    try:
        row = json.loads(line)
        failed = row.get("failed_names")
        texts = {key: _text(row.get(key, "")) for key in ("certificate", "authority", "serial", "reason")}
        retry_at = None if row.get("retry_at") is None else _number(row["retry_at"])
        names = tuple(_text(name) for name in row["names"])
        failed_names = None if failed is None else tuple(_text(name) for name in failed)
        if row["event"] not in EVENTS:
            return None
        return Entry(_number(row["at"]), row["event"], names=names, retry_at=retry_at, failed_names=failed_names, **texts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)
