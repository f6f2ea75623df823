# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""An authority's renewal information (RFC 9773): when it wants a certificate to be renewed.

It is a hint: whatever goes wrong here is told, and the lifetime decides.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import ipaddress
import json
import re
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.certificates_renewal import Window
from ansible.module_utils.runbook_state import StateError, read_json, write_json

LIMIT_BYTES = 1 << 18
RETRY_LEAST, RETRY_MOST, RETRY_DEFAULT = 60.0, 86400.0, 21600.0
FORGET_SECONDS = 60 * 86400.0
# RFC 8555 section 6.1 demands one.
USER_AGENT = "certificate-management/1 (runbook)"
TIME = r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)"


class AriError(Exception):
    """Renewal information cannot be had; the text says why. Never a reason to stop."""


@dataclass(frozen=True)
class Reply:
    """What a server answered: its headers' names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def cert_id(aki: bytes, serial: int) -> str:
    """Return a certificate's name in renewal information, from its authority key identifier and its serial number.

    Raise AriError for a certificate without such an identifier.
    """
    if not aki:
        raise AriError("the certificate has no authority key identifier, by which its authority would know it")
    length = (serial if serial >= 0 else ~serial).bit_length() // 8 + 1
    return f"{base64url(aki)}.{base64url(serial.to_bytes(length, 'big', signed=True))}"


def base64url(data: bytes) -> str:
    """Return data as base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def directory(url: str, ca_file: str | None, limit_seconds: float) -> dict[str, Any]:
    """Return an authority's directory. `ca_file` is trusted instead of the host's roots. Raise AriError."""
    return _object(_good(exchange(url, ca_file, limit_seconds), url), url)


def window(
    found: Mapping[str, Any], aki: bytes, serial: int, ca_file: str | None, limit_seconds: float, now: float
) -> Window | None:
    """Return when the authority with the directory `found` wants a certificate renewed; None where it does not say.

    Raise AriError where it should and does not.
    """
    base = found.get("renewalInfo")
    if not isinstance(base, str) or not base:
        return None
    url = f"{base.rstrip('/')}/{cert_id(aki, serial)}"
    reply = _good(exchange(url, ca_file, limit_seconds), url)
    told = _object(reply, url)
    suggested = told.get("suggestedWindow")
    suggested = suggested if isinstance(suggested, dict) else {}
    start, end = seconds_of(suggested.get("start")), seconds_of(suggested.get("end"))
    if start is None or end is None or end <= start:
        raise AriError(f"{url} gives no window: {json.dumps(suggested)[:200]}")
    about = told.get("explanationURL")
    return Window(start, end, about[:500] if isinstance(about, str) else "", retry_after(reply.headers.get("retry-after"), now))


def retry_after(text: str | None, now: float) -> float:
    """Return after how many seconds to ask again (a minute to a day), from a Retry-After header in either of its forms."""
    seconds = RETRY_DEFAULT
    if text and re.fullmatch(r"\s*[0-9]+\s*", text):
        seconds = float(text)
    elif text:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (TypeError, ValueError, IndexError, OverflowError):
            seconds = RETRY_DEFAULT
    return min(max(seconds, RETRY_LEAST), RETRY_MOST)


def seconds_of(text: Any) -> float | None:
    """Return a time in RFC 3339 as seconds since the epoch, None where it is none."""
    found = re.fullmatch(TIME, text) if isinstance(text, str) else None
    if found is None:
        return None
    day, clock, part, zone = found.groups()
    try:
        base = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=timezone.utc)
        if zone not in "Zz":
            offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
            base -= offset if zone[0] == "+" else -offset
        return base.timestamp() + float(part or 0)
    except (ValueError, OverflowError):
        return None


class Cache:
    """What authorities said, in a JSON file on the host: none is asked again before it said so."""

    def __init__(self, path: Path, write: bool = True) -> None:
        self.path, self.write = path, write

    def window(self, key: str, now: float, ask: Callable[[], Window | None]) -> tuple[Window | None, str]:
        """Return the window that is known for `key`, asking where it is time to, and what went wrong ("": nothing).

        Where asking fails, what was said before still counts.
        """
        trouble = ""
        try:
            known = read_json(self.path, {})
        except StateError as error:
            known, trouble = {}, str(error)
        known = {name: row for name, row in known.items() if isinstance(row, dict)} if isinstance(known, dict) else {}
        old = _remembered(known.get(key))
        if old is not None and old[0] <= now < old[0] + min(max(old[1].retry_after_seconds, RETRY_LEAST), RETRY_MOST):
            return old[1], trouble
        try:
            found = ask()
        except AriError as error:
            return (old[1] if old is not None else None), str(error)
        if found is not None and self.write and not trouble:  # a damaged file is for a person to look at
            known[key] = {"asked": now, **asdict(found)}
            kept = {name: row for name, row in known.items() if _asked(row) > now - FORGET_SECONDS}
            try:
                write_json(self.path, kept)
            except StateError as error:
                trouble = str(error)
        return found, trouble


