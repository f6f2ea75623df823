"""Reads alerts as Alertmanager sends them (webhook version 4) or lists them (API v2). Nothing in them is trusted.

A text comes out as one line of at most so many characters, without control sequences, invisible characters or lone
surrogates; anything else that is not as it should be is refused, with its place and what to do.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runbook.errors import BadInput
from runbook.redact import strip_control

if TYPE_CHECKING:
    from runbook.record import AlertRef

MAX_BYTES = 8 * 2**20
MAX_ALERTS = 1000  # in one body; a group of more is told by `truncatedAlerts` and max_alerts of Alertmanager's receiver
MAX_LABELS = 64
MAX_NAME = 128  # characters of an alert's or a label's name
MAX_LABEL = 1024  # characters of a label's value; a longer one is cut
MAX_ANNOTATION = 4096  # likewise
_SHOWN = 60  # characters of a wrong value in a message
_STATES = {"active": "firing", "unprocessed": "firing", "suppressed": "suppressed"}
_DO = "Give a body as Alertmanager's webhook sends it, or what its /api/v2/alerts answers."


@dataclass(frozen=True)
class Alert:
    """One alert. `starts_at` and `ends_at` are UTC, ISO 8601; `ends_at` is empty while nobody knows."""

    name: str
    status: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: str = ""
    ends_at: str = ""
    fingerprint: str = ""
    generator_url: str = ""

    @property
    def firing(self) -> bool:
        return self.status == "firing"

    @property
    def key(self) -> str:
        """What two deliveries of the same incident have in common."""
        return f"{self.fingerprint}@{self.starts_at}"

    def ref(self) -> AlertRef:
        from runbook.record import AlertRef  # noqa: PLC0415  the record is not needed to read an alert

        return AlertRef(self.name, self.fingerprint, self.starts_at, dict(self.labels), dict(self.annotations))

    def body(self) -> dict[str, Any]:
        """Return it as an entry of a webhook body, which `parse` reads again to the same alert."""
        return {
            "status": self.status, "labels": self.labels, "annotations": self.annotations, "startsAt": self.starts_at,
            "endsAt": self.ends_at, "fingerprint": self.fingerprint, "generatorURL": self.generator_url,
        }  # fmt: skip


@dataclass(frozen=True)
class Payload:
    """What one body held. `left_out` is how many alerts Alertmanager says it cut off."""

    alerts: tuple[Alert, ...]
    left_out: int = 0


def clean(text: str, limit: int) -> str:
    """Given a text from outside, return one line of at most `limit` characters that a terminal shows as it is."""
    cut = strip_control(text[: 4 * limit].replace("\n", " ").replace("\t", " ").replace("\r", " "))
    kept = "".join(" " if unicodedata.category(c) in ("Zl", "Zp") else c for c in cut if _visible(c))
    kept = kept.strip()
    return kept if len(kept) <= limit and len(text) <= 4 * limit else f"{kept[: limit - 1]}…"


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")


def _shown(value: Any) -> str:
    """Given any value, return it as a short text for a message; the size of it costs nothing."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    return json.dumps(clean(value, _SHOWN), ensure_ascii=False) if isinstance(value, str) else str(value)[:_SHOWN]


def _refuse(place: str, what: str, do: str = _DO) -> NoReturn:
    raise BadInput(f"{place} {what}.", do)


def parse(body: bytes) -> Payload:
    """Given a webhook body of version 4, a list of alerts or a single one, return its alerts. Raise BadInput."""
    data = _decode(body)
    if isinstance(data, list):
        return Payload(_alerts(data, "the list", webhook=False))
    if not isinstance(data, dict):
        _refuse("The body", f"is {_shown(data)}, neither a mapping nor a list")
    if "alerts" not in data and "labels" in data and "version" not in data:
        return Payload(_alerts([data], "the body", webhook=False))
    version = data.get("version")
    if version != "4":
        said = f'has version {_shown(version)}; only "4" is understood' if "version" in data else "has no version"
        _refuse("The body", said, "Send Alertmanager's own webhook body, without a custom payload.")
    if data.get("status") not in ("firing", "resolved"):
        _refuse("status", f'is {_shown(data.get("status"))}, neither "firing" nor "resolved"')
    left_out = data.get("truncatedAlerts", 0)
    if not isinstance(left_out, int) or isinstance(left_out, bool) or left_out < 0:
        _refuse("truncatedAlerts", f"is {_shown(left_out)}, no count")
    if not isinstance(data.get("alerts"), list):
        _refuse("alerts", f"is {_shown(data.get('alerts'))}, no list")
    return Payload(_alerts(data["alerts"], "alerts", webhook=True), min(left_out, sys.maxsize))


