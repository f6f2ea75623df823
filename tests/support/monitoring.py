"""Real Prometheus and Alertmanager, on free ports of loopback, with intervals short enough for a test."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from support.postgres import wait_until

JOB = "llm-cost-tracker"
# As an installation has it, but for the duration: `for` is minutes there. One scrape that took too long does not do.
SERVICE_DOWN: dict[str, Any] = {
    "alert": "ServiceDown",
    "expr": f'up{{job="{JOB}"}} == 0',
    "for": "3s",
    "labels": {"severity": "critical", "priority": "p0", "team": "sre", "category": "availability"},
    "annotations": {
        "summary": "The tracker does not answer",
        "description": "{{ $labels.instance }} could not be scraped",
        "runbook_url": "https://runbooks.terragonlabs.com/service-down",
    },
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server:
    """One program in a folder of its own: started and ready on entry, gone on exit."""

    program = ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def configuration(self) -> dict[str, Any]:
        raise NotImplementedError

    def write(self, name: str, data: Any) -> Path:
        path = self.folder / name
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
        return path

    def __enter__(self) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.write("config.yml", self.configuration())
        line = [
            self.program,
            f"--config.file={config}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *self.arguments(),
        ]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(line, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(self._ready, f"{self.program} is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self) -> bool:
        assert self.process and self.process.poll() is None, self.log
        try:
            return bool(self.ask("/-/ready") or True)
        except OSError:
            return False

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return what it answers: JSON as data, else text. Raise OSError for anything but success."""
        data, headers = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)  # noqa: S310  always http
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  likewise
            text = answer.read().decode()
            return json.loads(text) if "json" in (answer.headers.get("Content-Type") or "") else text


class Alertmanager(_Server):
    """Sends what fires to a webhook, each alert in a body of its own; without `receiver_url` it only keeps alerts."""

    program = "/usr/bin/prometheus-alertmanager"

    def __init__(self, folder: Path, receiver_url: str = "", bearer_file: Path | None = None) -> None:
        super().__init__(folder)
        self.receiver_url, self.bearer_file = receiver_url, bearer_file

    def arguments(self) -> list[str]:
        return [f"--storage.path={self.folder / 'data'}", "--cluster.listen-address=", "--log.level=warn"]

    def configuration(self) -> dict[str, Any]:
        receiver: dict[str, Any] = {"name": "runbook"}
        if self.receiver_url:
            hook: dict[str, Any] = {"url": self.receiver_url, "send_resolved": True, "max_alerts": 100}
            if self.bearer_file:
                told = {"type": "Bearer", "credentials_file": str(self.bearer_file)}
                hook["http_config"] = {"authorization": told}
            receiver["webhook_configs"] = [hook]
        route = {
            "receiver": "runbook", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h",
        }  # fmt: skip
        return {"global": {"resolve_timeout": "5s"}, "route": route, "receivers": [receiver]}

    def fire(self, minutes: float = 60, annotations: dict[str, str] | None = None, **labels: str) -> None:
        """Have an alert fire for so many minutes; 0 resolves it."""
        now = datetime.now(timezone.utc)
        # Its own guess of a start that is left out is the end.
        times = {"startsAt": now.isoformat(), "endsAt": (now + timedelta(minutes=minutes)).isoformat()}
        alert = {"labels": labels, "annotations": annotations or {}, **times}
        self.ask("/api/v2/alerts", [alert])

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/api/v2/alerts")
        return found

    def silences(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/api/v2/silences")
        return found


class Prometheus(_Server):
    """Scrapes the /metrics of one address every other second and tells an Alertmanager what its rules find."""

    program = "/usr/bin/prometheus"

    def __init__(
        self, folder: Path, target: str, alertmanager: Alertmanager, rules: list[dict[str, Any]], ca_file: str = ""
    ) -> None:
        super().__init__(folder)
        self.target, self.alertmanager, self.rules, self.ca_file = target, alertmanager, rules, ca_file

    def arguments(self) -> list[str]:
        return [f"--storage.tsdb.path={self.folder / 'data'}", "--log.level=warn"]

    def configuration(self) -> dict[str, Any]:
        place = urllib.parse.urlsplit(self.target)
        scrape: dict[str, Any] = {
            "job_name": JOB, "scheme": place.scheme, "static_configs": [{"targets": [place.netloc]}],
        }  # fmt: skip
        if self.ca_file:
            scrape["tls_config"] = {"ca_file": self.ca_file}
        told = {"static_configs": [{"targets": [urllib.parse.urlsplit(self.alertmanager.address).netloc]}]}
        rules = self.write("rules.yml", {"groups": [{"name": "tracker", "rules": self.rules}]})
        return {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "alerting": {"alertmanagers": [told]},
            "scrape_configs": [scrape],
        }

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.ask(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def sees(self, value: str) -> bool:
        """Whether the target is up ("1") or down ("0") for it; neither before the first scrape."""
        return [one["value"][1] for one in self.query(f'up{{job="{JOB}"}}')] == [value]