def renewal_window(
    url: str, aki: bytes, serial: int, ca_file: str | None, cache: Cache, now: float, limit_seconds: float = 10.0
) -> tuple[Window | None, str]:
    """Return when the authority whose directory is at `url` wants a certificate renewed, and what went wrong ("": nothing).

    It is contacted only where the cache has no answer that is still good.
    """
    try:
        key = f"{url} {cert_id(aki, serial)}"
    except AriError as error:
        return None, str(error)
    return cache.window(
        key, now, lambda: window(directory(url, ca_file, limit_seconds), aki, serial, ca_file, limit_seconds, now)
    )


def _remembered(row: Any) -> tuple[float, Window] | None:
    try:
        numbers = [float(row[name]) for name in ("asked", "start", "end", "retry_after_seconds")]
        return numbers[0], Window(numbers[1], numbers[2], str(row["explanation"]), numbers[3])
    except (TypeError, KeyError, ValueError):
        return None


def _asked(row: Mapping[str, Any]) -> float:
    old = _remembered(row)
    return old[0] if old else 0.0


def exchange(
    url: str,
    ca_file: str | None,
    limit_seconds: float,
    *,
    method: str = "GET",
    body: bytes | None = None,
    content_type: str = "",
) -> Reply:
    """Ask a server and return what it answers, whatever its status, within `limit_seconds` in all.

    Raise AriError where it cannot be reached, is not to be trusted, says too much or takes too long.
    """
    check_address(url)
    done: list[Reply | Exception] = []

    def ask() -> None:
        try:
            done.append(_ask(url, ca_file, limit_seconds, method, body, content_type))
        except (OSError, http.client.HTTPException, ValueError) as error:
            done.append(error)

    # Resolving a name has no time limit of its own, nor has a server that sends a byte now and then.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_seconds)
    if not done:
        raise AriError(f"{url} took longer than {limit_seconds:g} s")
    told = done[0]
    if isinstance(told, Exception):
        reason = getattr(told, "reason", None) or told
        raise AriError(f"{url} cannot be read: {reason}") from told
    return told


def check_address(url: str) -> None:
    """Raise AriError unless an address is https, or http to this machine itself."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise AriError(f"{url!r} is no address: {error}") from error
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and (host == "localhost" or _loopback(host)):
        return
    raise AriError(f"{url!r} is no https address; an authority's directory is https://...")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Careful(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            check_address(newurl)
        except AriError as error:
            raise urllib.error.URLError(f"it points elsewhere: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _ask(url: str, ca_file: str | None, limit: float, method: str, body: bytes | None, content_type: str) -> Reply:
    context = ssl.create_default_context(cafile=ca_file or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _Careful())
    headers = {"User-Agent": USER_AGENT, **({"Content-Type": content_type} if content_type else {})}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310  check_address saw it
    try:
        with opener.open(request, timeout=limit) as answer:
            return _reply(answer.status, answer.headers, answer)
    except urllib.error.HTTPError as error:
        with error:
            return _reply(error.code, error.headers, error)


def _reply(status: int, headers: Any, stream: Any) -> Reply:
    data = stream.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"it sends more than {LIMIT_BYTES} bytes")
    return Reply(status, {name.lower(): value for name, value in headers.items()}, data)


def _good(reply: Reply, url: str) -> Reply:
    if reply.status != 200:
        raise AriError(f"{url} answers {reply.status}: {reply.body[:200].decode('utf-8', 'replace')}")
    return reply


def _object(reply: Reply, url: str) -> dict[str, Any]:
    try:
        told = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise AriError(f"{url} answers no JSON: {reply.body[:80]!r}") from error
    if not isinstance(told, dict):
        raise AriError(f"{url} answers no JSON object: {reply.body[:80]!r}")
    return told
