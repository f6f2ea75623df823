"""The shell function of the checks, and what it makes of what systemd, docker compose and supervisor say."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
import pytest

TEMPLATE = Path(__file__).resolve().parents[2] / "roles" / "runbook" / "templates" / "components.sh.j2"
FIRST, SECOND = "1f" * 32, "2e" * 32
NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
OLD_ATTRIBUTE = 'time="2026-03-15T12:00:00Z" level=warning msg="/srv/compose.yml: the attribute `version` is obsolete"'


def rendered(components: dict[str, Any]) -> str:
    """Return the function as Ansible's template lookup would."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701  shell, not HTML
    environment.filters["quote"] = shlex.quote
    return environment.from_string(TEMPLATE.read_text()).render(tracker_components=components)


@dataclass
class Said:
    code: int
    out: str
    err: str


class Host:
    """A host whose managers answer as told, by the arguments they are given. An argument nobody foresaw is an error."""

    def __init__(self, root: Path, shell: str) -> None:
        self.root, self.shell, self.programs = root, shell, root / "bin"
        self.programs.mkdir()
        self.config = root / "supervisord.conf"
        self.components: dict[str, dict[str, Any]] = {
            "systemd": {"manager": "systemd", "unit": "tracker.service"},
            "compose": {"manager": "compose", "unit": "app", "config": "/srv/compose.yml"},
            "supervisor": {"manager": "supervisor", "unit": "app", "config": str(self.config)},
        }

    def program(self, name: str, *answers: tuple[str, str] | tuple[str, str, int]) -> None:
        """Make a program; an answer is the pattern of its arguments, what it says, and its exit code."""
        lines = ["#!/bin/sh", 'case "$*" in']
        for pattern, out, *code in answers:
            words = "*".join(shlex.quote(part) if part else "" for part in pattern.split("*"))
            stream = " >&2" if code and name != "supervisorctl" else ""  # which complains on stdout
            lines.append(f"{words}) printf %s {shlex.quote(out)}{stream}; exit {code[0] if code else 0} ;;")
        lines += [f'*) echo "{name}: what is $*?" >&2; exit 64 ;;', "esac"]
        path = self.programs / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)

    def ask(self, *words: str) -> Said:
        script = f"{rendered(self.components)}\ncomponent {shlex.join(words)}"
        done = subprocess.run(
            [self.shell, "-c", script], env={"PATH": f"{self.programs}:/usr/bin:/bin"}, cwd=self.root,
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert "what is" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(params=["dash", "bash"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """Once for /bin/sh of Debian, which runs the checks, and once for the shell of who pastes `runbook env`."""
    return Host(tmp_path, request.param)


# --- systemd ----------------------------------------------------------------------------------------------------


def systemctl(host: Host, **properties: str) -> None:
    shown = {"LoadState": "loaded", "ActiveState": "active", "Result": "success", "Id": "tracker.service",
             "MainPID": "0", "NeedDaemonReload": "no"} | properties  # fmt: skip
    host.program("systemctl", *[(f"show --property {k} --value tracker.service", f"{v}\n") for k, v in shown.items()])


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({}, "running"),
        ({"ActiveState": "reloading"}, "running"),
        ({"ActiveState": "inactive"}, "inactive (success)"),
        ({"ActiveState": "failed", "Result": "oom-kill"}, "failed (oom-kill)"),
        ({"ActiveState": "activating", "Result": "exit-code"}, "activating (exit-code)"),
        ({"ActiveState": "failed", "Result": "start-limit-hit"}, "failed (start-limit-hit)"),
        ({"ActiveState": "inactive", "LoadState": "not-found"}, "absent"),
    ],
)
def test_systemd_status(host: Host, properties: dict[str, str], told: str) -> None:
    systemctl(host, **properties)
    assert host.ask("status", "systemd") == Said(0, f"{told}\n", "")


def test_systemd_that_does_not_answer(host: Host) -> None:
    said = "System has not been booted with systemd as init system (PID 1). Can't operate."
    host.program("systemctl", ("*", said, 1))
    assert host.ask("status", "systemd") == Said(1, "", said)
    assert host.ask("pids", "systemd").out == ""
    assert host.ask("uptime", "systemd").out == "0\n"


def test_systemd_starts_are_counted_by_the_unit_s_full_name(host: Host) -> None:
    systemctl(host)
    started = "--quiet --no-pager --output cat --since -7min UNIT=tracker.service MESSAGE_ID=*"
    host.program("journalctl", (started, "Started tracker.service.\nFailed to start it.\nStarted tracker.service.\n"))
    assert host.ask("starts", "systemd", "7").out.strip() == "3"
    host.program("journalctl", (started.replace("7", "10"), ""))
    assert host.ask("starts", "systemd").out.strip() == "0"


def test_systemd_processes_log_and_unit_file(host: Host) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        systemctl(host, MainPID=str(os.getpid()), NeedDaemonReload="yes")
        pids = host.ask("pids", "systemd").out.split()
        assert pids[0] == str(os.getpid()) and str(child.pid) in pids
        age = int(host.ask("uptime", "systemd").out)
        assert age >= int(subprocess.check_output(["ps", "-o", "etimes=", "-p", str(os.getpid())])) - 1
    finally:
        child.kill()
        child.wait()
    host.program("journalctl", ("--no-pager --quiet --output cat --lines 5 --unit tracker.service", "last words\n"))
    assert host.ask("log", "systemd", "5").out == "last words\n"
    assert host.ask("stale", "systemd").out == "tracker.service\n"
    systemctl(host)
    assert host.ask("stale", "systemd") == Said(0, "", "")
    assert host.ask("pids", "systemd") == Said(0, "", "")


def test_systemd_kills_for_memory(host: Host) -> None:
    systemctl(host, Result="oom-kill")
    line = "2026-03-15T12:00:00+0000 web systemd[1]: tracker.service: A process of this unit has been killed by the OOM killer."
    host.program(
        "journalctl", ("* --since -10min UNIT=tracker.service MESSAGE_ID=fe6faa94e7774663a0da52717891d8ef", f"{line}\n")
    )
    host.program("dmesg", ("*", ""))
    assert host.ask("oom", "systemd").out == f"{line}\ntracker.service: oom-kill\n"


# --- docker compose ---------------------------------------------------------------------------------------------


def container(state: str, number: int = 1, code: int = 0) -> str:
    return (
        f'{{"Command":"\\"python -m app\\"","ExitCode":{code},"Health":"","ID":"{FIRST[:12]}","Name":"tracker-app-{number}",'
        f'"Project":"tracker","Service":"app","State":"{state}","Status":"Up 2 hours"}}'
    )


LISTED = "compose -f /srv/compose.yml ps --all --format json app"
IDS = "compose -f /srv/compose.yml ps --all --quiet app"


@pytest.mark.parametrize("style", ["array", "lines"])
@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["running"], "running"),
        (["exited"], "exited"),
        (["restarting"], "restarting"),
        (["created"], "created"),
        (["paused"], "paused"),
        (["dead"], "dead"),
        ([], "absent"),
        (["running", "running"], "running"),
        (["running", "restarting"], "restarting"),
        (["exited", "running"], "exited"),
    ],
)
def test_compose_status_in_both_formats(host: Host, style: str, states: list[str], told: str) -> None:
    items = [container(state, number) for number, state in enumerate(states, 1)]
    out = f"[{','.join(items)}]\n" if style == "array" else "".join(f"{item}\n" for item in items)
    host.program("docker", (LISTED, out))
    assert host.ask("status", "compose") == Said(0, f"{told}\n", "")


