"""Masks secrets: those we know by value, and those whose shape or name gives them away."""

from __future__ import annotations

import json
import re
import shlex
import urllib.parse
from collections.abc import Mapping
from typing import Any

MASK = "********"
# Shorter values are words; masking them would blank out half of every report.
MIN_LENGTH = 6

_WORD = r"passw(?:or)?d|passphrase|secret|credential|api_?key|private_?key|access_?key|encryption_key"
_NAME = re.compile(rf"(?i)(?:{_WORD}|(?:^|[_-])pass(?:$|[_-])|token(?!s))")
# Names about a secret, or about the tokens of a language model, that hold none.
_HARMLESS = re.compile(
    r"(?i)[_-](?:file|path|dir|url|name|user|enabled|days|hours|seconds|length|count|usage|cost|type|limit|"
    r"encryption|policy|expiry|expires|rotation|id)s?$|^(?:ansible_)?no_log$"
)
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_PRIVATE_KEY = r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
_ISSUED = r"\bsk-[A-Za-z0-9_-]{8,}|\bAKIA[0-9A-Z]{12,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[a-z]-[\w-]{8,}"
_AUTHORIZATION = r"(?i)(\b(?:bearer|basic)\s+)[a-z0-9._~+/=-]{8,}"
# What stands before a name stays, so it is not matched: over a megabyte of letters that would take hours.
_IN_URL = r"(?i)([a-z0-9+.-]://[^/\s:@'\"]*:)(?!\*)[^@\s/'\"]+(?=@)"
_ASSIGNED = (
    rf"(?i)((?:(?:{_WORD})|(?<![a-z0-9])token(?!s))[a-z0-9]{{0,64}}[\"']?\s*[=:]\s*)"
    r"(?!\$|\{\{|\*{4}|(?:null|none|true|false)\b)(?:\"[^\"]*\"|'[^']*'|[^\s\"',;&)}\]]+)"
)
# The first group of a pattern, where it has one, is what stays.
_PATTERNS = [re.compile(pattern) for pattern in (_PRIVATE_KEY, _AUTHORIZATION, _ISSUED, _IN_URL, _ASSIGNED)]


def is_secret_name(name: str) -> bool:
    """Given the name of a variable or key, return whether its value must not be shown."""
    return bool(_NAME.search(name)) and not _HARMLESS.search(name)


class Redactor:
    """Collects secret values while a command runs and masks them in everything that leaves it."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, value: object) -> None:
        """Given a secret, or a list or mapping of them, remember it and the forms it takes when quoted."""
        if isinstance(value, Mapping | list | tuple):
            for item in value.values() if isinstance(value, Mapping) else value:
                self.learn(item)
        elif isinstance(value, str | int) and not isinstance(value, bool):
            text = str(value)
            if len(text) < MIN_LENGTH or "{{" in text or text in self._values or MASK in text:
                return
            for form in (text, json.dumps(text)[1:-1], urllib.parse.quote(text, safe=""), shlex.quote(text)):
                self._values.add(form)
            self._values.update(line for line in text.splitlines() if len(line) >= MIN_LENGTH)
            self._pattern = None

    def learn_named(self, items: Mapping[str, Any]) -> None:
        """Given variables, remember the values whose names look secret."""
        for name, value in items.items():
            if is_secret_name(str(name)):
                self.learn(value)

    def text(self, text: str) -> str:
        """Given text, return it with every secret masked."""
        if self._values:
            if self._pattern is None:
                ordered = sorted(self._values, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, ordered)))
            text = self._pattern.sub(MASK, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{MASK}" if pattern.groups else MASK, text)
        return text

    def clean(self, text: str) -> str:
        """Given text for a terminal, return it masked and without control sequences."""
        return strip_control(self.text(strip_control(text)))

    def data(self, value: Any) -> Any:
        """Given JSON-like data, return a copy with every secret masked, by value and by key."""
        self._learn_keys(value)
        return self._data(value)

    def _learn_keys(self, value: Any) -> None:
        """A secret that is named in one place may be repeated in another, so all are learned first."""
        if isinstance(value, Mapping):
            self.learn_named({key: item for key, item in value.items() if isinstance(item, str)})
        if isinstance(value, Mapping | list | tuple):
            for item in value.values() if isinstance(value, Mapping) else value:
                self._learn_keys(item)

    def _data(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self._data(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        return {
            self.text(str(key)): MASK if item and _holds_secret(str(key), item) else self._data(item)
            for key, item in value.items()
        }


def _holds_secret(key: str, value: Any) -> bool:
    return isinstance(value, str | list) and "{{" not in str(value) and is_secret_name(key)


def strip_control(text: str) -> str:
    """Given text from a host, return it without terminal sequences; newline and tab stay."""
    return _CONTROL.sub("", text)


_shared = Redactor()


def shared() -> Redactor:
    """Return the one redactor of this process, so that no sink can be forgotten."""
    return _shared
