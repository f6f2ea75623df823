#!/usr/bin/python
"""Ansible module, see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_services
short_description: Run or stop the sandbox's supervisor and what it supervises
description:
  - Heals what a kill or a reboot left, be it orphans of a supervisor that is gone, or stale pid files.
options:
  layout:
    description: As sandbox_layout_info returned it.
    type: dict
    required: true
  state:
    description: Whether they run.
    choices: [started, stopped]
    default: started
  restart:
    description: Programs whose configuration is new; C(supervisord) stands for all.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
"""
EXAMPLES = r"""
- name: Ensure that the services run
  sandbox_services:
    layout: "{{ layout }}"
    restart: [llm-cost-tracker]
"""
RETURN = r"""
did:
  description: What was started or stopped.
  returned: always
  type: list
"""

import contextlib
import glob
import os
import subprocess
import sys
import xmlrpc.client
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sandbox import free_shared_memory, processes, stop_processes, supervisor, wait_for

UNREACHABLE = (OSError, xmlrpc.client.ProtocolError)
# Crash recovery after a kill takes its time; supervisor itself retries for about a minute.
START_SECONDS = 90


class Services:
    def __init__(self, layout: dict[str, Any]) -> None:
        self.folder, self.data_dir, self.run_dir = layout["folder"], layout["data_dir"], layout["run_dir"]
        self.pid_file = os.path.join(self.data_dir, "postgresql", "postmaster.pid")
        self.rpc = supervisor(os.path.join(self.run_dir, "supervisor.sock"))

    def states(self) -> dict[str, str] | None:
        """Return {program: state}, or None when no supervisor answers."""
        try:
            return {program["name"]: program["statename"] for program in self.rpc.getAllProcessInfo()}
        except UNREACHABLE:
            return None

    def stop(self) -> list[str]:
        stopped = stop_processes(self.folder, self.data_dir)
        free_shared_memory(self.pid_file)
        return stopped

    def start_supervisor(self) -> None:
        """Start it on clean ground."""
        self.stop()
        # None of ours runs: a pid in a file that is left can only be another process by now, and PostgreSQL
        # does not start as long as that one lives.
        for path in [self.pid_file, *glob.glob(self.run_dir + "/.s.PGSQL.*.lock")]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        configuration = os.path.join(self.folder, "supervisord.conf")
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", configuration],
            check=True,
            capture_output=True,
            text=True,
            cwd=self.folder,
        )
        wait_for(lambda: self.states() is not None, START_SECONDS)

    def restart(self, programs: list[str]) -> None:
        for program in programs:
            with contextlib.suppress(
                xmlrpc.client.Fault
            ):  # it does not run: starting it is all there is to do
                self.rpc.stopProcess(program)

    def start_programs(self) -> list[str]:
        """Start what does not run and return its names. Raise TimeoutError if something stays down."""
        down = [name for name, state in (self.states() or {}).items() if state != "RUNNING"]
        for program in down:
            with contextlib.suppress(xmlrpc.client.Fault):  # it is starting already
                self.rpc.startProcess(program, False)
        if not wait_for(lambda: set((self.states() or {"": ""}).values()) == {"RUNNING"}, START_SECONDS):
            logs = f"{self.folder}/supervisor"
            raise TimeoutError(
                f"Not running after {START_SECONDS} s: {self.states()}. The logs are in {logs}."
            )
        return down


def plan(states: dict[str, str] | None, restart: list[str]) -> list[str]:
    """Return what has to be started: everything, or what is down or has a new configuration."""
    if states is None or "supervisord" in restart:
        return ["supervisord"]
    return sorted({name for name, state in states.items() if state != "RUNNING"} | set(restart))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "layout": {"type": "dict", "required": True},
            "state": {"choices": ["started", "stopped"], "default": "started"},
            "restart": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    layout = module.params["layout"]
    services = Services(layout)
    if module.params["state"] == "stopped":
        found = sorted(set(processes(layout["folder"], layout["data_dir"]).values()))
        module.exit_json(changed=bool(found), did=found if module.check_mode else services.stop())

    due = plan(services.states(), module.params["restart"])
    if due and not module.check_mode:
        try:
            if due == ["supervisord"]:
                services.start_supervisor()
            services.restart(module.params["restart"] if due != ["supervisord"] else [])
            services.start_programs()
        except subprocess.CalledProcessError as error:
            module.fail_json(
                msg=f"supervisord does not start: {error.stderr.strip() or error.stdout.strip()}"
            )
        except TimeoutError as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=bool(due), did=due)


if __name__ == "__main__":
    main()
