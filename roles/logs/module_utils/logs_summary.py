# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Errors in logs, counted by what they say without what varies: a message's fingerprint.

Read from the same blocks in which secrets are looked for. Known are the tracker's JSON lines, the plain lines of Python
and uvicorn with their tracebacks, and those of PostgreSQL, nginx and programs that write `level=error`.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.logs_patterns import fold, redact

MOST_KEPT, MOST_TOLD, MOST_CACHED = 500, 10, 2000
SAMPLE_LENGTH = 200
LINE_BYTES, JSON_BYTES, TRACEBACK_BYTES = 16 * 1024, 64 * 1024, 64 * 1024
HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0
# A clock that is ahead by more than this is wrong, and not just not ours.
AHEAD_SECONDS = 300
LEVELS = ("ERROR", "CRITICAL", "FATAL", "PANIC", "EMERG", "ALERT", "CRIT")

# --- which lines -------------------------------------------------------------------------------------------------
# Each begins with a letter that is rare in logs, or is asked for only where a word is there at all.
_ALWAYS = (
    re.compile(rb"R(?<=ER)ROR"),
    re.compile(rb"A(?:L(?<=CRITICAL)|TAL(?<=FATAL)|NIC(?<=PANIC))"),
    re.compile(rb"T(?:raceback \(most recent|(?<=HTT)P/[12](?:\.[01])?\\?\" 5\d\d)"),
)
_BRACKETS = re.compile(rb"\[(?:error|crit|alert|emerg)\]")
_SMALL = re.compile(rb"level[\"\\:= ]{1,6}error")
_STATUS = b'"status_code": 5'


def _places(data: bytes, folded: bytes) -> list[int]:
    """Return where something stands that a line of an error has."""
    found = [match.start() for pattern in _ALWAYS for match in pattern.finditer(data)]
    if b"[" in data:
        found += [match.start() for match in _BRACKETS.finditer(data)]
    if b"level:error" in folded:
        found += [match.start() for match in _SMALL.finditer(data)]
    place = data.find(_STATUS)
    while place >= 0:
        found.append(place)
        place = data.find(_STATUS, place + 1)
    return sorted(found)


# --- what a line says --------------------------------------------------------------------------------------------

_BEFORE_WORD = r"(?<![\w.=/\"'-])"
_SEVERITY = re.compile(
    _BEFORE_WORD
    + r"(DEBUG[1-5]?|INFO|LOG|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL|PANIC|DETAIL|HINT|STATEMENT|CONTEXT|"
    r"QUERY)(?=[\s:\]|)]|$)"
)
_NGINX = re.compile(
    r"^[^\[]{0,120}(?<=\d )\[(debug|info|notice|warn|error|crit|alert|emerg)\]\s+(?:\d+#\d+:\s+)?(?:\*\d+\s+)?"
    r"(.*?)(?:, client: .*)?$",
    re.DOTALL,
)
_LOGFMT = re.compile(r"(?:^|\s)level=[\"']?(\w+)")
_LOGFMT_TEXT = re.compile(r"\b(?:msg|message|err|error)=(?:\"((?:[^\"\\]|\\.)*)\"|(\S+))")
_ACCESS = re.compile(r"\"([A-Z]{3,8}) ([^\s?\"]+)\S* HTTP/[\d.]+\\?\" (5\d\d)")
_BROKEN_LEVEL = re.compile(r"\"(?:level|levelname|severity|lvl)\"\s*:\s*\"(\w+)\"")
_BROKEN_TEXT = re.compile(r"\"(?:message|msg|event)\"\s*:\s*\"((?:[^\"\\]|\\.)*)")
_TIME = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,]\d{1,9})?\s?(?:Z|UTC|GMT|([+-])(\d\d):?(\d\d)?)?"
)
_TIME_OF_ACCESS = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Error:
    """What one line says: its level, who says it, what, and when in seconds since 1970 (None: it does not say)."""

    level: str
    source: str
    message: str
    at: float | None


def time_of(text: str) -> float | None:
    """Return the first time in a text, in seconds since 1970. One without a zone is taken as UTC."""
    if found := _TIME.search(text):
        year, month, day, hour, minute, second, sign, hours, minutes = found.groups()
    elif found := _TIME_OF_ACCESS.search(text):
        day, name, year, hour, minute, second, sign, hours, minutes = found.groups()
        month = _MONTHS.index(name) + 1 if name in _MONTHS else 0
    else:
        return None
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31 and int(hour) < 24 and int(year) >= 1970):
        return None
    moment = calendar.timegm((int(year), int(month), int(day), int(hour), int(minute), int(second)))
    offset = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return float(moment - offset if sign == "+" else moment + offset)


def error_of(line: bytes) -> Error | None:
    """Return what a line says, or None where it is of a level below error."""
    if line.lstrip()[:1] == b"{":
        return _json_error(line)
    text = line[:LINE_BYTES].decode("utf-8", "replace")
    if text[:1] in ("\t", " "):  # it goes on with what the line before says
        return None
    level, source, message = _plain(text)
    known = level in LEVELS or level.startswith("HTTP ")
    return Error(level, source, message, time_of(text[:200])) if known else None


