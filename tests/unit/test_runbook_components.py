"""The managers of components: what they say, and the exact command lines they are given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import runbook_components
from ansible.module_utils.runbook_components import VERBS, Component, ComponentError, Status
from support.postgres import wait_until

FAKE = Path(__file__).resolve().parent.parent / "fakes" / "tool"
SYSTEMD = {"manager": "systemd", "unit": "tracker.service"}
COMPOSE = {"manager": "compose", "unit": "app", "config": "/srv/compose.yml"}
SUPERVISOR = {"manager": "supervisor", "unit": "app", "config": "/srv/supervisord.conf"}


class Tools:
    """The managers' programs, replaced on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_file = folder, folder / "calls"

    def answer(self, name: str, out: str = "", err: str = "", rc: int = 0) -> None:
        for ending, text in (("out", out), ("err", err), ("rc", str(rc))):
            (self.folder / f"{name}.{ending}").write_text(text)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "journalctl", "docker", "supervisorctl", "control"):
        (programs / name).symlink_to(FAKE)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_ANSWERS", str(tmp_path))
    return Tools(tmp_path)


def show(
    load: str = "loaded",
    active: str = "active",
    sub: str = "running",
    result: str = "success",
    status: int = 0,
    restarts: int = 0,
) -> str:
    return (
        f"Result={result}\nNRestarts={restarts}\nExecMainStatus={status}\nLoadState={load}\nActiveState={active}\n"
        f"SubState={sub}\nActiveEnterTimestamp=Sun 2026-03-15 12:00:00 UTC\n"
    )


@pytest.mark.parametrize(
    ("answer", "state", "detail"),
    [
        (show(), "running", "active (running), result success"),
        (show(active="reloading", sub="reload"), "running", "reloading (reload), result success"),
        (
            show(active="activating", sub="auto-restart", result="exit-code"),
            "starting",
            "activating (auto-restart), result exit-code",
        ),
        (show(active="failed", sub="failed", result="oom-kill"), "failed", "failed (failed), result oom-kill"),
        (show(active="inactive", sub="dead"), "stopped", "inactive (dead), result success"),
        (show(active="deactivating", sub="stop"), "stopped", "deactivating (stop), result success"),
        (show(load="not-found", active="inactive", sub="dead"), "absent", "unit tracker.service does not exist"),
    ],
)
def test_systemd_states(tools: Tools, answer: str, state: str, detail: str) -> None:
    tools.answer("systemctl", answer)
    status = Component("app", SYSTEMD).status()
    assert (status.state, status.detail) == (state, detail)
    assert tools.calls() == [
        "systemctl [show] [tracker.service] [--property] "
        "[LoadState,ActiveState,SubState,Result,ExecMainStatus,NRestarts,ActiveEnterTimestamp]"
    ]


def test_systemd_numbers(tools: Tools) -> None:
    tools.answer("systemctl", show(active="failed", sub="failed", result="exit-code", status=7, restarts=5))
    assert Component("app", SYSTEMD).status() == Status(
        "failed", "failed (failed), result exit-code", 5, 7, "Sun 2026-03-15 12:00:00 UTC"
    )
    # An older systemd does not count restarts and leaves the line out.
    tools.answer(
        "systemctl", "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nExecMainStatus=0\n"
    )
    assert Component("app", SYSTEMD).status().restarts == 0


def container(state: str, code: int = 0, status: str = "words") -> dict[str, Any]:
    return {"Name": "tracker-app-1", "Service": "app", "State": state, "ExitCode": code, "Status": status}


@pytest.mark.parametrize("style", ["array", "lines"])
@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([container("running", 0, "Up 2 hours")], Status("running", "Up 2 hours", None, 0)),
        ([container("restarting", 1, "Restarting (1)")], Status("starting", "Restarting (1)", None, 1)),
        ([container("created", 0, "Created")], Status("stopped", "Created", None, 0)),
        ([container("paused", 0, "Up (Paused)")], Status("stopped", "Up (Paused)", None, 0)),
        ([container("exited", 0, "Exited (0)")], Status("stopped", "Exited (0)", None, 0)),
        ([container("exited", 137, "Exited (137)")], Status("failed", "Exited (137)", None, 137)),
        ([container("dead", 0, "")], Status("stopped", "dead", None, 0)),
        ([], Status("absent", "service app has no container")),
    ],
)
def test_compose_states_in_both_formats(tools: Tools, style: str, found: list[dict[str, Any]], status: Status) -> None:
    out = json.dumps(found) + "\n" if style == "array" else "".join(json.dumps(item) + "\n" for item in found)
    tools.answer(
        "docker",
        out,
        'time="2026-03-15" level=warning msg="the attribute `version` is obsolete"\n[beware] of brackets\n',
    )
    assert Component("app", COMPOSE).status() == status
    assert tools.calls() == ["docker [compose] [-f] [/srv/compose.yml] [ps] [--all] [--format] [json] [app]"]


