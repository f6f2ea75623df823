"""How long a diagnosis of three hosts takes, and how soon a killed app is back, on a sandbox of its own."""

from __future__ import annotations

import json
import ssl
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from bench.measure import Figure, in_turn, timed
from bench.wrapper import BIN, INVENTORY, PING, ROOT, environment_of, run

ROUNDS = 5
PLAYBOOK = ROOT / "playbooks/service-down.yml"
LIMIT_SECONDS = 60.0
# Three hosts of a deployment: two apps and their database.
HOSTS: dict[str, list[str]] = {"app1": ["app"], "app2": ["app"], "db1": ["database"]}
RESTART = """
- hosts: app
  gather_facts: false
  tasks:
    - community.general.supervisorctl:
        name: llm-cost-tracker
        state: restarted
        config: "{{ tracker_components.app.config }}"
        supervisorctl_path: "{{ tracker_components.app.control[0] }}"
"""


def incidents(scratch: Path) -> list[Figure]:
    """Figures for `service-down`: module calls and time of a diagnosis, and time to recovery."""
    sandbox = [str(BIN / "runbook"), "run", "sandbox", "-i", str(INVENTORY), "--set"]
    run([*sandbox, "sandbox_state=present", "--set", "sandbox_scale=1"], scratch)
    try:
        return [*diagnosis(scratch), recovery(scratch)]
    finally:
        run([*sandbox, "sandbox_state=absent"], scratch)


def inventory(scratch: Path, hosts: dict[str, list[str]]) -> str:
    """Write the sandbox's addresses down, as an inventory of a deployment has them, for hosts with these parts."""
    record = yaml.safe_load((scratch / "sandbox/sandbox.yml").read_text())
    supervisor = {
        "manager": "supervisor",
        "control": [str(BIN / "supervisorctl")],
        "config": record["supervisor_config"],
    }
    shared: dict[str, Any] = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "tracker_become": False,
        "tracker_url": record["app_url"], "tracker_ca_file": record["app_ca_file"], "tracker_log_dir": record["app_log_dir"],
        "tracker_database_name": record["database"], "tracker_database_host": record["database_socket_dir"],
        "tracker_database_port": record["database_port"], "tracker_database_user": "postgres",
        "service_down_database_os_user": record["os_user"], "service_down_database_bin_dir": record["postgres_bin_dir"],
        "service_down_settle_seconds": 4, "service_down_stable_seconds": 4,
        # Killed again and again within minutes, the app is not the first time's any more.
        "runbook_restarts_per_hour": 99, "runbook_restart_wait_seconds": 0, "service_down_starts_max": 1000,
        "tracker_components": {
            "app": supervisor | {"unit": "llm-cost-tracker", "health": f"{record['app_url']}/health/ready"},
            "database": supervisor | {"unit": "postgresql"},
        },
    }  # fmt: skip
    listed = {
        host: {"tracker_parts": parts, "runbook_state_dir": str(scratch / "states" / host)}
        for host, parts in hosts.items()
    }
    groups = {part: {"hosts": {h: {} for h, parts in hosts.items() if part in parts}} for part in ("app", "database")}
    file = scratch / f"{'-'.join(hosts)}.yml"
    file.write_text(yaml.safe_dump({"all": {"vars": shared, "hosts": listed, "children": groups}}))
    return str(file)


def diagnosis(scratch: Path) -> list[Figure]:
    three, ping_file = inventory(scratch, HOSTS), scratch / "ping-three.yml"
    ping_file.write_text(PING.replace("hosts: database", "hosts: all"))
    ours = [str(BIN / "ansible-playbook"), str(PLAYBOOK), "-i", three]
    ping = [str(BIN / "ansible-playbook"), str(ping_file), "-i", three]
    took, floor, _ = in_turn(lambda: run(ours, scratch), lambda: run(ping, scratch), ROUNDS)
    result = json.loads(run(ours, scratch, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json"))
    calls = dict.fromkeys(HOSTS, 0)
    slowest = 0.0
    for task in (task for play in result["plays"] for task in play["tasks"]):
        for host, said in task["hosts"].items():
            calls[host] += said.get("action") in ("runbook_open", "runbook_probe", "runbook_remedy", "runbook_close")
            slowest = max([slowest, *(check["seconds"] for check in said.get("results") or [] if "seconds" in check)])
    bound = 2.5 * floor + slowest
    most = max(calls.values())
    return [
        Figure("module calls a host, diagnosis of three hosts", str(most), "-", "-", "<= 3", 0 < most <= 3),
        Figure(
            "diagnosis of three hosts",
            f"{took:.2f} s",
            f"one ping {floor:.2f} s, slowest check {slowest:.2f} s",
            f"{(took - slowest) / floor:.2f} without that check",
            "<= 2.5 x ping + slowest check",
            took <= bound,
        ),
    ]


class App:
    """The sandbox's app: killed, and asked until it is ready again."""

    def __init__(self, scratch: Path) -> None:
        self.record = yaml.safe_load((scratch / "sandbox/sandbox.yml").read_text())
        self._address = f"{self.record['app_url']}/health/ready"
        self._trust = ssl.create_default_context(cafile=self.record["app_ca_file"])

    def kill(self) -> None:
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-c", self.record["supervisor_config"]]
        pid = subprocess.run([*control, "pid", "llm-cost-tracker"], capture_output=True, text=True, check=True).stdout
        subprocess.run(["kill", "-KILL", pid.strip()], check=True)
        self.until(False)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._address, timeout=2, context=self._trust) as answer:  # noqa: S310  its own https address
                return bool(json.load(answer)["status"] == "ready")
        except (OSError, ValueError):
            return False

    def until(self, wanted: bool) -> None:
        end = time.monotonic() + LIMIT_SECONDS
        while self.ready() is not wanted:
            assert time.monotonic() < end, f"the app is not {'ready' if wanted else 'gone'} in time"
            time.sleep(0.02)


def recovery(scratch: Path) -> Figure:
    """Time from the start of a command to the first answer of the app, ours with all its guards against one task."""
    app, restart, alert = App(scratch), scratch / "restart.yml", scratch / "alert.json"
    restart.write_text(RESTART)
    alert.write_text(json.dumps({"labels": {"alertname": "ServiceDown", "severity": "critical"}, "status": "firing",
                                 "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "0123456789abcdef"}))  # fmt: skip
    one = inventory(scratch, {"sandbox": ["app", "database"]})
    ours = ["runbook", "run", "service-down", "-i", one, "--alert", str(alert), "--fix"]
    bare = ["ansible-playbook", str(restart), "-i", one]

    def recover(command: list[str]) -> float:
        app.kill()
        environment = environment_of(scratch)
        with subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            took = timed(lambda: app.until(True))
            process.wait()
        return took

    recover(ours), recover(bare)
    pairs = [(recover(ours), recover(bare)) for _ in range(ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    took, other = (statistics.median(pair[n] for pair in pairs) for n in (0, 1))
    return Figure("alert to recovered app, supervisor", f"{took:.2f} s", f"one restart task {other:.2f} s", f"{ratio:.2f}",
                  "<= 2", ratio <= 2)  # fmt: skip
