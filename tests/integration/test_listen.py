"""From an alert to a run: `run --alert`, `identify`, and the listener with what can happen to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .conftest import SMALL, Runbook, until


def entry(name: str = "DiskSpaceRunningLow", number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "status": "firing", "labels": {"alertname": name, "category": "storage", "instance": f"app{number}"},
        "annotations": {"summary": "It is so"}, "startsAt": "2026-03-01T10:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": f"{number:016x}", "generatorURL": "http://prometheus:9090/graph",
    } | changes  # fmt: skip


def body(*entries: dict[str, Any], status: str = "firing") -> bytes:
    return json.dumps({"version": "4", "status": status, "truncatedAlerts": 0, "alerts": list(entries)}).encode()


def written(folder: Path, *entries: dict[str, Any]) -> str:
    (folder / "alert.json").write_bytes(body(*entries))
    return str(folder / "alert.json")


def test_the_record_of_a_run_names_its_alert(runbook: Runbook, tmp_path: Path) -> None:
    hostile = entry(labels={"alertname": "DiskSpaceRunningLow", "x": "$(touch owned) {{ 1 + 1 }}\x1b[2J"})
    done = runbook.run("healthy", "--alert", written(tmp_path, hostile))
    assert done.code == 0, done.err
    (alert,) = runbook.record["alerts"]
    assert (alert["name"], alert["fingerprint"]) == ("DiskSpaceRunningLow", f"{0:016x}")
    assert alert["starts_at"] == "2026-03-01T10:00:00+00:00"
    assert alert["labels"]["x"] == "$(touch owned) {{ 1 + 1 }}"


def test_a_run_for_an_alert_that_is_none_is_refused(runbook: Runbook, tmp_path: Path) -> None:
    (tmp_path / "alert.json").write_text("{}")
    done = runbook.run("healthy", "--alert", str(tmp_path / "alert.json"))
    assert (done.code, runbook.records()) == (5, [])
    assert "has no version" in done.err


TOKEN = "a-token-for-today-only"
NEXT = "a-token-for-tomorrow-1"


class Listening:
    """The listener as a process of its own, and a client that speaks to it."""

    def __init__(self, runbook: Runbook, **changes: Any) -> None:
        self.runbook = runbook
        (runbook.root / "next").write_text(f"{NEXT}\n")
        config: dict[str, Any] = {
            "inventory": [str(SMALL / "inventories" / "one.yml")], "port": 0, "stop_seconds": 30,
            "tokens": [{"env": "LISTEN_TOKEN"}, {"file": str(runbook.root / "next")}],
            "routes": [{"match": {"alertname": "Quiet"}, "runbook": "healthy", "fix": "change", "cooldown_minutes": 0, "max_runs_per_hour": 2}],
        } | changes  # fmt: skip
        self.config = runbook.root / "listen.yml"
        self.config.write_text(json.dumps(config))
        self.port = 0

    def start(self, **env: str) -> subprocess.Popen[str]:
        self.log = self.runbook.root / "listen.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runbook", "listen", "--config", str(self.config)],
                env=self.runbook.env | {"LISTEN_TOKEN": TOKEN} | env, cwd=self.runbook.root / "work",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, text=True,
            )  # fmt: skip
        self.runbook.started.append(self.process)
        told = until(lambda: re.search(r"Listening on \S+ port (\d+)", self.log.read_text()) or self.process.poll())
        assert isinstance(told, re.Match), self.log.read_text()
        self.port = int(told[1])
        return self.process

    def ask(
        self, method: str, path: str, raw: bytes | None = None, token: str = TOKEN, **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = ({"Authorization": f"Bearer {token}"} if token else {}) | headers
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text
        finally:
            connection.close()

    def post(self, raw: bytes, **given: Any) -> tuple[int, Any]:
        return self.ask("POST", "/alerts", raw, **given)

    def jobs(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted((self.runbook.state / "queue").glob("0*.json")):
            found.append(json.loads(path.read_text())["job"])
        return found

    def states(self) -> dict[str, int]:
        return dict(Counter(job["state"] for job in self.jobs()))

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def test_an_alert_becomes_a_run_whose_record_names_it(runbook: Runbook) -> None:
    listening = Listening(runbook)
    listening.start()
    assert listening.post(body(entry("Quiet"))) == (202, {"queued": 1})
    assert listening.post(body(entry("Quiet"))) == (202, {"duplicate": 1})
    until(lambda: listening.states() == {"done": 1})
    (job,) = listening.jobs()
    assert (job["exit_code"], job["run_id"]) == (0, runbook.record["id"])
    assert runbook.record["alerts"][0]["fingerprint"] == f"{0:016x}"
    assert runbook.record["reason"] == f"alert Quiet, job {job['id']}"
    assert listening.end() == 0
    assert TOKEN not in listening.log.read_text()


def test_what_acts_by_itself_only_looks(runbook: Runbook) -> None:
    listening = Listening(runbook, routes=[])
    listening.start()
    assert listening.post(body(entry())) == (202, {"queued": 1})
    until(lambda: listening.states() == {"done": 1})
    assert (runbook.record["runbook"], runbook.record["check"]) == ("healthy", True)
    assert listening.end() == 0


def test_who_may_send_what(runbook: Runbook) -> None:
    listening = Listening(runbook, max_body_bytes=20_000)
    listening.start()
    for token in ("", "wrong", TOKEN[:-1], f"{TOKEN}x"):
        assert listening.post(body(entry("Quiet")), token=token)[0] == 401, token
    assert listening.post(b"x", token="", Authorization=f"Basic {TOKEN}")[0] == 401
    assert listening.post(b"{")[0] == 400
    status, told = listening.post(body(entry("Quiet")).replace(b'"4"', b'"5"'))
    assert status == 400 and 'version "5"' in told["error"] and told["remedy"]
    assert listening.post(b" " * 20_001)[0] == 413
    assert listening.ask("GET", "/alerts")[0] == 405
    assert listening.ask("GET", "/")[0] == 404
    chunks = ((b" " * 1000) for _ in range(30))
    connection = http.client.HTTPConnection("127.0.0.1", listening.port, timeout=30)
    connection.request("POST", "/alerts", chunks, {"Authorization": f"Bearer {TOKEN}"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert listening.jobs() == []
    assert listening.post(body(), token=NEXT) == (202, {})
    status, metrics = listening.ask("GET", "/metrics", token="")
    assert status == 200 and 'runbook_listen_requests_total{code="401"} 5' in metrics
    assert listening.ask("GET", "/health", token="") == (200, {"status": "ok", "waiting": 0, "running": 0})
    assert listening.end() == 0


def test_a_storm_of_200_and_1000_duplicates(runbook: Runbook) -> None:
    listening = Listening(runbook)
    listening.start()
    storm = [entry("Quiet", number) for number in range(200)]
    told: Counter[str] = Counter()
    for number in range(0, 200, 20):
        status, answer = listening.post(body(*storm[number : number + 20]))
        assert status == 202
        told.update(answer)
    assert told["queued"] + told["held_back"] == 200 and told["queued"] == 2
    for _ in range(10):
        assert listening.post(body(*[storm[0]] * 100)) == (202, {"duplicate": 100})
    until(lambda: listening.states() == {"done": 2, "held_back": 198})
    assert len(runbook.records()) == 2
    metrics = listening.ask("GET", "/metrics")[1]
    assert 'runbook_listen_held_back_total{route="healthy",why="spent"} 198' in metrics
    assert 'runbook_listen_alerts_total{outcome="duplicate"} 1000' in metrics
    assert listening.end() == 0


def slowly(runbook: Runbook, nap: str) -> Path:
    """Return an inventory in which the slow runbook naps, and says that it has begun."""
    started = runbook.root / "at-work"
    text = (SMALL / "inventories" / "one.yml").read_text()
    path = runbook.root / "slow.yml"
    path.write_text(text.replace("  vars:\n", f"  vars:\n    slow_started: {started}\n    slow_nap: '{nap}'\n"))
    return path


def test_killed_in_mid_run_its_run_goes_on_and_is_not_done_twice(runbook: Runbook) -> None:
    routes = [{"match": {"alertname": "Slow"}, "runbook": "slow", "fix": "change", "cooldown_minutes": 0}]
    listening = Listening(runbook, routes=routes, inventory=[str(slowly(runbook, "4"))])
    listening.start()
    listening.post(body(entry("Slow")))
    until((runbook.root / "at-work").exists)
    listening.end(signal.SIGKILL)
    assert listening.states() == {"running": 1}
    listening.start()
    assert listening.post(body(entry("Slow"))) == (202, {"duplicate": 1})
    until(lambda: listening.states() == {"done": 1})
    assert runbook.record["state"] == "succeeded", "one record: it was waited for"
    assert listening.end() == 0


def test_killed_with_its_run_it_is_done_once_more(runbook: Runbook) -> None:
    routes = [{"match": {"alertname": "Slow"}, "runbook": "slow", "fix": "change", "cooldown_minutes": 0}]
    listening = Listening(runbook, routes=routes, inventory=[str(slowly(runbook, "1.5"))])
    listening.start()
    listening.post(body(entry("Slow")))
    until((runbook.root / "at-work").exists)
    (job,) = until(lambda: [job for job in listening.jobs() if job["pid"]])
    listening.end(signal.SIGKILL)
    os.kill(job["pid"], signal.SIGKILL)
    listening.start()
    until(lambda: listening.states() == {"done": 1})
    assert [record["state"] for record in runbook.records()] == ["interrupted", "succeeded"]
    (job,) = listening.jobs()
    assert (job["deaths"], job["tries"], job["run_id"]) == (1, 2, runbook.records()[1]["id"])
    assert listening.end() == 0


def test_sigterm_lets_the_run_end(runbook: Runbook) -> None:
    routes = [{"match": {"alertname": "Slow"}, "runbook": "slow", "fix": "change", "cooldown_minutes": 0}]
    listening = Listening(runbook, routes=routes, inventory=[str(slowly(runbook, "2"))])
    listening.start()
    listening.post(body(entry("Slow")))
    until((runbook.root / "at-work").exists)
    assert listening.end() == 0
    assert (listening.states(), runbook.record["state"]) == ({"done": 1}, "succeeded")


def test_a_second_listener_is_refused(runbook: Runbook) -> None:
    listening = Listening(runbook)
    listening.start()
    done = runbook("listen", "--config", str(listening.config), LISTEN_TOKEN=TOKEN)
    assert done.code == 3 and "Another listener" in done.err
    assert listening.end() == 0


def test_a_port_that_is_taken_is_told(runbook: Runbook) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listening = Listening(runbook, port=taken.getsockname()[1])
        done = runbook("listen", "--config", str(listening.config), LISTEN_TOKEN=TOKEN)
    assert done.code == 2 and "address already in use" in done.err
    assert "Traceback" not in done.err


def test_a_configuration_that_names_what_is_not_there_is_refused(runbook: Runbook) -> None:
    for changes in ({"inventory": ["prod"]}, {"routes": [{"match": {"a": "b"}, "runbook": "gone"}]},
                    {"routes": [{"match": {"a": "b"}, "runbook": "healthy", "fix": "destructive"}]}):  # fmt: skip
        listening = Listening(runbook, **changes)
        done = runbook("listen", "--config", str(listening.config), LISTEN_TOKEN=TOKEN)
        assert done.code == 5, done.err
    assert runbook("listen", "--check", "--config", str(Listening(runbook).config), LISTEN_TOKEN=TOKEN).code == 0


def test_the_missing_extra_is_named(runbook: Runbook) -> None:
    (runbook.root / "without" / "starlette").mkdir(parents=True)
    (runbook.root / "without" / "starlette" / "__init__.py").write_text("raise ModuleNotFoundError(name='starlette')")
    path = f"{runbook.root / 'without'}:{runbook.env['PYTHONPATH']}"
    done = runbook("listen", "--config", str(Listening(runbook).config), LISTEN_TOKEN=TOKEN, PYTHONPATH=path)
    assert done.code == 5
    assert "needs starlette" in done.err and "pip install 'llm-cost-tracker-runbooks[listen]'" in done.err


def test_tls_is_spoken(runbook: Runbook) -> None:
    key, certificate = runbook.root / "key.pem", runbook.root / "certificate.pem"
    make_certificate(key, certificate)
    listening = Listening(runbook, tls={"certificate": str(certificate), "key": str(key)})
    listening.start()
    trust = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("localhost", listening.port, timeout=30, context=trust)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    assert listening.end() == 0


def make_certificate(key: Path, certificate: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip


def test_identify_tells_what_to_run(runbook: Runbook, tmp_path: Path) -> None:
    done = runbook("identify", written(tmp_path, entry()), "-i", "one.yml")
    assert done.code == 0, done.err
    assert f"runbook run healthy -i one.yml --check --alert {tmp_path}/alert.json" in done.out
