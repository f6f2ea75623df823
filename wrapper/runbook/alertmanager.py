"""Asks an Alertmanager, by its API v2, with a time limit and without following it elsewhere."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import time
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from runbook.alerts import MAX_BYTES, Alert, clean, parse
from runbook.errors import BadInput, ExitCode, RunbookError
from runbook.redact import shared

ASK_SECONDS = 10.0
VARIABLE = "RUNBOOK_ALERTMANAGER"
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class AskError(RunbookError):
    """An Alertmanager that was asked does not answer."""

    code = ExitCode.UNREACHABLE


class Declined(AskError):
    """It answers, but not with success."""


@dataclass(frozen=True)
class Matcher:
    """Fits alerts whose label has one of the values."""

    name: str
    values: tuple[str, ...]

    @property
    def is_regex(self) -> bool:
        return len(self.values) > 1

    @property
    def value(self) -> str:
        return "|".join(map(re.escape, self.values)) if self.is_regex else self.values[0]

    def __str__(self) -> str:
        """Return it as Alertmanager's filters are written."""
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{"=~" if self.is_regex else "="}"{value}"'

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "isRegex": self.is_regex, "isEqual": True}


class Alertmanager:
    """Raises BadInput when the address or the answer is none, AskError when there is no good answer.

    A user and password in the address are sent as basic authentication, and shown nowhere.
    """

    def __init__(self, address: str) -> None:
        split = _split(address)
        host = split.netloc.rpartition("@")[2]
        self.address = split._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
        self.shown = clean(self.address, 200)
        self._headers = {"Content-Type": "application/json"}
        if split.username is not None:
            user, password = (urllib.parse.unquote(part or "") for part in (split.username, split.password))
            shared().learn(password)
            if split.scheme != "https" and not is_loopback(split.hostname or ""):
                raise BadInput(f"A password would go to {self.shown} in clear.", "Give an address with https.")
            self._headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the time of its clock, as of its last answer: what it is told in times, it reads by that clock."""
        return datetime.now(UTC) + self._ahead

    def alerts(self, *filters: str, **wanted: bool) -> list[Alert]:
        """Return the alerts that it lists; `wanted` are its own active, silenced and inhibited."""
        query = [(name, str(value).lower()) for name, value in wanted.items()]
        query += [("filter", text) for text in filters]
        body = self._ask("GET", "/api/v2/alerts", query)
        try:
            return list(parse(body).alerts)
        except BadInput as error:
            raise self._odd(str(error)) from error

    def silence(self, matchers: list[Matcher], seconds: float, created_by: str, comment: str) -> str:
        """Open a silence for so long from now on, and return its id."""
        starts = self.now()
        answer = self._ask("POST", "/api/v2/silences", body={
            "matchers": [matcher.document() for matcher in matchers], "createdBy": created_by, "comment": comment,
            "startsAt": starts.isoformat(), "endsAt": (starts + timedelta(seconds=seconds)).isoformat(),
        })  # fmt: skip
        try:
            name = json.loads(answer)["silenceID"]
        except (ValueError, TypeError, KeyError) as error:
            raise self._odd("there is no silenceID in it") from error
        if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z-]{1,64}", name):
            raise self._odd("its silenceID is none")
        return name

    def expire(self, name: str) -> None:
        """End a silence; one that a person ended before is no fault."""
        try:
            self._ask("DELETE", f"/api/v2/silence/{name}")
        except Declined:
            if not self._ended(name):
                raise

    def _ended(self, name: str) -> bool:
        with suppress(AskError, ValueError, TypeError, KeyError):
            return bool(json.loads(self._ask("GET", f"/api/v2/silence/{name}"))["status"]["state"] == "expired")
        return False

    def page(self, name: str) -> str:
        """Return where a person sees a silence."""
        return f"{self.address}/#/silences/{name}"

    def _odd(self, why: str) -> BadInput:
        return BadInput(f"The Alertmanager {self.shown} answers with something else: {why}", "Check the address.")

    def _ask(self, method: str, path: str, query: list[tuple[str, str]] | None = None, body: Any = None) -> bytes:
        import http.client  # noqa: PLC0415  slow to import, and only this function needs it
        import urllib.error  # noqa: PLC0415  for the same reason
        import urllib.request  # noqa: PLC0415  for the same reason

        class Stay(urllib.request.HTTPRedirectHandler):
            """Whoever redirects must not get the credentials, nor make a read of a write."""

            def redirect_request(self, *_: Any, **__: Any) -> None:
                return None

        url = self.address + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self._headers, method=method)  # noqa: S310  http and https only
        try:
            with urllib.request.build_opener(Stay).open(request, timeout=ASK_SECONDS) as answer:
                said = _read_within(answer, time.monotonic() + ASK_SECONDS)
                self._note_clock(answer.headers.get("Date"))
                return said
        except urllib.error.HTTPError as error:
            raise Declined(
                f"The Alertmanager {self.shown} answers with {error.code}{_reason(error)}.", "Check the address."
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = clean(str(getattr(error, "reason", "") or error or type(error).__name__), 200)
            raise AskError(
                f"The Alertmanager {self.shown} does not answer: {why}", "Check address and network."
            ) from error

    def _note_clock(self, date: str | None) -> None:
        from email.utils import parsedate_to_datetime  # noqa: PLC0415  for the same reason

        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if told.tzinfo is not None:
            self._ahead = told - datetime.now(UTC)


def _split(address: str) -> urllib.parse.SplitResult:
    with suppress(ValueError):
        split = urllib.parse.urlsplit(address)
        if re.fullmatch(r"https?://[!-~]+", address) and split.hostname and split.port != 0:
            return split
    shown = "What was given" if "@" in address else repr(clean(address, 200))
    raise BadInput(f"{shown} is no address of an Alertmanager.", "Give one such as http://localhost:9093.")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read_within(answer: Any, deadline: float) -> bytes:
    """The time limit of a socket starts again with every byte; this one does not."""
    parts: list[bytes] = []
    size = 0
    while size <= MAX_BYTES and (part := answer.read1(2**16)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise OSError(f"it took more than {ASK_SECONDS:g} s")
    return b"".join(parts)


def _reason(error: Any) -> str:
    """Return what it says about a wrong request, as the end of a sentence."""
    try:
        told = clean(error.read1(2000).decode(errors="replace").strip().strip('"'), 200)
    except (OSError, ValueError, AttributeError):
        return ""
    return f": {told}" if told and not told.startswith("<") else ""


def firing(address: str) -> list[Alert]:
    """Given the address of an Alertmanager, return the alerts that fire and nobody silenced."""
    return Alertmanager(address).alerts(active=True, silenced=False, inhibited=False)