def _plain(text: str) -> tuple[str, str, str]:
    """Return level, source and message of a line that is not JSON; the first word for a level counts."""
    if found := _NGINX.search(text):
        return found[1].upper(), "nginx", found[2]
    if found := _ACCESS.search(text):
        return f"HTTP {found[3]}", "access", f"{found[1]} {found[2]}"
    if found := _LOGFMT.search(text):
        said = _LOGFMT_TEXT.search(text)
        return found[1].upper(), "", (said[1] or said[2] or "") if said else text
    found = _SEVERITY.search(text[:400])
    return (found[1], "", text[found.end() :].lstrip(" \t:]|)-")) if found else ("", "", "")


def _json_error(line: bytes) -> Error | None:
    value = None
    if len(line) <= JSON_BYTES:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
    if not isinstance(value, dict):
        return _broken_error(line)
    level = str(_first(value, "level", "levelname", "severity", "lvl", "error_severity")).upper()
    at = time_of(str(_first(value, "timestamp", "time", "ts", "asctime", "@timestamp"))[:64])
    if level in LEVELS:
        message = str(_first(value, "message", "msg", "event", "error"))
        last = str(value.get("exception") or value.get("exc_info") or "").strip().rsplit("\n", 1)[-1]
        source = str(_first(value, "logger", "name", "module", "caller"))
        return Error(level, source[:100], f"{message}: {last}" if last else message, at)
    status = str(value.get("status_code", ""))
    if re.fullmatch(r"5\d\d", status):
        asked = f"{value.get('method', '')} {value.get('path', '')}".strip()
        return Error(f"HTTP {status}", "access", asked or str(value.get("message", "")), at)
    return None


def _broken_error(line: bytes) -> Error | None:
    text = line[:LINE_BYTES].decode("utf-8", "replace")
    level = _BROKEN_LEVEL.search(text)
    if level is None or level[1].upper() not in LEVELS:
        return None
    said = _BROKEN_TEXT.search(text)
    return Error(level[1].upper(), "", said[1] if said else text, time_of(text[:200]))


def _first(value: dict[str, Any], *names: str) -> Any:
    return next((value[name] for name in names if value.get(name) not in (None, "")), "")


# --- fingerprints ------------------------------------------------------------------------------------------------