def _decode(body: bytes) -> Any:
    if len(body) > MAX_BYTES:
        _refuse("The body", f"has {len(body):,} bytes; at most {MAX_BYTES:,} are read", "Send fewer alerts at once.")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        _refuse("The body", f"is not UTF-8, from byte {error.start} on")
    except json.JSONDecodeError as error:
        _refuse("The body", f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}")
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or brackets nested by the thousand.
        _refuse("The body", f"is not JSON that can be read: {clean(str(error), _SHOWN)}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _alerts(items: list[Any], place: str, webhook: bool) -> tuple[Alert, ...]:
    if len(items) > MAX_ALERTS:
        said = f"holds {len(items):,} alerts; at most {MAX_ALERTS:,} are read"
        _refuse(place, said, "Set max_alerts of the receiver, or give fewer.")
    single = place == "the body"
    return tuple(_alert(item, "the alert" if single else f"{place}[{n}]", webhook) for n, item in enumerate(items))


def _alert(item: Any, place: str, webhook: bool) -> Alert:
    if not isinstance(item, dict):
        _refuse(place, f"is {_shown(item)}, no mapping")
    labels = _texts(item.get("labels"), f"{place}.labels", MAX_LABEL)
    if not labels.get("alertname"):
        _refuse(f"{place}.labels", "has no alertname", "Give the alert a name.")
    name = clean(labels["alertname"], MAX_NAME)
    starts_at = _time(item.get("startsAt"), f"{place}.startsAt", required=webhook)
    return Alert(
        name=name,
        status=_status(item.get("status"), f"{place}.status", webhook),
        labels=labels | {"alertname": name},
        annotations=_texts(item.get("annotations") or {}, f"{place}.annotations", MAX_ANNOTATION),
        starts_at=starts_at,
        ends_at=_time(item.get("endsAt"), f"{place}.endsAt"),
        fingerprint=_fingerprint(item.get("fingerprint"), f"{place}.fingerprint", labels, webhook),
        generator_url=_address(item.get("generatorURL"), f"{place}.generatorURL"),
    )


def _status(value: Any, place: str, webhook: bool) -> str:
    """API v2 tells a state in a mapping, a webhook in a word; an alert that a person wrote may tell nothing."""
    if isinstance(value, dict) and not webhook:
        value = value.get("state")
        if not isinstance(value, str) or value not in _STATES:
            _refuse(f"{place}.state", f"is {_shown(value)}, none of {', '.join(_STATES)}")
        return _STATES[value]
    if value is None and not webhook:
        return "firing"
    if value not in ("firing", "resolved"):
        _refuse(place, f'is {_shown(value)}, neither "firing" nor "resolved"')
    return str(value)


def _texts(value: Any, place: str, limit: int) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse(place, f"is {_shown(value)}, no mapping")
    if len(value) > MAX_LABELS:
        _refuse(place, f"holds {len(value):,} entries; at most {MAX_LABELS} are read")
    for key, text in value.items():
        if not key or len(key) > MAX_NAME or clean(key, MAX_NAME) != key:
            _refuse(place, f"has the name {_shown(key)}, which no label has")
        if not isinstance(text, str):
            _refuse(f"{place}.{key}", f"is {_shown(text)}, no text")
    return {key: clean(text, limit) for key, text in value.items()}


def _time(value: Any, place: str, required: bool = False) -> str:
    if value is None or value == "":
        if required:
            _refuse(place, "is missing")
        return ""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        _refuse(place, f"is {_shown(value)}, no time")
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            _refuse(place, f"is {_shown(value)}, a time without a zone")
        # Alertmanager writes a time that is not known as the first day of the year 1.
        return "" if found.year == 1 else found.astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        _refuse(place, f"is {_shown(value)}, no time")


def _fingerprint(value: Any, place: str, labels: Mapping[str, str], webhook: bool) -> str:
    if value is None and not webhook:
        return hashlib.sha256(json.dumps(sorted(labels.items())).encode()).hexdigest()[:16]
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{1,64}", value):
        _refuse(place, f"is {_shown(value)}, no fingerprint" if value is not None else "is missing")
    return value


def _address(value: Any, place: str) -> str:
    if value is not None and not isinstance(value, str):
        _refuse(place, f"is {_shown(value)}, no text")
    return clean(value or "", MAX_ANNOTATION)


def load(place: str) -> list[Alert]:
    """Given a file's path, or `-` for stdin, return its alerts. Raise BadInput."""
    named = "stdin" if place == "-" else place
    try:
        if place == "-":
            body = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(place).expanduser().open("rb") as file:
                body = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(
            f"The alert {clean(named, 200)} cannot be read: {why}.", "Name a file, or - for stdin."
        ) from error
    try:
        return list(parse(body).alerts)
    except BadInput as error:
        raise BadInput(f"No alert in {clean(named, 200)}: {error}", error.remedy) from error