def test_compose_that_warns_does_not_know_the_service_or_does_not_answer(host: Host) -> None:
    docker = host.programs / "docker"
    docker.write_text(f"#!/bin/sh\necho {shlex.quote(OLD_ATTRIBUTE)} >&2\necho {shlex.quote(container('running'))}\n")
    docker.chmod(0o755)
    assert host.ask("status", "compose") == Said(0, "running\n", "")
    host.program("docker", ("*", "no such service: app\n", 1))
    assert host.ask("status", "compose") == Said(0, "absent\n", "")
    host.program("docker", ("*", f"{OLD_ATTRIBUTE}\n{NO_DAEMON}\n", 1))
    assert host.ask("status", "compose") == Said(1, f"{NO_DAEMON}\n", "")


def event(what: str, container_id: str, second: int) -> str:
    labels = "com.docker.compose.project=tracker, com.docker.compose.service=app, image=tracker:1.4"
    return f"2026-03-15T12:00:{second:02}.000000000Z container {what} {container_id} ({labels})\n"


def test_compose_starts_are_those_of_the_container_that_starts_most(host: Host) -> None:
    both = f"--filter container={FIRST} --filter container={SECOND}"
    loop = [event("start", FIRST, 1), *[event("start", SECOND, second) for second in range(2, 7)]]
    host.program(
        "docker",
        (IDS, f"{FIRST}\n{SECOND}\n"),
        (f"events --since 10m --until * --filter event=start {both}", "".join(loop)),
    )
    assert host.ask("starts", "compose").out == "5\n"
    host.program("docker", (IDS, ""))
    assert host.ask("starts", "compose").out == "0\n", "nobody is asked about the events of all containers"


