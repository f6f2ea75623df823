# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is wrong with an inventory's tracker_contacts and tracker_escalation.

Addresses are secrets: the rules are about names and keys alone, and no fault shows what may be an address.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

from ansible.module_utils.runbook_result import SEVERITIES

CATEGORIES = ("incident", "maintenance", "troubleshooting", "tool")
CONTACT_KEYS = ("title", "url")
RUNG_KEYS = ("to", "after_minutes", "severities", "categories", "labels", "why")
_SHOWN = 60  # characters of a wrong value in a message


def faults(contacts: Any, rungs: Any) -> list[str]:
    """Given the keys of each contact by its name (None: it is no mapping) and the rungs, return what is wrong with them."""
    found = _contacts(contacts)
    if not isinstance(rungs, list):
        return [*found, f"tracker_escalation is {_shown(rungs)}, no list of rungs"]
    names = list(contacts) if isinstance(contacts, dict) else []
    for number, rung in enumerate(rungs):
        found += _rung(rung, f"tracker_escalation[{number}]", names)
    return found


def _contacts(contacts: Any) -> list[str]:
    if not isinstance(contacts, dict):
        return ["tracker_contacts is no mapping of a name to its title and url"]
    found = []
    for name, keys in contacts.items():
        if keys is None:
            found.append(f"tracker_contacts.{name} is no mapping of title and url")
        else:
            found += _unknown(keys, CONTACT_KEYS, f"tracker_contacts.{name}")
    return found


def _rung(rung: Any, place: str, names: list[str]) -> list[str]:
    if not isinstance(rung, dict):
        return [f"{place} is {_shown(rung)}, no mapping"]
    found = _unknown(rung, RUNG_KEYS, place) + _told(rung.get("to"), f"{place}.to", names)
    after = rung.get("after_minutes", 0)
    number = isinstance(after, (int, float)) and not isinstance(after, bool)
    if not number or not math.isfinite(after) or after < 0:
        found.append(f"{place}.after_minutes is {_shown(after)}, no number of minutes from 0 on")
    for key, known in (("severities", SEVERITIES), ("categories", CATEGORIES)):
        found += _words(rung.get(key, []), known, f"{place}.{key}")
    if not isinstance(rung.get("why", ""), str):
        found.append(f"{place}.why is {_shown(rung['why'])}, no text")
    return found + _labels(rung.get("labels", {}), f"{place}.labels")


def _told(to: Any, place: str, names: list[str]) -> list[str]:
    if not to:
        return [f"{place} names nobody"]
    wanted = [to] if isinstance(to, str) else to
    if not isinstance(wanted, list):
        return [f"{place} is {_shown(to)}, neither the name of a contact nor a list of them"]
    known = f"tracker_contacts has {', '.join(map(str, names)) or 'nobody'}"
    return [
        f"{place} names {_shown(name)}, which is no contact{_nearest(name, names)}; {known}"
        for name in wanted
        if name not in names
    ]


def _words(words: Any, known: tuple[str, ...], place: str) -> list[str]:
    if not isinstance(words, list):
        return [f"{place} is {_shown(words)}, no list"]
    return [
        f"{place} has {_shown(word)}, which is none of {', '.join(known)}{_nearest(word, known)}"
        for word in words
        if word not in known
    ]


def _labels(labels: Any, place: str) -> list[str]:
    if not isinstance(labels, dict):
        return [f"{place} is {_shown(labels)}, no mapping of a label to its values"]
    found = []
    for name, wanted in labels.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        found += [f"{place}.{name} has {_shown(value)}, no text" for value in values if not isinstance(value, str)]
    return found


def _unknown(keys: Iterable[Any], known: tuple[str, ...], place: str) -> list[str]:
    return [
        f"{place} has the unknown key {_shown(key)}{_nearest(key, known)}; known are {', '.join(known)}"
        for key in keys
        if key not in known
    ]


def _nearest(word: Any, known: Iterable[Any]) -> str:
    near = difflib.get_close_matches(str(word), [str(one) for one in known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _shown(value: Any) -> str:
    """Return a value for a message; where an address stands in the wrong place, nothing of it."""
    text = json.dumps(value, default=str)
    if "://" in text:
        return "what looks like an address"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
