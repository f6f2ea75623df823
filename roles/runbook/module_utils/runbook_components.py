# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The managers that control a component: systemd, compose and supervisor. Nothing else in the project knows them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

Run = Callable[[list[str]], tuple[int, str]]
MANAGERS = ("systemd", "compose", "supervisor")
VERBS = {"started": "start", "stopped": "stop", "restarted": "restart", "reloaded": "reload"}
COMMAND_TIMEOUT_SECONDS = 60


class ComponentError(Exception):
    """The component is described wrongly, or its manager refused; the text says which and what to do."""


@dataclass(frozen=True)
class Status:
    """State of one component: running, stopped, starting, failed or absent; `detail` is the manager's own word."""

    state: str
    detail: str
    restarts: int | None = None
    exit_code: int | None = None
    since: str = ""


def run(command: list[str]) -> tuple[int, str]:
    """Run a manager's command and return its exit code and output (both streams)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False)
    except FileNotFoundError:
        return 127, f"{command[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]}: no answer within {COMMAND_TIMEOUT_SECONDS} s"
    return done.returncode, done.stdout + done.stderr


class Component:
    """One part of the deployment as the inventory describes it: manager, unit, and for two managers a config."""

    def __init__(self, name: str, description: Mapping[str, Any], run: Run = run) -> None:
        self.name, self._run = name, run
        self.manager = description.get("manager")
        if self.manager not in MANAGERS:
            raise ComponentError(
                f"component {name}: manager is {self.manager!r}; it must be one of {', '.join(MANAGERS)}"
            )
        self.unit = str(description.get("unit") or name)
        self.config = description.get("config")
        self.control = list(description.get("control") or [])
        if self.manager != "systemd" and not self.config:
            raise ComponentError(f"component {name}: set config to the path of its {self.manager} configuration file")

    def command(self, verb: str) -> list[str]:
        """Return the command line that has the manager start, stop, restart or reload the component."""
        if self.manager == "systemd":
            return [*(self.control or ["systemctl"]), verb, self.unit]
        if self.manager == "compose":
            base = [*(self.control or ["docker", "compose"]), "-f", str(self.config)]
            return {
                "start": [*base, "up", "-d", "--no-deps", self.unit],
                "reload": [*base, "kill", "--signal", "HUP", self.unit],
            }.get(verb, [*base, verb, self.unit])
        base = [*(self.control or ["supervisorctl"]), "-c", str(self.config)]
        return [*base, "signal", "HUP", self.unit] if verb == "reload" else [*base, verb, self.unit]

    def ensure(self, state: str) -> None:
        """Have the manager bring the component into `state` (a key of VERBS). Raise ComponentError if it fails."""
        command = self.command(VERBS[state])
        if self.manager == "systemd" and state in ("started", "restarted"):
            # systemd counts its own automatic restarts; who asks for one has a budget elsewhere.
            self._run([*(self.control or ["systemctl"]), "reset-failed", self.unit])
        rc, output = self._run(command)
        if rc != 0:
            raise ComponentError(f"{' '.join(command)} failed with exit code {rc}: {output.strip()[:400]}")

    def status(self) -> Status:
        """Return the component's state as its manager tells it."""
        return {"systemd": self._systemd, "compose": self._compose, "supervisor": self._supervisor}[str(self.manager)]()

    def logs(self, lines: int) -> str:
        """Return the component's last `lines` log lines, as its manager keeps them."""
        if self.manager == "systemd":
            command = ["journalctl", "--no-pager", "--output", "short-iso", "--lines", str(lines), "--unit", self.unit]
        elif self.manager == "compose":
            command = [
                *(self.control or ["docker", "compose"]),
                "-f",
                str(self.config),
                "logs",
                "--no-color",
                "--tail",
                str(lines),
                self.unit,
            ]
        else:
            base = [*(self.control or ["supervisorctl"]), "-c", str(self.config)]
            command = [*base, "tail", f"-{lines * 200}", self.unit, "stderr"]
        return self._run(command)[1]

    def _systemd(self) -> Status:
        names = "LoadState,ActiveState,SubState,Result,ExecMainStatus,NRestarts,ActiveEnterTimestamp"
        rc, output = self._run([*(self.control or ["systemctl"]), "show", self.unit, "--property", names])
        values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        if rc != 0 or not values:
            raise ComponentError(f"systemctl show {self.unit} failed with exit code {rc}: {output.strip()[:400]}")
        if values.get("LoadState") == "not-found":
            return Status("absent", f"unit {self.unit} does not exist")
        states = {"active": "running", "reloading": "running", "activating": "starting", "failed": "failed"}
        state = states.get(values.get("ActiveState", ""), "stopped")
        detail = f"{values.get('ActiveState')} ({values.get('SubState')}), result {values.get('Result')}"
        return Status(
            state,
            detail,
            int(values.get("NRestarts") or 0),
            int(values.get("ExecMainStatus") or 0),
            values.get("ActiveEnterTimestamp", ""),
        )

    def _compose(self) -> Status:
        base = [*(self.control or ["docker", "compose"]), "-f", str(self.config)]
        rc, output = self._run([*base, "ps", "--all", "--format", "json", self.unit])
        if rc != 0 and "no such service" in output:
            return Status("absent", output.strip())
        if rc != 0:
            raise ComponentError(f"{' '.join(base)} ps failed with exit code {rc}: {output.strip()[:400]}")
        # Compose 2.21 and newer print one object a line, older ones an array.
        found = [item for line in output.splitlines() if line.strip()[:1] in "[{" for item in _objects(line)]
        if not found:
            return Status("absent", f"service {self.unit} has no container")
        state = {"running": "running", "restarting": "starting", "created": "stopped", "paused": "stopped"}.get(
            found[0].get("State", "")
        )
        code = found[0].get("ExitCode")
        if state is None:
            state = "failed" if code else "stopped"
        return Status(state, str(found[0].get("Status") or found[0].get("State")), None, code)

    def _supervisor(self) -> Status:
        command = [*self.command("status")]
        rc, output = self._run(command)
        words = output.split(None, 2)
        states = {
            "RUNNING": "running",
            "STARTING": "starting",
            "BACKOFF": "failed",
            "FATAL": "failed",
            "EXITED": "stopped",
            "STOPPED": "stopped",
            "STOPPING": "stopped",
            "UNKNOWN": "failed",
        }
        if len(words) >= 2 and words[1] in states:
            pid = words[2].split(",")[0] if len(words) > 2 and words[2].startswith("pid ") else ""
            return Status(states[words[1]], output.strip(), since=pid)
        if "no such process" in output:
            return Status("absent", output.strip())
        raise ComponentError(f"{' '.join(command)} failed with exit code {rc}: {output.strip()[:400]}")


def _objects(line: str) -> list[dict[str, Any]]:
    try:
        parsed = json.loads(line)
    except ValueError:  # a warning that begins with a bracket
        return []
    return parsed if isinstance(parsed, list) else [parsed]
