"""The cost of the wrapper and of a run that has nothing to do, on a sandbox of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from bench.measure import Figure, in_turn

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
INVENTORY = ROOT / "inventories/sandbox"
PLAYBOOK = ROOT / "playbooks/database-maintenance.yml"
ROUNDS = 7
PING = """
- hosts: database
  gather_facts: false
  tasks:
    - ansible.builtin.ping:
"""


def environment_of(scratch: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command that works on the bench's own sandbox and records."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RUNBOOK_SANDBOX_DIR": str(scratch / "sandbox"),
        "RUNBOOK_STATE_DIR": str(scratch / "records"),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        **more,
    }


def run(arguments: list[str], scratch: Path, accepted: tuple[int, ...] = (0,), **environment: str) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=ROOT, env=environment_of(scratch, **environment)
    )
    assert done.returncode in accepted, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def plain_inventory(scratch: Path) -> Path:
    """Write the sandbox's addresses down, as an inventory of a deployment has them, instead of looking them up."""
    record = yaml.safe_load((scratch / "sandbox/sandbox.yml").read_text())
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "tracker_become": False,
        "runbook_state_dir": str(scratch / "state"),
        "database_name": record["database"],
        "database_host": record["database_socket_dir"],
        "database_port": record["database_port"],
        "database_user": "postgres",
        "database_os_user": record["os_user"],
        "database_bin_dir": record["postgres_bin_dir"],
        "database_retention": [{"table": "llm_usage_logs", "time_column": "timestamp", "keep_days": 90}],
    }
    file = scratch / "inventory.yml"
    file.write_text(yaml.safe_dump({"database": {"hosts": {"db1": host}}}))
    return file


def overhead(scratch: Path) -> list[Figure]:
    """Figures for the wrapper against ansible-playbook, and for a steady run against one ping."""
    sandbox = [str(BIN / "runbook"), "run", "sandbox", "-i", str(INVENTORY), "--set"]
    ping_file = scratch / "ping.yml"
    ping_file.write_text(PING)
    run([*sandbox, "sandbox_state=worn", "--set", "sandbox_scale=1"], scratch)
    inventory = str(plain_inventory(scratch))
    maintain = [str(BIN / "runbook"), "run", "database-maintenance", "-i", inventory]
    bare = [str(BIN / "ansible-playbook"), str(PLAYBOOK), "-i", inventory]
    ping = [str(BIN / "ansible-playbook"), str(ping_file), "-i", inventory]
    try:
        run(maintain, scratch, (0, 1))
        ours, other, ratio = in_turn(lambda: run(maintain, scratch, (0, 1)), lambda: run(bare, scratch), ROUNDS)
        steady, floor, times = in_turn(lambda: run(bare, scratch), lambda: run(ping, scratch), ROUNDS)
        calls, changed = module_calls(run(bare, scratch, ANSIBLE_STDOUT_CALLBACK="json"))
    finally:
        run([*sandbox, "sandbox_state=absent"], scratch)
    return [
        Figure(
            "`runbook run`, nothing due",
            f"{ours:.2f} s",
            f"ansible-playbook {other:.2f} s",
            f"{ratio:.2f}",
            "<= 1.15",
            ratio <= 1.15,
        ),
        Figure("second run", f"{steady:.2f} s", f"one ping {floor:.2f} s", f"{times:.2f}", "<= 3", times <= 3),
        Figure(
            "module calls of a second run",
            f"{calls}, changed={changed}",
            "-",
            "-",
            "<= 4, changed=0",
            calls <= 4 and changed == 0,
        ),
    ]


def module_calls(output: str) -> tuple[int, int]:
    """Count the tasks that ran a module on the host, and the changes, in the output of the json callback."""
    result = json.loads(output)
    on_controller = ("include_", "set_fact", "assert", "fail", "validate_argument_spec", "import_", "add_host", "meta")
    calls = 0
    for play in result["plays"]:
        for task in play["tasks"]:
            for host in task["hosts"].values():
                action = str(host.get("action", ""))
                if not host.get("skipped") and not any(word in action for word in on_controller):
                    calls += 1
    return calls, sum(host["changed"] for host in result["stats"].values())
