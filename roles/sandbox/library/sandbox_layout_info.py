#!/usr/bin/python
"""Ansible module, see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_layout_info
short_description: Decide where the sandbox lives and what it runs on
description:
  - What an earlier run decided is in sandbox.yml and stays, unless it became impossible.
  - Changes nothing.
options:
  folder:
    description: The sandbox's folder, absolute.
    type: path
    required: true
  postgres_bin_dir:
    description: Folder of PostgreSQL's programs; null chooses.
    type: path
attributes:
  check_mode:
    support: full
"""
EXAMPLES = r"""
- name: Read where the sandbox is
  sandbox_layout_info:
    folder: /home/me/runbooks/.sandbox
"""
RETURN = r"""
layout:
  description: >-
    folder, data_dir, os_user, owner and group (of the data), run_dir, database_port, app_port, postgres (bin_dir, version, source, tls),
    postgres_copy (what has to be copied for it), data_major.
  returned: always
  type: dict
known:
  description: Whether the sandbox was built before.
  returned: always
  type: bool
uid:
  description: The user this runs as.
  returned: always
  type: int
owner_uid:
  description: The user who built the sandbox.
  returned: always
  type: int
running:
  description: Which of app, postgresql and supervisord run.
  returned: always
  type: list
foreign:
  description: Files in the folder that are none of the sandbox's.
  returned: always
  type: list
has_curl:
  description: Whether curl is there, with which checks ask the app.
  returned: always
  type: bool
can_install:
  description: Whether packages can be installed with apt.
  returned: always
  type: bool
"""

import grp
import os
import pwd
import shutil
import stat

import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sandbox import (
    DATA_FOLDER_MAX,
    PORTS,
    WHEEL,
    can_enter,
    choose_port,
    choose_postgres,
    outside_dir,
    port_is_free,
    processes,
    system_bin_dirs,
    wheel_bin_dirs,
)

OWN_NAMES = {"app", "authority", "data", "sandbox.yml", "state", "supervisor", "supervisord.conf"}


def _os_user() -> str | None:
    """PostgreSQL refuses to run as root; anybody else runs it as they are."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"


def _data_dir(folder: str, user: str | None) -> str:
    inside = os.path.join(folder, "data")
    fits = len(os.fsencode(inside)) <= DATA_FOLDER_MAX
    return inside if fits and can_enter(folder, user) else outside_dir(folder)


def _owned(path: str, user: str | None) -> bool:
    """Whether `path` is ours, or nothing: a folder for all users holds what others put there as well."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return True
    owners = {os.geteuid(), pwd.getpwnam(user).pw_uid if user else os.geteuid()}
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners


def _data_major(data_dir: str) -> int | None:
    try:
        with open(os.path.join(data_dir, "postgresql", "PG_VERSION"), encoding="ascii") as handle:
            return int(handle.read())
    except OSError:
        return None


def _postgres(given: str | None, known: str | None, data_major: int | None) -> dict | None:
    if given:
        candidates = [("given", given)]
    else:
        candidates = [("system", path) for path in system_bin_dirs()] + [
            ("wheel", path) for path in wheel_bin_dirs()
        ]
        if known and os.path.isdir(known):
            source = next((source for source, path in candidates if path == known), "wheel")
            candidates.insert(0, (source, known))
    chosen = choose_postgres(candidates, data_major)
    if chosen and f"/{WHEEL}/" in chosen["bin_dir"]:
        chosen["source"] = "wheel"
    return chosen


def _ports(known: dict[str, int], folder: str, running: set[str]) -> dict[str, int]:
    """Keep a port as long as its server runs or nobody else took it in the meantime."""
    roles = {"database": "postgresql", "app": "app"}
    ports = {}
    for name, role in roles.items():
        port = known.get(f"{name}_port")
        if not port or not (role in running or port_is_free(port)):
            port = choose_port(PORTS[name], folder)
        ports[f"{name}_port"] = port
    return ports


def _known(folder: str) -> dict:
    try:
        with open(os.path.join(folder, "sandbox.yml"), encoding="utf-8") as handle:
            return yaml.safe_load(handle) or {}
    except FileNotFoundError:
        return {}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"folder": {"type": "path", "required": True}, "postgres_bin_dir": {"type": "path"}},
        supports_check_mode=True,
    )
    folder = os.path.realpath(module.params["folder"])
    known = _known(folder)
    user = known["os_user"] if known else _os_user()
    data_dir = known.get("data_dir") or _data_dir(folder, user)
    if not _owned(data_dir, user):
        module.fail_json(
            msg=f"{data_dir} belongs to somebody else. Remove it, or choose another sandbox_dir."
        )
    postgres = _postgres(
        module.params["postgres_bin_dir"], known.get("postgres_bin_dir"), _data_major(data_dir)
    )
    copy = None
    if postgres and postgres["source"] == "wheel" and not can_enter(postgres["bin_dir"], user):
        # The virtual environment is where only root gets in: the server's user needs a copy.
        copy = os.path.dirname(postgres["bin_dir"])
        postgres["bin_dir"] = os.path.join(data_dir, "wheel", WHEEL, os.path.basename(copy), "bin")
    running = set(processes(folder, data_dir).values())
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    module.exit_json(
        changed=False,
        layout={
            "folder": folder,
            "data_dir": data_dir,
            "os_user": user,
            "owner": account.pw_name,
            "group": grp.getgrgid(account.pw_gid).gr_name,
            "run_dir": os.path.join(data_dir, "run"),
            "postgres": postgres,
            "postgres_copy": copy,
            "data_major": _data_major(data_dir),
            **_ports(known, folder, running),
        },
        known=bool(known),
        uid=os.geteuid(),
        running=sorted(running),
        owner_uid=os.stat(folder).st_uid if known else os.geteuid(),
        foreign=sorted(set(os.listdir(folder)) - OWN_NAMES) if os.path.isdir(folder) else [],
        has_curl=shutil.which("curl") is not None,
        can_install=os.geteuid() == 0 and os.path.exists("/usr/bin/apt-get"),
    )


if __name__ == "__main__":
    main()