def test_compose_processes_are_those_of_all_containers(host: Host) -> None:
    host.program("pgrep", ("-x docker-proxy", "900\n901\n"))
    host.program(
        "docker",
        (IDS, f"{FIRST}\n{SECOND}\n"),
        (f"top {FIRST} -o pid", "PID\n101\n102\n"),
        (f"top {SECOND} -o pid", "PID\n201\n"),
    )
    assert host.ask("pids", "compose").out.split() == ["101", "102", "201", "900", "901"]


def test_compose_between_two_starts_has_no_processes_and_no_uptime(host: Host) -> None:
    """The proxies that others have were taken for its own, and a crash loop for a container that runs for days."""
    host.program("pgrep", ("-x docker-proxy", f"{os.getpid()}\n"))
    host.program("docker", (IDS, f"{FIRST}\n"), (f"top {FIRST} -o pid", f"Container {FIRST} is restarting\n", 1))
    assert host.ask("pids", "compose").out == ""
    assert host.ask("uptime", "compose").out == "0\n"
    host.program("docker", (IDS, ""))
    assert host.ask("uptime", "compose").out == "0\n"


def test_compose_uptime_is_that_of_the_youngest_container(host: Host) -> None:
    host.program("ps", ("-o etimes= -p 101", "   8000\n"), ("-o etimes= -p 201", "      7\n"))
    running = [(f"top {FIRST} -o pid", "PID\n101\n102\n"), (f"top {SECOND} -o pid", "PID\n201\n")]
    host.program("docker", (IDS, f"{FIRST}\n{SECOND}\n"), *running)
    assert host.ask("uptime", "compose").out == "7\n"
    host.program("docker", (IDS, f"{FIRST}\n{SECOND}\n"), running[0], (f"top {SECOND} -o pid", "is restarting\n", 1))
    assert host.ask("uptime", "compose").out == "0\n"


def test_compose_kills_for_memory_are_told_after_a_restart_too(host: Host) -> None:
    events = f"events --since 10m --until * --filter event=oom --filter container={FIRST}"
    inspected = '[\n    {\n        "State": {\n            "OOMKilled": %s,\n            "ExitCode": 137\n'
    host.program(
        "docker", (IDS, f"{FIRST}\n"), (events, event("oom", FIRST, 3)), (f"inspect {FIRST}", inspected % "false")
    )
    assert host.ask("oom", "compose").out == f"2026-03-15T12:00:03.000000000Z container oom {FIRST}\n"
    host.program("docker", (IDS, f"{FIRST}\n"), (events, ""), (f"inspect {FIRST}", inspected % "true"))
    assert host.ask("oom", "compose").out == '"OOMKilled": true\n'
    host.program("docker", (IDS, f"{FIRST}\n"), (events, ""), (f"inspect {FIRST}", inspected % "false"))
    assert host.ask("oom", "compose").out == ""


