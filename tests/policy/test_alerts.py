"""Every alert of the tracker leads to one of the eleven runbooks."""

from __future__ import annotations

import pytest
from runbook.alerts import Alert
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