def test_compose_without_such_a_service(tools: Tools) -> None:
    tools.answer("docker", "", "no such service: app\n", 1)
    assert Component("app", COMPOSE).status() == Status("absent", "no such service: app")


@pytest.mark.parametrize(
    ("answer", "rc", "state"),
    [
        ("app    RUNNING   pid 17, uptime 1:02:03\n", 0, "running"),
        ("app    STARTING  \n", 3, "starting"),
        ("app    BACKOFF   Exited too quickly (process log may have details)\n", 3, "failed"),
        ("app    FATAL     can't find command '/nowhere'\n", 3, "failed"),
        ("app    UNKNOWN   \n", 3, "failed"),
        ("app    EXITED    Mar 15 12:00 PM\n", 3, "stopped"),
        ("app    STOPPED   Not started\n", 3, "stopped"),
        ("app    STOPPING  \n", 3, "stopped"),
        ("app: ERROR (no such process)\n", 4, "absent"),
    ],
)
def test_supervisor_states(tools: Tools, answer: str, rc: int, state: str) -> None:
    tools.answer("supervisorctl", answer, rc=rc)
    since = "pid 17" if state == "running" else ""
    assert Component("app", SUPERVISOR).status() == Status(state, answer.strip(), since=since)
    assert tools.calls() == ["supervisorctl [-c] [/srv/supervisord.conf] [status] [app]"]


@pytest.mark.parametrize(
    ("description", "name", "out", "err"),
    [
        (SYSTEMD, "systemctl", "", "Failed to connect to bus: No such file or directory\n"),
        (SYSTEMD, "systemctl", "LoadState=loaded\n", ""),
        (COMPOSE, "docker", "", "Cannot connect to the Docker daemon\n"),
        (SUPERVISOR, "supervisorctl", "unix:///run/supervisor.sock no such file\n", ""),
    ],
)
def test_a_manager_that_does_not_answer_is_told_apart_from_a_stopped_component(
    tools: Tools, description: dict[str, Any], name: str, out: str, err: str
) -> None:
    tools.answer(name, out, err, 1)
    with pytest.raises(ComponentError, match=f"exit code 1: {(out or err).strip()}"):
        Component("app", description).status()


VERB_LINES = {
    "systemd": {
        "started": "systemctl [reset-failed] [tracker.service]\nsystemctl [start] [tracker.service]",
        "stopped": "systemctl [stop] [tracker.service]",
        "restarted": "systemctl [reset-failed] [tracker.service]\nsystemctl [restart] [tracker.service]",
        "reloaded": "systemctl [reload] [tracker.service]",
    },
    "compose": {
        "started": "docker [compose] [-f] [/srv/compose.yml] [up] [-d] [--no-deps] [app]",
        "stopped": "docker [compose] [-f] [/srv/compose.yml] [stop] [app]",
        "restarted": "docker [compose] [-f] [/srv/compose.yml] [restart] [app]",
        "reloaded": "docker [compose] [-f] [/srv/compose.yml] [kill] [--signal] [HUP] [app]",
    },
    "supervisor": {
        "started": "supervisorctl [-c] [/srv/supervisord.conf] [start] [app]",
        "stopped": "supervisorctl [-c] [/srv/supervisord.conf] [stop] [app]",
        "restarted": "supervisorctl [-c] [/srv/supervisord.conf] [restart] [app]",
        "reloaded": "supervisorctl [-c] [/srv/supervisord.conf] [signal] [HUP] [app]",
    },
}


@pytest.mark.parametrize("state", VERBS)
@pytest.mark.parametrize("description", [SYSTEMD, COMPOSE, SUPERVISOR], ids=lambda d: d["manager"])
def test_verbs(tools: Tools, description: dict[str, Any], state: str) -> None:
    component = Component("app", description)
    component.ensure(state)
    assert tools.calls() == VERB_LINES[description["manager"]][state].splitlines()
    tools.answer(component.command("x")[0], "", "it would not\n", 5)
    with pytest.raises(
        ComponentError,
        match=rf"{re.escape(component.command(VERBS[state])[0])} .* failed with exit code 5: it would not",
    ):
        component.ensure(state)


@pytest.mark.parametrize(
    ("description", "line"),
    [
        (SYSTEMD, "journalctl [--no-pager] [--output] [short-iso] [--lines] [50] [--unit] [tracker.service]"),
        (COMPOSE, "docker [compose] [-f] [/srv/compose.yml] [logs] [--no-color] [--tail] [50] [app]"),
        (SUPERVISOR, "supervisorctl [-c] [/srv/supervisord.conf] [tail] [-10000] [app] [stderr]"),
    ],
)
def test_logs(tools: Tools, description: dict[str, Any], line: str) -> None:
    tools.answer(line.split(maxsplit=1)[0], "log lines\n")
    assert Component("app", description).logs(50) == "log lines\n"
    assert tools.calls() == [line]