def test_compose_log_and_another_engine(host: Host) -> None:
    host.components["compose"]["control"] = ["podman", "compose"]
    host.program("podman", ("compose -f /srv/compose.yml logs --no-color --no-log-prefix --tail 50 app", "words\n"),
                 (IDS, f"{FIRST}\n"), (f"events *event=start --filter container={FIRST}", event("start", FIRST, 1)))  # fmt: skip
    assert host.ask("log", "compose").out == "words\n"
    assert host.ask("starts", "compose").out == "1\n"


# --- supervisor -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "told", "rc"),
    [
        ("app                              RUNNING   pid 4711, uptime 1:02:03\n", 0, "running", 0),
        ("app                              STARTING  \n", 3, "starting", 0),
        ("app                              BACKOFF   Exited too quickly (process log may have details)\n", 3, "backoff", 0),
        ("app                              FATAL     can't find command '/nowhere'\n", 3, "fatal", 0),
        ("app                              EXITED    Mar 15 12:00 PM\n", 3, "exited", 0),
        ("app                              STOPPED   Not started\n", 3, "stopped", 0),
        ("app: ERROR (no such process)\n", 4, "absent", 0),
        ("app: ERROR (no such group)\n", 4, "absent", 0),
        ("app:app_00  RUNNING   pid 11, uptime 0:10:00\napp:app_01  FATAL     Exited too quickly\n", 3, "fatal", 0),
        ("unix:///run/supervisor.sock no such file\n", 4, "unix:///run/supervisor.sock no such file", 1),
        ("unix:///run/supervisor.sock refused connection\n", 4, "unix:///run/supervisor.sock refused connection", 1),
    ],
)  # fmt: skip
def test_supervisor_status(host: Host, answer: str, code: int, told: str, rc: int) -> None:
    host.program("supervisorctl", (f"-c {host.config} status app", answer, code))
    assert host.ask("status", "supervisor") == Said(rc, f"{told}\n", "")


def spawned(host: Host, *starts: tuple[int, int], name: str = "app") -> None:
    """Write supervisord's log: at so many minutes before now, with such a pid; between them what others do."""
    lines = []
    for minutes, pid in starts:
        at = datetime.now() - timedelta(minutes=minutes)
        lines.append(f"{at:%Y-%m-%d %H:%M:%S},123 INFO spawned: '{name}' with pid {pid}")
        lines.append(f"{at:%Y-%m-%d %H:%M:%S},200 INFO spawned: '{name}-worker' with pid {pid + 1}")
        lines.append(f"{at:%Y-%m-%d %H:%M:%S},900 INFO exited: {name} (exit status 1; not expected)")
    (host.root / "supervisord.log").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "line",
    [
        "logfile={root}/supervisord.log",
        "logfile = {root}/supervisord.log",
        "logfile={root}/supervisord.log ; (main log file;default $CWD/supervisord.log)",
        "logfile=%(here)s/supervisord.log",
    ],
)
def test_supervisor_starts_are_read_from_the_log_its_configuration_names(host: Host, line: str) -> None:
    text = f"[supervisord]\n{line.format(root=host.root)}\nlogfile_maxbytes=50MB\n[program:app]\nstdout_logfile=/x\n"
    host.config.write_text(text)
    spawned(host, (60, 1), (5, 2), (4, 3), (1, 4))
    assert host.ask("starts", "supervisor").out.strip() == "3"
    assert host.ask("starts", "supervisor", "90").out.strip() == "4"


def test_supervisor_starts_of_a_process_of_a_group(host: Host) -> None:
    host.components["supervisor"]["unit"] = "trackers:app"
    host.config.write_text(f"[supervisord]\nlogfile={host.root}/supervisord.log\n")
    spawned(host, (1, 4))
    assert host.ask("starts", "supervisor").out.strip() == "1"


def test_supervisor_kills_for_memory_are_known_by_pid_however_long_it_ran(host: Host) -> None:
    host.config.write_text(f"[supervisord]\nlogfile={host.root}/supervisord.log\n")
    spawned(host, (3000, 4711))
    killed = "2026-03-15T12:00:00,000000+00:00 Out of memory: Killed process {} (python3) total-vm:9000kB"
    other = killed.format(14711)
    host.program("dmesg", ("--since -10min --time-format iso", f"{other}\n{killed.format(4711)}\n"))
    assert host.ask("oom", "supervisor").out == f"{killed.format(4711)}\n"
    (host.root / "supervisord.log").write_text("")
    assert host.ask("oom", "supervisor").out == ""


