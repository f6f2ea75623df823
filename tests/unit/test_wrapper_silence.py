"""Silences: which alerts, how many at most, for how long, and that they end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.services import Alertmanager as Fake
from runbook import alertmanager, silence
from runbook.alertmanager import Alertmanager, AskError, Declined, Matcher
from runbook.catalog import Alert, Runbook
from runbook.errors import BadInput
from runbook.project import Project
from runbook.record import AlertRef, Record, Source, Store
from runbook.redact import shared
from runbook.silence import Wanted, chosen_matchers, given_matchers, silenced, wanted

SMALL = Path(__file__).resolve().parents[1] / "integration" / "projects" / "small"
BOOK = Runbook(role="x", slug="x", title="X", category="incident")


def ref(name: str, **labels: str) -> AlertRef:
    return AlertRef(name, "ab", labels={"alertname": name, **labels})


def record(*alerts: AlertRef, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "runbook": "healthy",
        "title": "Healthy",
        "project": Source("/x"),
        "time_limit_seconds": 60.0,
    }
    return Record(**values | {"alerts": list(alerts)} | changes)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake([{"alertname": "Down", "instance": f"app{n}", "job": "x"} for n in range(3)]) as made:
        yield made


class Run:
    """A run that is silenced, and what was said about it."""

    def __init__(self, root: Path, fake: Fake, *matchers: str, at_most: int = 5) -> None:
        self.store = Store(root)
        self.store.prepare()
        self.asked, self.said = Wanted(fake.address, matchers, at_most), list[str]()

    def around(self, one: Record) -> Any:
        return silenced(Project(SMALL), self.store, self.asked, self.said.append, one)


# Which alerts


@pytest.mark.parametrize(
    ("alerts", "told"),
    [
        ([ref("Down", instance="app1", job="x", severity="critical", team="sre")],
         ['alertname="Down"', 'job="x"', 'instance="app1"']),
        ([ref("Down", instance="app1"), ref("Slow", instance="app1")], ['alertname=~"Down|Slow"', 'instance="app1"']),
        ([ref("Down", instance="a:1"), ref("Down", instance="b.c")], ['alertname="Down"', 'instance=~"a:1|b\\\\.c"']),
        ([ref("Down", instance="app1"), ref("Down")], ['alertname="Down"']),
        ([AlertRef("Down")], ['alertname="Down"']),
        ([ref("Down", instance='a"b\\c')], ['alertname="Down"', 'instance="a\\"b\\\\c"']),
    ],
)  # fmt: skip
def test_matchers_are_of_the_alert_and_name_which_one_it_is(alerts: list[AlertRef], told: list[str]) -> None:
    assert [str(one) for one in chosen_matchers(record(*alerts), BOOK)] == told


def test_without_an_alert_they_are_those_of_the_runbook() -> None:
    book = Runbook("x", "x", "X", "incident", alerts=[Alert("Disk", {"category": "storage"}), Alert("Pool")])
    assert [str(one) for one in chosen_matchers(record(), book)] == ['alertname=~"Disk|Pool"']
    book = Runbook("x", "x", "X", "incident", alerts=[Alert("Disk", {"category": "storage"})])
    assert [str(one) for one in chosen_matchers(record(), book)] == ['alertname="Disk"', 'category="storage"']


def test_with_no_alert_at_all_it_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing to silence"):
        chosen_matchers(record(), BOOK)


def test_matchers_can_be_given() -> None:
    told = [str(one) for one in given_matchers(("instance=app1:8000", "team=sre", "instance=app2:8000", "team=sre"))]
    assert told == ['instance=~"app1:8000|app2:8000"', 'team="sre"']


@pytest.mark.parametrize("item", ["", "=", "x", "x=", "=x", "x!=y", "x=~y", "a-b=c", "x=a\nb", "x=\x1b[2J"])
def test_a_matcher_that_is_none_is_refused(item: str) -> None:
    with pytest.raises(BadInput, match="not of the form NAME=VALUE") as caught:
        wanted(True, "http://x", (item,), 5)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "address", "matchers", "told"),
    [
        (False, "http://x", ("a=b",), "without --silence"), (True, None, (), "needs an Alertmanager"),
        (True, "x:9093", (), "'x:9093' is no address"), (True, "http://", (), "is no address"),
        (True, "http://x:port", (), "is no address"), (True, "http://[::1", (), "is no address"),
        (True, "ftp://u:silencecanary@x", (), "What was given is no address"),
        (True, "http://u:silencecanary@example.com", (), "would go to http://example.com in clear"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(asked: bool, address: str, matchers: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInput) as caught:
        wanted(asked, address, matchers, 5)
    assert told in str(caught.value) and caught.value.remedy and "silencecanary" not in str(caught.value)


# A run


def test_it_lasts_as_long_as_the_run_and_says_whose_it_is(tmp_path: Path, fake: Fake) -> None:
    shared().learn("reasoncanary77")
    run = Run(tmp_path, fake)
    one = record(ref("Down", instance="app1"), reason="it is\ndown reasoncanary77", ticket="INC-7")
    with run.around(one):
        (name,) = fake.silences
        assert fake.deleted == []
        assert one.silence == f"{fake.address}/#/silences/{name}"
    assert fake.deleted == [name] and one.notes == []
    body = fake.silences[name]
    assert body["createdBy"] == one.owner
    assert body["comment"] == f"runbook run {one.id} of healthy: it is down ******** (INC-7)"
    assert body["matchers"] == [
        {"name": "alertname", "value": "Down", "isRegex": False, "isEqual": True},
        {"name": "instance", "value": "app1", "isRegex": False, "isEqual": True},
    ]
    starts, ends = (datetime.fromisoformat(body[key]) for key in ("startsAt", "endsAt"))
    assert abs((starts - datetime.now(UTC)).total_seconds()) < 5
    assert ends - starts == timedelta(seconds=60 + silence.MARGIN_SECONDS)
    assert run.said == [f'Silence: alertname="Down", instance="app1" (1 alert now): {one.silence}']


def test_times_are_of_the_clock_that_reads_them(tmp_path: Path, fake: Fake) -> None:
    fake.clock_ahead = -7200
    with Run(tmp_path, fake).around(record(ref("Down"))):
        (body,) = fake.silences.values()
    assert abs((datetime.fromisoformat(body["startsAt"]) - datetime.now(UTC)).total_seconds() + 7200) < 5


@pytest.mark.parametrize(("at_most", "refused"), [(2, True), (3, False)])
def test_one_that_hits_too_many_is_refused(tmp_path: Path, fake: Fake, at_most: int, refused: bool) -> None:
    run = Run(tmp_path, fake, "alertname=Down", at_most=at_most)
    if refused:
        with pytest.raises(BadInput, match=r"would hit 3 alerts, more than 2: Down\."), run.around(record()):
            pytest.fail("the run must not begin")
    else:
        with run.around(record()):
            pass
    assert len(fake.silences) == (0 if refused else 1)


def test_alerts_that_are_silenced_or_inhibited_already_count(tmp_path: Path, fake: Fake) -> None:
    with Run(tmp_path, fake, "alertname=Down").around(record()):
        pass
    (asked,) = [path for method, path, _ in fake.requests if method == "GET"]
    assert asked == "/api/v2/alerts?filter=alertname%3D%22Down%22"


def test_a_check_opens_none(tmp_path: Path, fake: Fake) -> None:
    one = record(ref("Down"), check=True)
    with Run(tmp_path, fake).around(one):
        pass
    assert (fake.requests, one.silence) == ([], "")


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_it_ends_however_the_run_ends(tmp_path: Path, fake: Fake, error: BaseException) -> None:
    with pytest.raises(type(error)), Run(tmp_path, fake).around(record(ref("Down"))):
        raise error
    assert len(fake.deleted) == 1


def test_one_that_a_person_ended_is_no_fault(tmp_path: Path, fake: Fake) -> None:
    one = record(ref("Down"))
    with Run(tmp_path, fake).around(one):
        fake.deleted.extend(fake.silences)
    assert one.notes == []


def test_one_that_cannot_be_ended_is_noted_with_its_end(tmp_path: Path, fake: Fake) -> None:
    run, one = Run(tmp_path, fake), record(ref("Down"), state="succeeded")
    run.store.create(one)
    with run.around(one):
        fake.answers = [503]
    (note,) = run.store.load(one.id).notes
    assert f"{one.silence} could not be ended: The Alertmanager {fake.address} answers with 503" in note
    ends = datetime.fromisoformat(next(iter(fake.silences.values()))["endsAt"])
    assert f"It ends by itself at {ends:%Y-%m-%d %H:%M}" in note
    assert len(run.said) == 1, "the end of the run shows its notes"


def test_when_the_run_broke_off_it_is_said_at_once(tmp_path: Path, fake: Fake) -> None:
    run = Run(tmp_path, fake)
    with pytest.raises(RuntimeError), run.around(record(ref("Down"))):
        fake.close()
        raise RuntimeError
    assert "could not be ended" in run.said[-1] and "does not answer" in run.said[-1]


@pytest.mark.parametrize("answers", [[500], [200], [None, 500], [None, "hang"], ["hang"], [302]])
def test_an_alertmanager_that_does_not_answer_stops_the_run_before_it_begins(
    tmp_path: Path, fake: Fake, answers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alertmanager, "ASK_SECONDS", 0.3)
    fake.answers = answers
    with pytest.raises((AskError, BadInput)), Run(tmp_path, fake).around(record(ref("Down"))):
        pytest.fail("the run must not begin")
    assert fake.silences == {}


# The client


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"silenceID": 5}', '{"silenceID": "../../x"}'])
def test_an_id_that_is_none_is_refused(fake: Fake, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "take", lambda *_: (200, answer))
    with pytest.raises(BadInput, match="something else"):
        Alertmanager(fake.address).silence([Matcher("a", ("b",))], 60, "me", "why")


def test_what_it_says_about_a_wrong_request_is_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "take", lambda *_: (400, '"bad matcher\x1b[2J"'))
    with pytest.raises(Declined, match=r"answers with 400: bad matcher\.") as caught:
        Alertmanager(fake.address).alerts("x")
    assert caught.value.code == 4


def test_a_user_and_password_are_sent_and_not_shown(fake: Fake) -> None:
    manager = Alertmanager(f"{fake.address.replace('//', '//ops:silence%2Fcanary@')}/")
    manager.alerts()
    assert fake.headers[0]["Authorization"] == "Basic b3BzOnNpbGVuY2UvY2FuYXJ5"
    assert "canary" not in manager.address + manager.shown + manager.page("x")
    assert shared().text("it is silence/canary") == "it is ********"
    fake.answers = [500]
    with pytest.raises(AskError) as caught:
        manager.alerts()
    assert "canary" not in str(caught.value)
    assert "Authorization" not in _asked_without(fake)


def _asked_without(fake: Fake) -> dict[str, str]:
    Alertmanager(fake.address).alerts()
    return fake.headers[-1]


def test_a_redirect_is_not_followed(fake: Fake) -> None:
    fake.answers, fake.location = [307], f"{fake.address}/elsewhere"
    with pytest.raises(Declined, match="answers with 307"):
        Alertmanager(fake.address).alerts()
    assert len(fake.requests) == 1