@pytest.mark.parametrize("description", [SYSTEMD, COMPOSE, SUPERVISOR], ids=lambda d: d["manager"])
def test_another_command_in_the_managers_place(tools: Tools, description: dict[str, Any]) -> None:
    Component("app", {**description, "control": ["control", "--quiet"]}).ensure("started")
    assert tools.calls()[0].startswith("control [--quiet] [")


def test_the_unit_is_named_like_the_component_unless_told(tools: Tools) -> None:
    Component("app", {"manager": "systemd"}).ensure("started")
    assert tools.calls() == ["systemctl [reset-failed] [app]", "systemctl [start] [app]"]


@pytest.mark.parametrize("manager", [None, "upstart", ""])
def test_an_unknown_manager(manager: str | None) -> None:
    with pytest.raises(
        ComponentError, match=f"component app: manager is {manager!r}; it must be one of systemd, compose, supervisor"
    ):
        Component("app", {"manager": manager})


@pytest.mark.parametrize("manager", ["compose", "supervisor"])
def test_managers_that_need_a_file(manager: str) -> None:
    with pytest.raises(
        ComponentError, match=f"component app: set config to the path of its {manager} configuration file"
    ):
        Component("app", {"manager": manager, "unit": "app"})


def test_a_manager_that_is_not_installed(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ComponentError, match="exit code 127: systemctl: not found"):
        Component("app", SYSTEMD).status()
    with pytest.raises(ComponentError, match="exit code 127: docker: not found"):
        Component("app", COMPOSE).ensure("started")


def test_a_manager_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runbook_components, "COMMAND_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(ComponentError, match=r"exit code 124: sh: no answer within 0\.2 s"):
        Component("300", {"manager": "systemd", "control": ["sh", "-c", "exec sleep 300"]}).ensure("started")


# --- a real supervisor ------------------------------------------------------------------------------------------

TINY = """
import signal, sys, time
print("told on stderr", file=sys.stderr, flush=True)
signal.signal(signal.SIGHUP, lambda *_: open(sys.argv[1], "a").write("reloaded\\n"))
while True:
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("s")
    config, program = folder / "supervisord.conf", folder / "tiny.py"
    program.write_text(TINY)
    config.write_text(
        f"""[unix_http_server]
file={folder}/s
[supervisord]
logfile={folder}/log
pidfile={folder}/pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/s
[program:tiny]
command={sys.executable} {program} {folder}/signals
autostart=false
startsecs=0
stderr_logfile={folder}/tiny.err
[program:broken]
command=/bin/false
autostart=false
startretries=0
"""
    )
    tools = Path(sys.executable).parent
    daemon = subprocess.Popen(
        [tools / "supervisord", "-n", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until((folder / "s").exists, "supervisord listens")
        control = [str(tools / "supervisorctl")]
        yield {"manager": "supervisor", "unit": "tiny", "config": str(config), "control": control, "folder": folder}
    finally:
        daemon.terminate()
        daemon.wait(20)


def pid_of(status: Status) -> int:
    found = re.search(r"pid (\d+)", status.detail)
    assert found, status
    return int(found[1])


def test_a_real_supervisor_starts_restarts_reloads_and_stops(supervisor: dict[str, Any]) -> None:
    tiny = Component("tiny", supervisor)
    assert tiny.status() == Status("stopped", tiny.status().detail) and "Not started" in tiny.status().detail
    tiny.ensure("started")
    first = pid_of(wait_until(lambda: tiny.status() if tiny.status().state == "running" else None, "it runs"))
    assert wait_until(lambda: "told on stderr" in tiny.logs(10), "its log is read")
    tiny.ensure("reloaded")
    wait_until((supervisor["folder"] / "signals").exists, "it heard the signal")
    assert pid_of(tiny.status()) == first
    tiny.ensure("restarted")
    second = pid_of(wait_until(lambda: tiny.status() if tiny.status().state == "running" else None, "it runs again"))
    assert second != first and not os.path.exists(f"/proc/{first}")
    tiny.ensure("stopped")
    assert tiny.status().state == "stopped" and not os.path.exists(f"/proc/{second}")
    tiny.ensure("restarted")
    assert tiny.status().state == "running", "what is stopped is started by a restart"
    tiny.ensure("stopped")


def test_a_real_supervisor_on_what_is_broken_or_absent(supervisor: dict[str, Any]) -> None:
    broken = Component("broken", {**supervisor, "unit": "broken"})
    for state in ("started", "restarted"):
        with pytest.raises(ComponentError, match="broken: ERROR"):
            broken.ensure(state)
        assert broken.status().state == "failed"
    absent = Component("absent", {**supervisor, "unit": "absent"})
    assert absent.status().state == "absent"
    for state in VERBS:
        with pytest.raises(ComponentError, match="no such process"):
            absent.ensure(state)


def test_no_supervisor_at_all(supervisor: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "supervisord.conf"
    config.write_text(f"[supervisorctl]\nserverurl=unix://{tmp_path}/none\n")
    with pytest.raises(ComponentError, match=f"{tmp_path}/none"):
        Component("tiny", {**supervisor, "config": str(config)}).status()