def test_supervisor_processes_and_logs(host: Host) -> None:
    control = f"-c {host.config}"
    host.program(
        "supervisorctl",
        (f"{control} pid app", f"{os.getpid()}\n"),
        (f"{control} tail -5000 app stdout", "out 1\nout 2\n"),
        (f"{control} tail -5000 app stderr", "err 1\n"),
    )
    assert host.ask("pids", "supervisor").out.split()[0] == str(os.getpid())
    assert host.ask("log", "supervisor").out == "out 1\nout 2\nerr 1\n"
    assert host.ask("log", "supervisor", "1").out == "err 1\n"
    host.program(
        "supervisorctl",
        (f"{control} pid app", "0\n"),
        (f"{control} tail -5000 app stdout", "out 1\n"),
        (f"{control} tail -5000 app stderr", "app: ERROR (no log file)\n", 1),
    )
    assert host.ask("pids", "supervisor") == Said(0, "", "")
    assert host.ask("uptime", "supervisor").out == "0\n"
    assert host.ask("log", "supervisor").out == "out 1\n"
    for said in ("app: ERROR (no such process)\n", "unix:///run/supervisor.sock no such file\n"):
        host.program("supervisorctl", (f"{control} pid app", said, 1))
        assert host.ask("pids", "supervisor").out == ""


# --- whatever the manager ---------------------------------------------------------------------------------------


def test_leftovers_are_files_of_a_process_that_is_gone(host: Host) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    pid_file, path = host.root / "app.pid", host.root / "app.sock"
    host.components["systemd"] |= {"pid_file": str(pid_file), "socket": str(path)}
    systemctl(host, ActiveState="failed")
    assert host.ask("leftover", "systemd").out == ""
    pid_file.write_text(f"{ended.pid}\n")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    assert host.ask("leftover", "systemd").out == f"{pid_file}\n"
    listening.close()
    assert host.ask("leftover", "systemd").out == f"{pid_file}\n{path}\n"
    pid_file.write_text(f"{os.getpid()}\n")
    assert host.ask("leftover", "systemd").out == f"{path}\n"
    systemctl(host)
    assert host.ask("leftover", "systemd").out == "", "it runs: whatever lies there is in use"


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes somebody else")
def test_the_pid_of_somebody_else_s_process_is_no_leftover(scratch: Path) -> None:
    (scratch / "leftover").mkdir()
    host = Host(scratch / "leftover", "dash")
    pid_file = host.root / "app.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    host.components["systemd"] |= {"pid_file": str(pid_file)}
    systemctl(host, ActiveState="failed")
    script = f"PATH={host.programs}:$PATH\n{rendered(host.components)}\ncomponent leftover systemd"
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", host.shell, "-c", script],
        cwd="/", capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_validators_are_commands_as_they_stand_in_the_inventory(host: Host) -> None:
    host.components["systemd"]["validate"] = "echo \"it's\" 'bad' >&2; exit 3"
    assert host.ask("validate", "systemd") == Said(3, "it's bad\n", "")
    assert host.ask("validate", "compose") == Said(0, "", "")


@pytest.mark.parametrize("words", [("status", "cellar"), ("dance", "systemd")])
def test_what_is_not_known_is_refused(host: Host, words: tuple[str, str]) -> None:
    said = host.ask(*words)
    assert (said.code, said.out) == (2, "") and said.err


def test_names_and_units_reach_no_shell(host: Host) -> None:
    host.components["systemd"]["unit"] = "$(touch owned); '"
    host.program("systemctl", ("show --property ActiveState --value $(touch owned); '", "active\n"),
                 ("show --property LoadState --value $(touch owned); '", "loaded\n"))  # fmt: skip
    assert host.ask("status", "systemd").out == "running\n"
    assert not (host.root / "owned").exists()
