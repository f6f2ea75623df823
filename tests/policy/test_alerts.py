"""Every alert of the tracker leads to one of the eleven runbooks."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from runbook.alerts import Alert
from runbook.catalog import Catalog
from runbook.identify import Router, load_table
from runbook.project import Project
from support.repository import ROOT, load

ALERTS = load(ROOT / "tests" / "policy" / "alerts.yml")
SLUGS = {
    "service-down", "high-cost-alerts", "performance-issues", "security-incidents", "database-maintenance", "log-management",
    "backup-recovery", "certificate-management", "common-issues", "integration-problems", "configuration-errors",
}  # fmt: skip
# How soon the tracker's owners want an answer, where they said so.
MINUTES = {"CriticalDailyCost": 5, "BudgetThresholdExceeded": 10, "BudgetThresholdWarning": 10, "UnexpectedCostSpike": 15,
           "HighDailyCost": 30}  # fmt: skip
CRITICAL = {"CriticalDailyCost", "BudgetThresholdExceeded", "CriticalErrorRate", "ServiceDown", "AvailabilitySLABreach",
            "DatabaseConnectionPoolExhausted"}  # fmt: skip
INFO = {"NegativeCostTrend", "RapidUserGrowth"}


@pytest.fixture(scope="module")
def router() -> Router:
    return Router(Project(ROOT))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_routed(router: Router, name: str) -> None:
    answer = router.alert(Alert(name, "firing", {"alertname": name}))
    assert (answer.how, answer.runbook in SLUGS) == ("alert", True)
    assert answer.title and answer.why and not answer.why.endswith(".")
    assert answer.severity == ("critical" if name in CRITICAL else "info" if name in INFO else "warning")
    assert answer.response_time == f"{MINUTES[name]} minutes" if name in MINUTES else answer.response_time


def test_the_table_knows_the_alerts_and_the_runbooks_that_there_are() -> None:
    table = load_table()
    assert len(ALERTS) == 25
    assert sorted(table.alerts) == ALERTS
    assert set(table.runbooks) == SLUGS
    assert {route.runbook for route in table.alerts.values()} <= SLUGS


def test_every_runbook_is_found_by_what_people_say(router: Router) -> None:
    for slug, theme in router.table.runbooks.items():
        for symptom in theme.symptoms:
            found = [name for name, _ in router.rank(symptom)]
            assert slug in found[:3], f"{symptom}: {found[:3]}"


@pytest.mark.parametrize(
    ("said", "slug"),
    [
        ("data is lost", "backup-restore"),
        ("recover a deleted table", "backup-restore"),
        ("restore to a point in time", "backup-restore"),
        ("the backup is old", "backup-recovery"),
        ("pg_wal grows", "backup-recovery"),
    ],
)
def test_who_has_lost_data_is_led_to_the_restore(router: Router, said: str, slug: str) -> None:
    assert router.words(said).runbook == slug


RULEBOOK = ROOT / ".config" / "eda" / "tracker-alerts.yml"
SPAN = r"^\d+\s(milliseconds?|seconds?|minutes?|hours?|days?)$"
# The part of ansible-rulebook's schema for rulesets that the file uses, and what its webhook and event_splitter take.
SCHEMA = {
    "type": "array", "minItems": 1,
    "items": {
        "type": "object", "required": ["name", "hosts", "sources", "rules"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string"}, "hosts": {"type": "string"}, "gather_facts": {"type": "boolean"},
            "sources": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/source"}},
            "rules": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/rule"}},
        },
    },
    "$defs": {
        "source": {
            "type": "object", "required": ["eda.builtin.webhook", "filters"], "additionalProperties": False,
            "properties": {
                "name": {"type": "string"},
                "eda.builtin.webhook": {
                    "type": "object", "required": ["port", "token"], "additionalProperties": False,
                    "properties": {
                        "host": {"type": "string"}, "port": {"type": "integer"}, "token": {"type": "string"},
                        **{name: {"type": "string"} for name in ("certfile", "keyfile", "password", "cafile", "hmac_secret")},
                    },
                },
                "filters": {
                    "type": "array", "minItems": 1,
                    "items": {
                        "type": "object", "required": ["eda.builtin.event_splitter"], "additionalProperties": False,
                        "properties": {"eda.builtin.event_splitter": {
                            "type": "object", "required": ["splitter_key"], "additionalProperties": False,
                            "properties": {
                                "splitter_key": {"const": "payload.alerts"}, "raise_error": {"type": "boolean"},
                                "attributes_key_map": {"type": "object", "additionalProperties": {"type": "string"}},
                                "extras": {"type": "object"},
                            },
                        }},
                    },
                },
            },
        },
        "rule": {
            "type": "object", "required": ["name", "condition", "throttle", "action"], "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": r"\S"}, "condition": {"type": "string"},
                "throttle": {
                    "type": "object", "required": ["once_within", "group_by_attributes"], "additionalProperties": False,
                    "properties": {
                        "once_within": {"type": "string", "pattern": SPAN},
                        "group_by_attributes": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                    },
                },
                "action": {
                    "type": "object", "required": ["run_playbook"], "additionalProperties": False,
                    "properties": {"run_playbook": {
                        "type": "object", "required": ["name"], "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"}, "verbosity": {"type": "integer"}, "retries": {"type": "integer"},
                            "delay": {"type": "number"}, "extra_vars": {"type": "object"},
                        },
                    }},
                },
            },
        },
    },
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [rule for ruleset in load(RULEBOOK) for rule in ruleset["rules"]]
    return found


def test_the_rulebook_is_one() -> None:
    jsonschema.validate(load(RULEBOOK), SCHEMA)


@pytest.mark.parametrize("fault", ["attribute_key_map", "token", "once_within", "name"])
def test_a_rulebook_that_is_none_is_seen(fault: str) -> None:
    data = copy.deepcopy(load(RULEBOOK))
    source = data[0]["sources"][0]
    if fault == "attribute_key_map":  # as the documentation of the filter once wrote it
        splitter = source["filters"][0]["eda.builtin.event_splitter"]
        splitter[fault] = splitter.pop("attributes_key_map")
    elif fault == "token":
        del source["eda.builtin.webhook"]["token"]
    elif fault == "once_within":
        data[0]["rules"][0]["throttle"][fault] = "30m"
    else:
        del data[0]["rules"][0]["action"]["run_playbook"]["name"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


def test_the_rulebook_runs_the_playbook_that_each_alert_is_routed_to(router: Router) -> None:
    for rule in rules():
        path = ROOT / rule["action"]["run_playbook"]["name"]
        assert path.exists()
        named = re.findall(r'"([A-Za-z]+)"', rule["condition"].split("alertname in")[1])
        assert named
        for name in named:
            assert router.alert(Alert(name, "firing", {"alertname": name})).runbook == path.stem, name


def test_the_rulebook_passes_nothing_of_an_event_on() -> None:
    for rule in rules():
        assert "event" not in json.dumps(rule["action"])
        assert 'event.status == "firing"' in rule["condition"] and 'event.version == "4"' in rule["condition"]
        slug = Path(rule["action"]["run_playbook"]["name"]).stem
        maintained = Catalog(Project(ROOT)).get(slug).mode == "maintain"
        assert ("vars.tracker_alerts_maintain == true" in rule["condition"]) == maintained
