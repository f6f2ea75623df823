"""A policy that names what is not there, by its rules, in a play, and as the wrapper reads it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from ansible.module_utils import runbook_policy as policy
from runbook.catalog import Severity
from runbook.errors import RunbookError
from runbook.escalation import Category, Contact, Policy, Rung, policy_of
from runbook.schema import SchemaError, build

ROOT = Path(__file__).resolve().parents[2]
CONTACTS = {"oncall": ["title", "url"], "boss": ["url"]}
CANARY = "pagerdutyevents://policycanary0001@127.0.0.1/"
GOOD: list[dict[str, Any]] = [
    {"to": "oncall"},
    {"to": ["oncall", "boss"], "after_minutes": 0.5, "severities": ["critical", "info"], "categories": ["incident"],
     "labels": {"team": "sre", "category": ["cost", "budget"]}, "why": "It persists"},
]  # fmt: skip
BAD: dict[str, tuple[Any, str]] = {
    "contact": ({"to": "oncal"}, 'to names "oncal", which is no contact (did you mean oncall?); tracker_contacts has oncall, boss'),
    "one of several": ({"to": ["boss", "nobody"]}, 'to names "nobody"'),
    "nobody": ({"to": []}, "to names nobody"),
    "no to": ({"after_minutes": 5}, "to names nobody"),
    "a number": ({"to": 5}, "to is 5, neither"),
    "a list in a list": ({"to": [["boss"]]}, 'names ["boss"], which is no contact'),
    "severity": ({"to": "boss", "severities": ["criticl"]}, '"criticl", which is none of info, warning, critical (did you mean critical?)'),
    "severities as text": ({"to": "boss", "severities": "critical"}, 'severities is "critical", no list'),
    "category": ({"to": "boss", "categories": ["incidents"]}, 'categories has "incidents"'),
    "before it began": ({"to": "boss", "after_minutes": -1}, "after_minutes is -1, no number"),
    "minutes as text": ({"to": "boss", "after_minutes": "30"}, 'after_minutes is "30", no number'),
    "minutes as a truth": ({"to": "boss", "after_minutes": True}, "after_minutes is true, no number"),
    "no minutes": ({"to": "boss", "after_minutes": None}, "after_minutes is null, no number"),
    "never": ({"to": "boss", "after_minutes": float("inf")}, "after_minutes is Infinity, no number"),
    "not a number": ({"to": "boss", "after_minutes": float("nan")}, "after_minutes is NaN, no number"),
    "key": ({"to": "boss", "after": 5}, 'the unknown key "after"'),
    "labels": ({"to": "boss", "labels": ["team"]}, 'labels is ["team"], no mapping'),
    "a label": ({"to": "boss", "labels": {"priority": 1}}, "labels.priority has 1, no text"),
    "why": ({"to": "boss", "why": 3}, "why is 3, no text"),
    "no rung": ("boss", 'tracker_escalation[1] is "boss", no mapping'),
}  # fmt: skip


def test_a_policy_that_holds_has_no_faults() -> None:
    assert policy.faults(CONTACTS, GOOD) == []
    assert policy.faults({}, []) == []


@pytest.mark.parametrize("what", BAD)
def test_a_fault_is_named_with_its_place_and_what_was_seen(what: str) -> None:
    rung, told = BAD[what]
    (fault,) = policy.faults(CONTACTS, [GOOD[0], rung])
    assert fault.startswith("tracker_escalation[1]") and told in fault


@pytest.mark.parametrize("what", BAD)
def test_the_wrapper_refuses_the_same(what: str) -> None:
    contacts = {name: Contact(name, "fake://x") for name in CONTACTS}
    build(Policy, {"contacts": _plain(contacts), "rungs": GOOD})
    with pytest.raises(SchemaError):
        build(Policy, {"contacts": _plain(contacts), "rungs": [GOOD[0], BAD[what][0]]})


def _plain(contacts: dict[str, Contact]) -> dict[str, Any]:
    return {name: vars(contact) for name, contact in contacts.items()}


def test_both_know_the_same_words() -> None:
    assert set(policy.CATEGORIES) == set(get_args(Category)) and set(policy.SEVERITIES) == set(get_args(Severity))
    assert tuple(Rung.__dataclass_fields__) == policy.RUNG_KEYS
    assert tuple(Contact.__dataclass_fields__) == policy.CONTACT_KEYS


@pytest.mark.parametrize(
    ("contacts", "rungs", "told"),
    [
        (None, [], "tracker_contacts is no mapping"),
        (["oncall"], [], "tracker_contacts is no mapping"),
        ({"oncall": None}, [], "tracker_contacts.oncall is no mapping"),
        ({"oncall": ["titel"]}, [], 'has the unknown key "titel" (did you mean title?)'),
        ({}, {"to": "x"}, 'tracker_escalation is {"to": "x"}, no list'),
        ({}, [{"to": "oncall"}], "tracker_contacts has nobody"),
    ],
)
def test_the_whole_of_it_has_its_shape(contacts: Any, rungs: Any, told: str) -> None:
    (fault,) = policy.faults(contacts, rungs)
    assert told in fault


def test_all_faults_are_told_at_once() -> None:
    assert len(policy.faults({"oncall": None}, [{"to": "x", "after_minutes": -1}, 5])) == 4


@pytest.mark.parametrize(
    "rung", [{"to": CANARY}, {"to": [CANARY]}, CANARY, {CANARY: 1, "to": "boss"}, {"to": "boss", "labels": CANARY}]
)
def test_an_address_in_the_wrong_place_is_not_shown(rung: Any) -> None:
    told = policy.faults(CONTACTS, [rung])
    assert told and "canary" not in str(told)
    with pytest.raises(RunbookError) as caught:
        policy_of({"boss": {}}, [rung])
    assert "canary" not in str(caught.value)


# In a play


class Opened:
    """What a play of `runbook_open` did with an inventory's variables."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.state, self.seen = folder / "state", folder / "decrypted"
        host = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        secret = "{{ lookup('ansible.builtin.pipe', 'touch " + str(self.seen) + "; echo " + CANARY + "') }}"
        everywhere = json.loads(json.dumps(variables).replace('"SECRET"', json.dumps(secret)))
        (folder / "hosts.json").write_text(json.dumps({"all": {"vars": everywhere, "hosts": {"here": host}}}))
        task = {"runbook_open": {"state_dir": str(self.state), "slug": "a-book", "leases": ["r:one"]}}
        (folder / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
        command = ["ansible-playbook", "-i", str(folder / "hosts.json"), str(folder / "play.json")]
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        self.code, self.said = done.returncode, done.stdout + done.stderr


def test_a_run_opens_without_reading_an_address(tmp_path: Path) -> None:
    opened = Opened(
        tmp_path, vault={"oncall": {"url": "SECRET", "title": "{{ nobody_set_this }}"}}, tracker_contacts="{{ vault }}",
        minutes=30, tracker_escalation=[{"to": "oncall", "after_minutes": "{{ minutes }}"}],
    )  # fmt: skip
    assert opened.code == 0, opened.said
    assert opened.state.exists() and not opened.seen.exists()


def test_a_run_opens_without_a_policy(tmp_path: Path) -> None:
    assert Opened(tmp_path).code == 0


@pytest.mark.parametrize(
    ("contacts", "told"),
    [
        ({"boss": {"url": "SECRET"}}, "which is no contact"),
        ({"oncall": "SECRET"}, "tracker_contacts.oncall is no mapping"),
        (["SECRET"], "tracker_contacts is no mapping"),
        ("{{ nobody_set_this }}", "nobody_set_this"),
        ("{{ ('oncall: [' ~ CANARY) | from_yaml }}".replace("CANARY", repr(CANARY)), "cannot be read"),
    ],
)  # fmt: skip
def test_a_run_is_refused_before_anything_is_touched(tmp_path: Path, contacts: Any, told: str) -> None:
    opened = Opened(tmp_path, tracker_contacts=contacts, tracker_escalation=[{"to": "oncall"}])
    assert opened.code == 2 and told in opened.said, opened.said
    assert "policycanary" not in opened.said
    assert not opened.state.exists()
