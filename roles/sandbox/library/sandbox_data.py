#!/usr/bin/python
"""Ansible module, see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_data
short_description: Fill the sandbox's database, and wear it out
description:
  - The database is made anew when a load was not finished, when another scale is wanted, or when it should be
    worn and some kind of wear is missing, since it was maintained in the meantime. Otherwise it stays.
options:
  layout:
    description: As sandbox_layout_info returned it.
    type: dict
    required: true
  sql_dir:
    description: Folder of the SQL files.
    type: path
    required: true
  database:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: Role that owns it.
    type: str
    required: true
  scale:
    description: Volume, 1 = 200,000 usage rows; null keeps what is there, or takes 1.
    type: float
  worn:
    description: Whether it has to be worn.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
"""
EXAMPLES = r"""
- name: Ensure that there is worn data
  sandbox_data:
    layout: "{{ layout }}"
    sql_dir: "{{ role_path }}/files/sql"
    database: llm_metrics
    owner: tracker
    worn: true
"""
RETURN = r"""
reason:
  description: Why the data was made anew; null when it was not.
  returned: always
  type: str
unavailable:
  description: What this build of PostgreSQL cannot do.
  returned: when the server runs
  type: list
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule

OPTIONS = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
MARK = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :'name'"
LIMITS = """
SELECT missing FROM (VALUES
    ('TLS connections to the database', (SELECT setting = '' FROM pg_settings WHERE name = 'ssl_library')),
    ('compression with lz4 and zstd',
     (SELECT NOT 'zstd' = ANY (enumvals) FROM pg_settings WHERE name = 'wal_compression')),
    ('exact bloat figures (pgstattuple)',
     NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pgstattuple')),
    ('corruption checks (amcheck)',
     NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')),
    ('statement statistics (pg_stat_statements)',
     NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements'))
) AS limits (missing, applies) WHERE applies
"""


def scram_verifier(password: str) -> str:
    """Return what PostgreSQL stores for `password` (RFC 5803), so that no statement holds the password."""
    salt, rounds = secrets.token_bytes(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)

    def digest(key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, hashlib.sha256).digest()

    def encode(value: bytes) -> str:
        return base64.b64encode(value).decode()

    stored = hashlib.sha256(digest(salted, b"Client Key")).digest()
    return f"SCRAM-SHA-256${rounds}:{encode(salt)}${encode(stored)}:{encode(digest(salted, b'Server Key'))}"


def rebuild_reason(mark: dict[str, Any] | None, scale: float | None, missing_wear: list[str]) -> str | None:
    """Given the note of the last finished load, return why the data has to be made anew."""
    if mark is None:
        return "there is no data"
    if scale is not None and float(mark["scale"]) != scale:
        return f"the scale is {mark['scale']:g} instead of {scale:g}"
    if missing_wear:
        return f"not worn: {', '.join(missing_wear)}"
    return None


class Psql:
    def __init__(self, layout: dict[str, Any]) -> None:
        self.program = os.path.join(layout["postgres"]["bin_dir"], "psql")
        self.folder = layout["folder"]
        self.environment = {
            **os.environ,
            "PGHOST": layout["run_dir"],
            "PGPORT": str(layout["database_port"]),
            "PGUSER": "postgres",
            "PGAPPNAME": "sandbox",
            "PGCLIENTENCODING": "UTF8",
        }

    def _call(self, arguments: list[str], text: str | None, **environment: str) -> str:
        return subprocess.run(
            [self.program, *OPTIONS, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=self.folder,
            env={**self.environment, **environment},
        ).stdout.strip()

    def run(self, statements: str, database: str = "postgres", **variables: str) -> str:
        """Statements come by stdin: psql replaces :'variable' there, and `ps` does not show them."""
        chosen = [f"--set={name}={value}" for name, value in variables.items()]
        return self._call([f"--dbname={database}", *chosen], statements)

    def file(self, path: str, database: str, settings: dict[str, str]) -> str:
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        return self._call([f"--dbname={database}", f"--file={path}"], None, PGOPTIONS=options)

    def password_works(self, role: str, passwords: str) -> bool:
        try:
            self._call(
                ["--dbname=postgres", "--no-password", "--command=SELECT 1"],
                None,
                PGHOST="127.0.0.1",
                PGUSER=role,
                PGPASSFILE=passwords,
            )
        except subprocess.CalledProcessError:
            return False
        return True


class Data:
    def __init__(self, psql: Psql, sql_dir: str, database: str, owner: str) -> None:
        self.psql, self.sql_dir, self.database, self.owner = psql, sql_dir, database, owner

    def mark(self) -> dict[str, Any] | None:
        text = self.psql.run(MARK, name=self.database)
        return json.loads(text) if text.startswith("{") else None

    def _file(self, name: str, **settings: str) -> str:
        return self.psql.file(os.path.join(self.sql_dir, name), self.database, settings)

    def missing_wear(self) -> list[str]:
        try:
            return self._file("missing-wear.sql").splitlines()
        except subprocess.CalledProcessError as error:
            # A table or view it asks for is gone: whatever the reason, this is not the worn database.
            return [error.stderr.strip().splitlines()[0]]

    def make(self, scale: float, worn: bool) -> None:
        self.psql.run(
            'DROP DATABASE IF EXISTS :"name" WITH (FORCE);\n'
            'CREATE DATABASE :"name" OWNER :"owner" TEMPLATE template0;',
            name=self.database,
            owner=self.owner,
        )
        for name in ("schema.sql", "seed.sql", "indexes.sql"):
            self._file(name, role=self.owner, **{"sandbox.scale": repr(scale)})
        self._file("settle.sql")
        if worn:
            self._file("wear.sql")
        # Last: a load that was killed has no mark, and the next run starts over.
        self.psql.run(
            "COMMENT ON DATABASE :\"name\" IS :'mark'", name=self.database, mark=json.dumps({"scale": scale})
        )


def ensure_roles(psql: Psql, passwords: str) -> list[str]:
    """Make every role log in with its password in `passwords`; return those that did not."""
    with open(passwords, encoding="ascii") as handle:
        known = {line.split(":")[3]: line.strip().split(":")[4] for line in handle}
    due = [role for role in known if not psql.password_works(role, passwords)]
    for role in due:
        if psql.run("SELECT count(*) FROM pg_roles WHERE rolname = :'name'", name=role) == "0":
            psql.run('CREATE ROLE :"name" LOGIN', name=role)
        verifier = scram_verifier(known[role])
        psql.run(f"ALTER ROLE :\"name\" PASSWORD '{verifier}'", name=role)
    return due


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "layout": {"type": "dict", "required": True},
            "sql_dir": {"type": "path", "required": True},
            "database": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "scale": {"type": "float"},
            "worn": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if module.check_mode and not os.path.exists(os.path.join(wanted["layout"]["run_dir"], "supervisor.sock")):
        module.exit_json(changed=True, reason=rebuild_reason(None, None, []))
    psql = Psql(wanted["layout"])
    data = Data(psql, wanted["sql_dir"], wanted["database"], wanted["owner"])
    try:
        mark = data.mark()
        missing = data.missing_wear() if wanted["worn"] and mark else []
        reason = rebuild_reason(mark, wanted["scale"], missing)
        roles = []
        if not module.check_mode:
            roles = ensure_roles(psql, os.path.join(wanted["layout"]["data_dir"], "pgpass"))
            if reason:
                data.make(wanted["scale"] or float((mark or {"scale": 1})["scale"]), wanted["worn"])
        unavailable = psql.run(LIMITS).splitlines()
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"psql: {error.stderr.strip()}")
    module.exit_json(changed=bool(reason or roles), reason=reason, roles=roles, unavailable=unavailable)


if __name__ == "__main__":
    main()
