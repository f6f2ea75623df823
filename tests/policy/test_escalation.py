"""Who is told: the inventories' policies hold, fit the people there are, and do what their page says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ansible.module_utils.runbook_policy import faults
from runbook.catalog import Runbook
from runbook.escalation import Policy, matching, policy_of
from runbook.record import AlertRef, Finding, Record, Source
from support.repository import ROOT, load

INVENTORIES = sorted(path for path in (ROOT / "inventories").iterdir() if path.is_dir())
EXAMPLE = ROOT / "inventories" / "example" / "group_vars" / "all"
PAGE = (ROOT / "docs" / "escalation.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


def people(folder: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((folder / "group_vars" / "all").glob("*.yml")):
        found |= {
            key: value for key, value in (load(path) or {}).items() if key in ("tracker_contacts", "tracker_escalation")
        }
    return found


def shape(contacts: dict[str, Any]) -> dict[str, list[str]]:
    return {name: list(contact) for name, contact in contacts.items()}


@pytest.fixture(scope="module")
def policy() -> Policy:
    mine = people(EXAMPLE.parents[1])
    return policy_of(mine["tracker_contacts"], mine["tracker_escalation"])


@pytest.mark.parametrize("folder", INVENTORIES, ids=lambda path: path.name)
def test_a_policy_holds_and_names_contacts_that_are_there(folder: Any) -> None:
    mine = people(folder)
    assert set(mine) == {"tracker_contacts", "tracker_escalation"}, "an inventory says who is told, or that nobody is"
    assert faults(shape(mine["tracker_contacts"]), mine["tracker_escalation"]) == []


def test_the_example_tells_everybody_there_is_by_an_address_from_the_vault(policy: Policy) -> None:
    vault = yaml.safe_load((EXAMPLE / "vault.yml.example").read_text())
    told = {name for rung in policy.rungs for name in rung.names}
    assert told == set(policy.contacts) == {"oncall", "infrastructure", "security", "finance", "management"}
    for name, contact in policy.contacts.items():
        assert contact.url == f"{{{{ vault_contact_{name} }}}}" and contact.title
        assert f"vault_contact_{name}" in vault, f"vault.yml.example does not say what the address of {name} looks like"


def test_the_addresses_of_the_example_are_of_services_that_are_known() -> None:
    from apprise import Apprise  # noqa: PLC0415  it takes half a second
    from runbook.notifiers import register  # noqa: PLC0415  likewise

    register()
    vault = yaml.safe_load((EXAMPLE / "vault.yml.example").read_text())
    addresses = {name: url for name, url in vault.items() if name.startswith("vault_contact_")}
    assert addresses and [name for name, url in addresses.items() if Apprise.instantiate(url) is None] == []


# The page


def test_what_the_page_shows_holds() -> None:
    shown = {key: value for block in BLOCKS for key, value in block.items()}
    assert faults(shape(shown["tracker_contacts"]), shown["tracker_escalation"]) == []
    assert set(shown["tracker_escalation"][0]) == {"to", "after_minutes", "severities", "categories", "labels", "why"}


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]


def test_the_worked_example_is_what_the_example_does(policy: Policy) -> None:
    lines = PAGE[PAGE.index("| Since it began |") :].splitlines()
    heads, rows = _cells(lines[0]), [_cells(line) for line in lines[2:5]]
    assert [re.sub(r"\W.*", "", head) for head in heads[1:]] == [
        "ServiceDown", "BudgetThresholdExceeded", "SuspiciousRequestPattern", "critical",
    ]  # fmt: skip
    alerts = [
        {"severity": "critical", "team": "sre", "category": "availability"},
        {"severity": "critical", "team": "ml-ops", "category": "budget"},
        {"severity": "warning", "team": "security", "category": "abuse"},
        None,
    ]
    for column, labels in enumerate(alerts, 1):
        book = Runbook("x", "x", "X", "incident" if labels else "maintenance")
        severity: Any = labels["severity"] if labels else "critical"
        record = Record("x", "X", Source("/x"), findings=[Finding(severity=severity)])
        record.alerts = [AlertRef("A", labels=labels)] if labels else []
        told: set[str] = set()
        for row in rows:
            minutes = int(row[0].split()[0])
            due = [
                name for rung in matching(policy, record, book) if rung.after_minutes <= minutes for name in rung.names
            ]
            fresh = [name for name in dict.fromkeys(due) if name not in told]
            told |= set(fresh)
            assert fresh == [name for name in row[column].split(", ") if name], (heads[column], row[0])
