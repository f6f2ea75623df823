#!/usr/bin/python
"""Ansible module, see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_home
short_description: Make the sandbox's folders, its passwords and its database cluster
description:
  - Copies PostgreSQL to where its user can reach it, if need be, makes the passwords and the passphrases of backups and certificates,
    and runs initdb, each once. A new cluster leaves nothing of the backups of an earlier one.
  - What takes more than one step is made beside its place and renamed, so that a run which was killed leaves
    nothing half done.
options:
  layout:
    description: As sandbox_layout_info returned it.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
"""
EXAMPLES = r"""
- name: Ensure that there is a cluster
  sandbox_home:
    layout: "{{ layout }}"
"""
RETURN = r"""
made:
  description: What was not there yet, or not right.
  returned: always
  type: list
"""

import contextlib
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sandbox import WHEEL, account

ROLES = ("postgres", "tracker")


class Home:
    def __init__(self, layout: dict[str, Any]) -> None:
        self.layout = layout
        self.data_dir = layout["data_dir"]
        self.cluster = os.path.join(self.data_dir, "postgresql")
        self.passwords = os.path.join(self.data_dir, "pgpass")
        self.backups = os.path.join(self.data_dir, "backups")
        self.passphrases = [os.path.join(self.data_dir, f"{name}-passphrase") for name in ("backups", "certificates")]
        self.programs = os.path.join(self.data_dir, "wheel")
        user = layout["os_user"]
        self.owner = pwd.getpwnam(user).pw_uid if user else os.geteuid()
        self.group = pwd.getpwnam(user).pw_gid if user else os.getegid()

    def folders(self) -> list[tuple[str, int, int]]:
        """Return (path, mode, owner) of each folder, parents first."""
        closed = ["", "run", "logs", "postgresql-logs", "tls"]
        return [
            (self.layout["folder"], 0o755, os.geteuid()),
            (os.path.join(self.layout["folder"], "supervisor"), 0o755, os.geteuid()),
            *((os.path.join(self.data_dir, name).rstrip("/"), 0o700, self.owner) for name in closed),
            # The server's user writes WAL below it.
            (self.backups, 0o711, os.geteuid()),
        ]

    def wrong_folders(self) -> list[tuple[str, int, int]]:
        wrong = []
        for path, mode, owner in self.folders():
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                wrong.append((path, mode, owner))
                continue
            if (stat.S_IMODE(found.st_mode), found.st_uid) != (mode, owner):
                wrong.append((path, mode, owner))
        return wrong

    def due(self) -> list[str]:
        copy = self.layout["postgres_copy"]
        needed = {
            "folders": bool(self.wrong_folders()),
            "programs": bool(copy) and not os.path.exists(self.layout["postgres"]["bin_dir"]),
            "passwords": not os.path.exists(self.passwords),
            "passphrases": not all(map(os.path.exists, self.passphrases)),
            "cluster": not os.path.exists(self.cluster),
        }
        return [name for name, is_due in needed.items() if is_due]

    def make_folders(self) -> None:
        for path, mode, owner in self.wrong_folders():
            if not os.path.isdir(path):
                # In a folder for all users mkdir fails, as it should, on what somebody else put there.
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.mkdir(path, 0o700)
            os.chmod(path, mode)
            os.chown(path, owner, self.group if owner == self.owner else os.getegid())

    def make_programs(self) -> None:
        """Keep the wheel's two folders side by side: that is where the programs look for their libraries."""
        source, beside = self.layout["postgres_copy"], self.programs + ".new"
        libraries = f"{WHEEL}.libs"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source, os.path.join(beside, WHEEL, os.path.basename(source)), symlinks=True)
        shutil.copytree(os.path.join(source, "..", "..", libraries), os.path.join(beside, libraries))
        shutil.rmtree(self.programs, ignore_errors=True)
        os.rename(beside, self.programs)

    def make_passwords(self) -> None:
        lines = [f"127.0.0.1:*:*:{role}:{secrets.token_hex(24)}\n" for role in ROLES]
        os.chown(self._written(self.passwords, "".join(lines)), self.owner, self.group)
        os.rename(self.passwords + ".new", self.passwords)

    def make_passphrases(self) -> None:
        for path in self.passphrases:
            if not os.path.exists(path):
                os.rename(self._written(path, secrets.token_hex(24) + "\n"), path)

    def _written(self, path: str, secret: str) -> str:
        """Write a secret beside its place, for its owner alone, and return where."""
        beside = path + ".new"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(secret)
        return beside

    def forget_backups(self) -> None:
        """Delete the backups of a cluster that is gone, and what is known of them: they are of another system."""
        state = os.path.join(self.layout["folder"], "state")
        for name in os.listdir(self.backups):
            shutil.rmtree(os.path.join(self.backups, name))
        shutil.rmtree(os.path.join(state, "backups"), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(state, "memory", "backups.json"))

    def make_cluster(self) -> None:
        self.forget_backups()
        beside = self.cluster + ".new"
        shutil.rmtree(beside, ignore_errors=True)
        command = [
            os.path.join(self.layout["postgres"]["bin_dir"], "initdb"),
            f"--pgdata={beside}",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",  # the one that every build and every machine has
            "--auth=trust",  # pg_hba.conf is replaced before the server starts
            "--data-checksums",
            "--no-sync",
        ]
        subprocess.run(
            command,
            cwd=self.data_dir,
            check=True,
            capture_output=True,
            text=True,
            **account(self.layout["os_user"]),
        )
        os.rename(beside, self.cluster)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"layout": {"type": "dict", "required": True}}, supports_check_mode=True
    )
    home = Home(module.params["layout"])
    due = home.due()
    os.umask(0o022)  # programs that are copied have to stay readable for the server's user
    try:
        for name in [] if module.check_mode else due:
            getattr(home, f"make_{name}")()
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"initdb failed: {error.stderr.strip()}")
    except OSError as error:
        module.fail_json(msg=f"The sandbox cannot be made here: {error}")
    module.exit_json(changed=bool(due), made=due)


if __name__ == "__main__":
    main()