_VARIES = [
    (re.compile(pattern), word)
    for pattern, word in (
        (r"[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}", "<mail>"),
        (r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", "<id>"),
        (r"\"[^\"\n]{0,500}\"|(?<!\w)'[^'\n]{0,500}'(?!\w)|`[^`\n]{0,500}`", "<text>"),
        (r"\[?(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4})\]?(?::\d{1,5})?(?![\w:])", "<address>"),
        (r"(?<=/)[\w.%~-]{0,200}\d[\w.%~-]{0,200}", "<n>"),
        (r"(?i)\b(?:0x)?[0-9a-f]{8,64}\b", "<n>"),
        (r"[+-]?\b\w{0,100}\d\w{0,100}(?:[.,:]\d+)*\b%?", "<n>"),
        (r"\s+", " "),
    )
]  # fmt: skip


def fingerprint(message: str) -> str:
    """Return a message without what varies: identifiers, numbers, addresses, what is quoted, parts of paths."""
    text = message[:1000]
    for pattern, word in _VARIES:
        text = pattern.sub(word, text)
    return text.strip()[:300]


@dataclass
class _Counted:
    sample: str
    level: str
    first: float
    last: float
    count: int = 0
    paths: set[str] = field(default_factory=set)


class Summary:
    """Counts errors while a scan feeds it; `done` gives the most frequent ones and the memory for the next run."""

    def __init__(self, memory: dict[str, Any], now: float) -> None:
        self.now = now
        self.known: dict[str, Any] = memory.get("fingerprints", {})
        self.last_run: float | None = memory.get("last_run")
        self.counted: dict[str, _Counted] = {}
        self._cache: dict[tuple[str, str, str], tuple[str, str]] = {}
        self._spans: dict[str, tuple[float, float]] = {}
        self._pending: dict[str, bytes] = {}

    def feed(self, path: str, data: bytes, folded: bytes) -> None:
        """Count the errors in whole lines of a file; `folded` is what fold() makes of them."""
        self._see_times(path, data)
        waiting = self._pending.pop(path, b"")
        if waiting:
            data = waiting + data
            folded = fold(data)
        places = _places(data, folded)
        if places:
            self._count_lines(path, data, places, more=True)

    def done(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the most frequent errors of this run, and the memory, which is JSON."""
        for path, data in self._pending.items():
            self._count_lines(path, data, _places(data, fold(data)), more=False)
        self._pending = {}
        told = [self._told(key, one) for key, one in self.counted.items()]
        told.sort(key=lambda one: (-one["count"], one["fingerprint"]))
        kept = dict(self.known)
        for key, one in self.counted.items():
            before = kept.get(key, {})
            kept[key] = {
                "first": min(one.first, before.get("first", one.first)),
                "last": max(one.last, before.get("last", one.last)),
                "count": one.count + before.get("count", 0),
            }
        newest = sorted(kept, key=lambda key: kept[key]["last"], reverse=True)[:MOST_KEPT]
        return told, {"last_run": self.now, "fingerprints": {key: kept[key] for key in newest}}

    def _told(self, key: str, one: _Counted) -> dict[str, Any]:
        before = self.known.get(key, {})
        spans = [self._spans[path][1] for path in one.paths if path in self._spans]
        # What spans minutes says nothing about an hour; what has no times was written since the last run.
        hours = max(spans) / HOUR if spans else (self.now - self.last_run) / HOUR if self.last_run is not None else None
        return {
            "fingerprint": key,
            "level": one.level,
            "sample": one.sample,
            "paths": sorted(one.paths)[:3],
            "count": one.count,
            "per_hour": None if hours is None else round(one.count / max(1.0, hours), 1),
            "first_seen": min(one.first, before.get("first", one.first)),
            "last_seen": max(one.last, before.get("last", one.last)),
            "new": key not in self.known,
        }

    def _see_times(self, path: str, data: bytes) -> None:
        """Add up the time that a file's lines span: steps forward alone, and none longer than a day."""
        start = data.rfind(b"\n", 0, len(data) - 1) + 1
        for line in (data[:200], data[start : start + 200]):
            at = time_of(line.decode("ascii", "replace"))
            if at is None or not self.now - 10 * YEAR < at <= self.now + AHEAD_SECONDS:
                continue
            last, span = self._spans.get(path, (at, 0.0))
            self._spans[path] = (at, span + min(max(0.0, at - last), DAY))

    def _count_lines(self, path: str, data: bytes, places: list[int], *, more: bool) -> None:
        """Count the lines in which the places are; what a traceback says belongs to the line before it."""
        done = 0
        for place in places:
            if place < done:
                continue
            start = data.rfind(b"\n", 0, place) + 1
            end = data.find(b"\n", place)
            end = len(data) if end < 0 else end
            trace = data[start:end].lstrip().startswith(b"Traceback (most recent")
            at = start if trace else end + 1
            last, stop = _traceback(data, at)
            if stop < 0 and more and len(data) - start < TRACEBACK_BYTES:
                self._pending[path] = data[start:]
                return
            done = max(end, stop) if stop >= 0 else len(data)  # all that is left goes on with it
            found = Error("ERROR", "", last or "Traceback", None) if trace else error_of(data[start:end])
            if found is not None:
                message = f"{found.message}: {last}" if last and not trace else found.message
                self._count(path, Error(found.level, found.source, message, found.at))

    def _count(self, path: str, error: Error) -> None:
        name = (error.level, error.source, error.message)
        if name not in self._cache:
            masked = redact(error.message[:LINE_BYTES].encode("utf-8", "replace"))[0].decode("utf-8", "replace")
            told = f"{error.level}\n{error.source}\n{fingerprint(masked)}".encode("utf-8", "replace")
            if len(self._cache) > MOST_CACHED:
                self._cache.clear()
            self._cache[name] = (hashlib.sha256(told).hexdigest()[:12], _sample(masked))
        key, sample = self._cache[name]
        at = (
            error.at
            if error.at is not None and self.now - 10 * YEAR < error.at <= self.now + AHEAD_SECONDS
            else self.now
        )
        at = min(at, self.now)
        one = self.counted.get(key)
        if one is None:
            if len(self.counted) >= MOST_KEPT:
                self._forget_one()
            one = self.counted[key] = _Counted(sample, error.level, at, at)
        one.count += 1
        one.first, one.last = min(one.first, at), max(one.last, at)
        one.paths.add(path)

    def _forget_one(self) -> None:
        del self.counted[min(self.counted, key=lambda key: (self.counted[key].count, self.counted[key].last))]


def _sample(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:SAMPLE_LENGTH]


_GOES_ON = (b"During handling of", b"The above exception", b"Traceback (most recent")


def _traceback(data: bytes, at: int) -> tuple[str, int]:
    """Return the last line of a traceback that begins at a place, and where it ends.

    ("", 0) where none begins there, and an end of -1 where it goes on after the data.
    """
    if not data[at : at + 200].lstrip().startswith(b"Traceback (most recent"):
        return "", 0
    last, stop = "", -1
    for start, end in _lines(data, at):
        line = data[start:end]
        if not line.strip() or line[:1] in b" \t|" or line.startswith(_GOES_ON):
            continue
        if stop >= 0 and not _chained(data, stop):
            break
        last, stop = line[:1000].decode("utf-8", "replace"), end
    return last, stop


def _chained(data: bytes, place: int) -> bool:
    """Return whether after an exception's line another traceback says what came of it."""
    return data[place : place + 200].lstrip().startswith(_GOES_ON[:2])


def _lines(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    while at < len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        yield at, end
        at = end + 1
