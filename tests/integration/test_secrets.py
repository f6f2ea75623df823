"""A canary wherever a secret can come from, and a search through all that was written or printed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

from .conftest import Done, Runbook

CANARIES = ("inputsecretcanary", "extrasecretcanary", "environmentsecretcanary", "inventorysecretcanary")
FROM_OUTPUT = ("outputsecretcanary", "urlsecretcanary", "bearersecretcanary")
ALL = [*CANARIES, *FROM_OUTPUT]


def leak(runbook: Runbook, *arguments: str) -> Done:
    return runbook.run(
        "leaky",
        "--set",
        "leaky_password=inputsecretcanary",
        "--set",
        "leaky_extra={any: extrasecretcanary}",
        "--reason",
        "because inputsecretcanary",
        *arguments,
        inventory="secret",
        PLANTED_API_TOKEN="environmentsecretcanary",
        RUNBOOK_PASS_ENV="PLANTED_API_TOKEN",
    )


def found_in(text: str) -> list[str]:
    return [canary for canary in ALL if canary in text]


def test_no_canary_is_written_or_printed(runbook: Runbook) -> None:
    printed = []
    for arguments in (["-vv"], ["--json"], ["--jsonl"]):
        done = leak(runbook, *arguments)
        printed += [done.out, done.err]
        assert done.code == 2
    for command in (
        ["runs", "show", "last"],
        ["runs", "show", "last", "--json"],
        ["runs", "replay", "last"],
        ["runs", "list"],
        ["runs", "report", "last", "--html"],
        ["runs", "report", "last", "-o", "report.md"],
        ["runs", "list", "--json"],
    ):
        done = runbook(*command)
        assert done.code == 0, done.err
        printed += [done.out, done.err]
    assert "********" in "".join(printed)
    assert found_in("".join(printed)) == []
    written = [path for path in runbook.root.rglob("*") if path.is_file()]
    assert len([path for path in written if path.name in ("run.json", "events.jsonl", "report.md")]) == 7
    assert {
        str(path): found
        for path in written
        if (found := found_in(path.read_bytes().decode(errors="replace")))
    } == {}


def test_the_play_does_not_see_variables_nobody_passed_on(runbook: Runbook) -> None:
    done = runbook.run(
        "healthy", "--json", PLANTED_API_TOKEN="environmentsecretcanary", ANSIBLE_STDOUT_CALLBACK="null"
    )
    assert done.code == 0, done.err


def test_secret_variables_are_commented_out_unless_asked_for(runbook: Runbook) -> None:
    quoted = 'it\'s "odd" $HOME'
    (runbook.root / "host.yml").write_text(
        "all:\n  hosts:\n    here:\n      ansible_connection: local\n"
        "      ansible_python_interpreter: '{{ ansible_playbook_python }}'\n"
        f"      healthy_greeting: {json.dumps(quoted)}\n      healthy_password: inventorysecretcanary\n"
    )
    inventory = str(runbook.root / "host.yml")
    plain = runbook("env", "healthy", "-i", inventory)
    assert plain.code == 0, plain.err
    assert "# PGPASSWORD" in plain.out
    assert found_in(plain.out + plain.err) == []
    command = f"{sys.executable} -m runbook env healthy -i {inventory} --secrets"
    script = f'eval "$({command})"; printf %s "$GREETING|$PGPASSWORD"'
    shell = subprocess.run(
        ["sh", "-c", script],
        env=runbook.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout == f"{quoted}|inventorysecretcanary"


def test_on_a_terminal_data_cannot_steer_it(runbook: Runbook) -> None:
    """The run is given a real terminal; the finding's title carries an escape sequence and rich markup."""
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "runbook", "run", "untidy", "-i", "one.yml"]
    with subprocess.Popen(
        command,
        env=runbook.env | {"TERM": "xterm", "COLUMNS": "160"},
        stdin=writer,
        stdout=writer,
        stderr=writer,
    ) as process:
        os.close(writer)
        shown = b""
        while True:
            try:
                part = os.read(reader, 65536)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not part:
                break
            shown += part
        assert process.wait(timeout=60) == 1
    os.close(reader)
    assert b"Dust is left" in shown
    assert b"\x1b[31m is left" not in shown
    assert b"shelf [bold]x[/bold]" in shown
