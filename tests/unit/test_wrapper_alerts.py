"""Alerts from outside: what is taken, what is refused, and that nothing hostile comes through."""

from __future__ import annotations

import io
import json
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runbook import alertmanager, alerts
from runbook.alertmanager import AskError, firing
from runbook.alerts import clean, load, parse
from runbook.errors import BadInput


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "status": "firing", "labels": {"alertname": "ServiceDown", "severity": "critical"},
        "annotations": {"summary": "It is down"}, "startsAt": "2026-03-01T10:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "a1b2c3d4e5f60718", "generatorURL": "http://prometheus:9090/graph",
    } | changes  # fmt: skip


def body(*entries: Any, **changes: Any) -> bytes:
    data = {
        "version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "runbook", "groupLabels": {},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://alertmanager:9093", "alerts": list(entries),
    }  # fmt: skip
    return json.dumps(data | changes).encode()


def only(raw: bytes) -> alerts.Alert:
    (alert,) = parse(raw).alerts
    return alert


def test_a_webhook_body_gives_its_alerts() -> None:
    found = parse(body(entry(), entry(status="resolved", endsAt="2026-03-01T12:30:00+02:00"), truncatedAlerts=7))
    first, second = found.alerts
    assert (first.name, first.firing, first.labels["severity"]) == ("ServiceDown", True, "critical")
    assert (first.starts_at, first.ends_at) == ("2026-03-01T10:00:00.123456+00:00", "")
    assert (second.firing, second.ends_at) == (False, "2026-03-01T10:30:00+00:00")
    assert first.key == second.key == "a1b2c3d4e5f60718@2026-03-01T10:00:00.123456+00:00"
    assert found.left_out == 7


def test_the_same_instant_in_another_zone_is_the_same_incident() -> None:
    there = entry(startsAt="2026-03-01T11:00:00.123456+01:00")
    assert only(body(there)).key == only(body(entry())).key


def test_keys_of_later_versions_are_no_fault() -> None:
    assert only(body(entry(later=[1]), notificationReason="group_wait")).name == "ServiceDown"


def test_an_alert_survives_being_written_and_read() -> None:
    alert = only(body(entry()))
    assert only(body(alert.body())) == alert


def test_what_the_api_lists_is_taken() -> None:
    listed = [entry(status={"state": state, "silencedBy": [], "inhibitedBy": []}) for state in ("active", "suppressed")]
    first, second = parse(json.dumps(listed).encode()).alerts
    assert (first.status, second.status) == ("firing", "suppressed")


def test_one_alert_that_a_person_wrote_is_taken() -> None:
    alert = only(b'{"labels": {"alertname": "ServiceDown", "instance": "app1"}}')
    assert alert.firing and alert.starts_at == ""
    assert len(alert.fingerprint) == 16
    assert alert.fingerprint != only(b'{"labels": {"alertname": "ServiceDown", "instance": "app2"}}').fingerprint


def test_an_alert_becomes_part_of_a_record() -> None:
    ref = only(body(entry())).ref()
    assert (ref.name, ref.fingerprint, ref.annotations) == (
        "ServiceDown",
        "a1b2c3d4e5f60718",
        {"summary": "It is down"},
    )


FAULTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "not JSON"),
    "nothing": (b"", "not JSON"),
    "not UTF-8": (b'"\xff"', "not UTF-8, from byte 1"),
    "a number": (b"4", "neither a mapping nor a list"),
    "NaN": (b'{"version": NaN}', "NaN"),
    "digits without end": (b"9" * 10_000, "not JSON that can be read"),
    "brackets without end": (b"[" * 200_000, "not JSON that can be read"),
    "too large": (b'"' + b"x" * alerts.MAX_BYTES + b'"', "at most 8,388,608"),
    "version 3": (body(version="3"), 'version "3"; only "4"'),
    "version as a number": (body(version=4), "version 4; only"),
    "no version": (b'{"alerts": []}', "has no version"),
    "a status of its own": (body(status="burning"), 'status is "burning"'),
    "no status": (body(entry(status=None)), "alerts[0].status is None"),
    "alerts as mapping": (body(alerts={}), "alerts is a mapping of 0, no list"),
    "too many alerts": (body(*[{}] * 1001), "holds 1,001 alerts"),
    "alert as text": (body("x"), 'alerts[0] is "x", no mapping'),
    "no labels": (body(entry(labels=None)), "alerts[0].labels is None"),
    "no name": (body(entry(), entry(labels={"a": "b"})), "alerts[1].labels has no alertname"),
    "a name of blanks": (body(entry(labels={"alertname": "\n\x1b[0m"})), "has no alertname"),
    "a label that is a number": (body(entry(labels={"alertname": "A", "b": 4})), "labels.b is 4, no text"),
    "a label name with a newline": (body(entry(labels={"alertname": "A", "b\n": "c"})), "which no label has"),
    "too many labels": (body(entry(labels={f"l{n}": "" for n in range(65)})), "at most 64"),
    "annotations as list": (body(entry(annotations=["x"])), "annotations is a list of 1"),
    "no start": (body(entry(startsAt=None)), "startsAt is missing"),
    "a start that is none": (body(entry(startsAt="yesterday")), 'startsAt is "yesterday"'),
    "a start without a zone": (body(entry(startsAt="2026-03-01T10:00:00")), "without a zone"),
    "a start before all time": (body(entry(startsAt="0001-01-02T00:00:00+23:59", endsAt=None)), ""),
    "no fingerprint": (body(entry(fingerprint=None)), "fingerprint is missing"),
    "a path as fingerprint": (body(entry(fingerprint="../../etc")), "no fingerprint"),
    "an address that is none": (body(entry(generatorURL=4)), "generatorURL is 4"),
    "truncated by less than nothing": (body(truncatedAlerts=-1), "no count"),
    "truncated by true": (body(truncatedAlerts=True), "no count"),
    "a state nobody knows": (b'[{"labels": {"alertname": "A"}, "status": {"state": "gone"}}]', 'state is "gone"'),
}
del FAULTS["a start before all time"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_with_its_place_and_a_remedy(fault: str) -> None:
    raw, told = FAULTS[fault]
    with pytest.raises(BadInput) as caught:
        parse(raw)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.remedy


@pytest.mark.parametrize("start", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_at_the_end_of_the_calendar_is_no_crash(start: str) -> None:
    try:
        parse(body(entry(startsAt=start)))
    except BadInput as error:
        assert "no time" in str(error)


def shows_as_it_is(text: str) -> bool:
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


HOSTILE = [
    "$(reboot)", "`reboot`", "'; reboot #", "{{ lookup('pipe', 'reboot') }}", "{% raw %}", "\x1b[2J\x1b]0;owned\x07", "a\nb\r\nc",
    "nul\x00nul", "\ud800", "\u202egnp.exe", "\u2028", "../../etc/passwd", "-rf", "--fix=destructive", "\x9b31m", "\x1b",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_one_clean_line(value: str) -> None:
    alert = only(
        body(entry(labels={"alertname": f"A{value}", "x": value}, annotations={"y": value}, generatorURL=value))
    )
    for text in (alert.name, *alert.labels.values(), *alert.annotations.values(), alert.generator_url):
        assert shows_as_it_is(text), ascii(text)


def test_a_megabyte_is_cut_and_costs_no_time() -> None:
    began = time.monotonic()
    alert = only(
        body(entry(labels={"alertname": "A" * 2**20, "x": "\x1b[" * 2**18}, annotations={"y": "\u202e" * 2**18}))
    )
    assert time.monotonic() - began < 2
    assert (len(alert.name), alert.name[-1]) == (alerts.MAX_NAME, "…")
    assert len(alert.labels["x"]) <= alerts.MAX_LABEL and len(alert.annotations["y"]) <= alerts.MAX_ANNOTATION


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
texts = st.dictionaries(
    st.text(max_size=9) | st.sampled_from(["severity", "team"]), st.text() | st.sampled_from(HOSTILE), max_size=6
)
nearly = st.fixed_dictionaries(
    {"status": st.sampled_from(["firing", "resolved"]) | anything, "labels": texts.map(lambda t: {"alertname": "A"} | t) | anything,
     "annotations": texts | anything, "startsAt": st.datetimes(timezones=st.timezones()).map(str) | anything,
     "fingerprint": st.from_regex(r"\A[0-9a-f]{16}\Z") | anything},
    optional={"endsAt": anything, "generatorURL": st.text() | anything},
)  # fmt: skip


@given(
    st.lists(nearly | anything, max_size=3),
    st.sampled_from([{}, {"version": "4"}]) | st.dictionaries(st.text(), anything),
)
def test_any_body_is_read_clean_or_refused_in_one_line(items: list[Any], changes: dict[str, Any]) -> None:
    for raw in (body(*items, **changes), json.dumps(items).encode()):
        try:
            found = parse(raw).alerts
        except BadInput as error:
            assert len(str(error)) < 600 and shows_as_it_is(str(error)), ascii(str(error))
        else:
            for alert in found:
                assert shows_as_it_is("".join([alert.name, *alert.labels, *alert.labels.values(), alert.generator_url]))
                assert only(json.dumps([alert.body()]).encode()).labels == alert.labels if alert.firing else True


@given(st.binary())
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with suppress(BadInput):
        parse(raw)


@given(st.text(), st.integers(1, 50))
def test_cleaning_twice_changes_nothing(text: str, limit: int) -> None:
    once = clean(text, limit)
    assert clean(once, limit) == once and len(once) <= limit and shows_as_it_is(once)


def test_a_file_and_stdin_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alert.json").write_bytes(body(entry()))
    assert [alert.name for alert in load(str(tmp_path / "alert.json"))] == ["ServiceDown"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body(entry()))))
    assert [alert.name for alert in load("-")] == ["ServiceDown"]


@pytest.mark.parametrize("name", ["missing.json", ".", "nul\x00.json"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load(f"{tmp_path}/{name}")


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BadInput, match=r"bad\.json: The body has no version"):
        load(str(tmp_path / "bad.json"))


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self)

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def saying(raw: bytes, code: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def test_an_alertmanager_is_asked_for_what_fires() -> None:
    listed = json.dumps([entry(status={"state": "active"})]).encode()
    with answering(saying(listed)) as (address, asked):
        assert [alert.name for alert in firing(f"{address}/")] == ["ServiceDown"]
    assert asked == ["/api/v2/alerts?active=true&silenced=false&inhibited=false"]


def test_an_alertmanager_that_says_something_else_is_told() -> None:
    with answering(saying(b"<html>")) as (address, _), pytest.raises(BadInput, match="something else"):
        firing(address)
    with answering(saying(b"", 503)) as (address, _), pytest.raises(AskError, match="answers with 503") as caught:
        firing(address)
    assert caught.value.code == 4


def test_an_alertmanager_that_is_away_is_told() -> None:
    with answering(saying(b"")) as (address, _):
        pass
    with pytest.raises(AskError, match="does not answer"):
        firing(address)


def test_an_alertmanager_that_dawdles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def dawdle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not gone.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            pass  # the reader has had enough, which is what is tested

    gone = threading.Event()
    monkeypatch.setattr(alertmanager, "ASK_SECONDS", 0.3)
    with answering(dawdle) as (address, _):
        began = time.monotonic()
        with pytest.raises(AskError, match="does not answer"):
            firing(address)
        assert time.monotonic() - began < 5
        gone.set()


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://x", "http://", "http://a b", "localhost:9093", "http://a\n"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(BadInput, match="no address"):
        firing(address)
