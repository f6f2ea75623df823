# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The engine basebackup: nothing but the server's own tools, and gzip for its WAL.

A repository is a folder: base/<label>/data is a backup as pg_basebackup writes it, base/<label>/backup.json what it is,
wal/<name>.gz one WAL file. The folder of a backup appears with its name only when it was verified; one that is being
taken is base/.<label>. Labels are <time>Z-F for full backups and <time>Z-D for differential ones, which PostgreSQL 17
and newer can take (https://www.postgresql.org/docs/17/app-pgcombinebackup.html).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.backups_engine import (
    DIFF,
    FULL,
    WAL_NAME,
    Archive,
    Backup,
    EngineRefused,
    Repository,
    Server,
    wal_gaps,
)
from ansible.module_utils.runbook_psql import Connection, Session, child_identity
from ansible.module_utils.runbook_state import replace_text, sync_folder
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools, version

SLOT = "llmct_backups"
LABEL = re.compile(r"\d{8}T\d{6}Z-[FD]")
UNFINISHED = re.compile(r"\.\d{8}T\d{6}Z-[FD]")
OLDEST_MAJOR = 13  # brought backup_manifest and pg_verifybackup
INCREMENTAL_MAJOR = 17

ARCHIVE_WAL = """#!/bin/sh
# archive-wal PATH NAME: PostgreSQL's archive_command. A file is in the archive whole, or not at all.
set -eu
wal=$(dirname "$0")/wal
dest=$wal/$2.gz
if [ -e "$dest" ]; then
    # The server asks again when it was killed before it noted that this was done.
    gzip -dc "$dest" | cmp -s - "$1" && exit 0
    echo "$dest is there and is another file than $1: two servers archive into one folder" >&2
    exit 1
fi
part=$wal/.$2.$$
trap 'rm -f "$part"' EXIT
gzip -1 -c "$1" >"$part"
sync "$part"
mv "$part" "$dest"
sync "$wal"
"""

RESTORE_WAL = """#!/bin/sh
# restore-wal NAME PATH: PostgreSQL's restore_command. Exit status 1 says that there is no such file.
wal=$(dirname "$0")/wal
[ -e "$wal/$1.gz" ] || exit 1
# What is damaged must end the recovery, not pass for the end of the archive.
gzip -dc "$wal/$1.gz" >"$2" || exit 200
"""


class BaseBackup:
    """A repository in the folder `path`. WAL comes by archive_command (`archive`) or is fetched (`receive`)."""

    name = "basebackup"

    def __init__(
        self,
        tools: Tools,
        path: str,
        connection: Connection,
        wal_method: str = "archive",
        max_rate_kib: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.tools, self.path, self.connection, self.wal_method = tools, Path(path), connection, wal_method
        self.max_rate_kib, self.now = max_rate_kib, now

    @property
    def base(self) -> Path:
        return self.path / "base"

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    def _libpq(self) -> dict[str, str]:
        return {"PGPASSWORD": self.connection.password} if self.connection.password else {}

    def read(self, server: Server | None) -> Repository:
        try:
            found = version(self.tools.run(["pg_basebackup", "--version"]).out) or (0,)
        except ToolMissing as error:
            return Repository("error", str(error))
        if not self.base.is_dir() or not self.wal.is_dir():
            if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "archive-wal").exists():
                return Repository("mismatch", f"{self.path} is not empty and no repository of ours: set backups_repository")
            return Repository("absent", f"there is no repository in {self.path} yet", version=found)
        try:
            backups = self._backups()
        except (OSError, ValueError, KeyError, TypeError) as error:
            return Repository("error", f"a backup in {self.base} cannot be read: {error}; look at it, then move it away")
        common: dict[str, Any] = {"local_path": str(self.path), "version": found}
        archive = self._archive(server, backups)
        known = backups[-1] if backups else None
        if server and known and (known.system_identifier, known.server_major) != (server.system_identifier, server.major):
            return Repository(
                "mismatch",
                f"the newest backup in {self.path} is of system {known.system_identifier}, version {known.server_major}, and"
                f" the server is {server.system_identifier}, version {server.major}: give it a folder of its own with"
                " backups_repository, and keep the old one until it is needed no more",
                tuple(backups),
                archive,
                **common,
            )
        return Repository("ready", "", tuple(backups), archive, **common)

    def _backups(self) -> list[Backup]:
        found = []
        for folder in sorted(self.base.iterdir()):
            if LABEL.fullmatch(folder.name) and folder.is_dir():
                told = json.loads((folder / "backup.json").read_text(encoding="utf-8"))
                found.append(Backup(**{**told, "needs": tuple(told["needs"])}))
        return sorted(found, key=lambda backup: backup.stopped)

    def _archive(self, server: Server | None, backups: Sequence[Backup]) -> Archive:
        found = {
            entry.name[:24]: entry.stat().st_mtime
            for entry in os.scandir(self.wal)
            if re.fullmatch(r"[0-9A-F]{24}\.gz", entry.name)
        }
        size = server.wal_segment_bytes if server else 16 * 1024 * 1024
        oldest = min((backup.wal_start for backup in backups), default="")
        return Archive(tuple(sorted(found)), wal_gaps(found, size, oldest), max(found.values(), default=None))

    def archive_command(self) -> str:
        if self.wal_method == "receive":
            return ""
        return shlex.quote(str(self.path / "archive-wal")).replace("%", "%%") + ' "%p" "%f"'

    def restore_command(self, data_dir: Path) -> str:
        return shlex.quote(str(self.path / "restore-wal")).replace("%", "%%") + ' "%f" "%p"'

    def kinds(self, server: Server) -> tuple[str, ...]:
        return (FULL, DIFF) if server.major >= INCREMENTAL_MAJOR and server.summarizes_wal else (FULL,)

    def prepare(self, server: Server) -> list[str]:
        seen = self.read(server)
        if seen.state in ("mismatch", "error"):
            raise EngineRefused(seen.message)
        self._refuse(server)
        made = []
        for folder in (self.path, self.base, self.wal):
            if not folder.is_dir():
                # The server's user writes WAL here, so the folder is that user's.
                self.tools.run(["mkdir", "-p", "-m", "0700", str(folder)], as_us=folder == self.path)
                made.append(f"made {folder}")
                if folder == self.path and (identity := child_identity(self.tools.os_user)):
                    os.chown(folder, identity["user"], identity["group"])
        for name, text in (("archive-wal", ARCHIVE_WAL), ("restore-wal", RESTORE_WAL)):
            script = self.path / name
            if not script.exists() or script.read_text(encoding="utf-8") != text:
                replace_text(script, text, 0o755)
                made.append(f"wrote {script}")
        if self.wal_method == "receive":
            self._reserve_slot()
        return made

    def _reserve_slot(self) -> None:
        """Have the server keep its WAL from now on, for `receive`."""
        with Session(self.connection) as session:
            known = [row["slot_name"] for row in session.rows("SELECT slot_name FROM pg_replication_slots")]
            if SLOT not in known:
                session.execute(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")

    def _refuse(self, server: Server) -> None:
        tool = version(self.tools.run(["pg_basebackup", "--version"]).out)[0]
        if server.major < OLDEST_MAJOR:
            raise EngineRefused(f"PostgreSQL {server.major} has no pg_verifybackup: {OLDEST_MAJOR} or newer is needed")
        if tool < server.major:
            raise EngineRefused(
                f"pg_basebackup {tool} is older than the server, {server.major}: install the client of version"
                f" {server.major}, or set backups_bin_dir to its folder"
            )
        if server.tablespaces:
            raise EngineRefused(
                f"the server has tablespaces ({', '.join(server.tablespaces)}), which this engine does not take: set"
                " backups_engine=pgbackrest"
            )

    def backup(self, kind: str, server: Server) -> str:
        self._refuse(server)
        self.leftovers(remove=True)
        began = self.now()
        label = f"{datetime.fromtimestamp(began, timezone.utc):%Y%m%dT%H%M%SZ}-{'F' if kind == FULL else 'D'}"
        if (self.base / label).exists():
            raise EngineRefused(f"there is a backup {label} already: the clock was set back, or two runs began at once")
        part = self.base / f".{label}"
        needs: tuple[str, ...] = ()
        argv = ["pg_basebackup", "-D", str(part / "data"), "-d", self.connection.conninfo(), "--checkpoint=fast",
                "--wal-method=stream", "--manifest-checksums=SHA256", "--no-password", "--label", label]  # fmt: skip
        if self.max_rate_kib:
            argv += [f"--max-rate={self.max_rate_kib}"]
        if kind == DIFF:
            prior = max((b for b in self._backups() if b.kind == FULL), key=lambda b: b.stopped)
            needs = (prior.label,)
            argv += [f"--incremental={self.base / prior.label / 'data' / 'backup_manifest'}"]
        self.tools.run(["mkdir", "-m", "0700", str(part)])
        try:
            self.tools.run(argv, env=self._libpq())
            problems = self._verify_one(part / "data")
            if problems:
                raise ToolError(f"the backup that was just taken does not verify: {problems[0]}")
            backup = self._describe(label, kind, part / "data", began, server, needs)
            replace_text(part / "backup.json", json.dumps({**vars(backup), "needs": list(needs)}, indent=1) + "\n")
            os.sync()
            os.rename(part, self.base / label)
            sync_folder(self.base)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return label

    def _describe(
        self, label: str, kind: str, data: Path, began: float, server: Server, needs: tuple[str, ...]
    ) -> Backup:
        manifest = json.loads((data / "backup_manifest").read_text(encoding="utf-8"))
        span = manifest["WAL-Ranges"][-1]
        size = sum(int(each["Size"]) for each in manifest["Files"])
        names = [_wal_name(int(span["Timeline"]), span[which], server.wal_segment_bytes) for which in ("Start-LSN", "End-LSN")]
        return Backup(label, kind, began, self.now(), span["Start-LSN"], span["End-LSN"], names[0], names[1], size,
                      _folder_bytes(data), server.system_identifier, server.major, needs)  # fmt: skip

    def manifest_sum(self, label: str) -> str:
        return ""  # pg_verifybackup looks at backup_manifest itself

    def receive(self, until_lsn: str) -> None:
        """Fetch the WAL that the replication slot has kept, up to `until_lsn`, the end of a WAL file."""
        if self.wal_method != "receive":
            return
        common = ["pg_receivewal", "-d", self.connection.conninfo(), "--no-password", f"--slot={SLOT}"]
        self.tools.run([*common, "--create-slot", "--if-not-exists"], env=self._libpq())
        argv = [*common, "-D", str(self.wal), f"--endpos={until_lsn}", "--no-loop", "--compress=1", "--synchronous"]
        self.tools.run(argv, env=self._libpq(), limit_seconds=3600)

    def verify(self, backups: Sequence[Backup]) -> dict[str, list[str]]:
        problems: dict[str, list[str]] = {}
        for backup in backups:
            found = self._verify_one(self.base / backup.label / "data")
            if found:
                problems[backup.label] = found
        if broken := self._broken_wal():
            shown = ", ".join(broken[:5])
            problems["wal"] = [f"{len(broken)} damaged WAL files: {shown}"]
            # What comes before the damage can still be restored, what needs the file cannot.
            for backup in backups:
                if any(backup.wal_start <= name <= backup.wal_stop for name in broken):
                    problems.setdefault(backup.label, []).append(f"its WAL is damaged: {shown}")
        return problems

    def _verify_one(self, data: Path) -> list[str]:
        done = self.tools.run(["pg_verifybackup", "--quiet", "--no-parse-wal", str(data)], ok=range(-64, 256))
        if done.rc == 0:
            return []
        if done.rc < 0:  # it crashed, as some builds of version 18 do: that says nothing of the backup
            return compare_with_manifest(data)
        lines = [line.split("error: ", 1)[-1] for line in done.err.splitlines() if "error" in line]
        return lines[:20] or [f"pg_verifybackup ended with {done.rc}: {done.err.strip()[:300]}"]

    def _broken_wal(self) -> list[str]:
        names = sorted(entry.name for entry in os.scandir(self.wal) if entry.name.endswith(".gz"))
        broken = []
        for start in range(0, len(names), 200):
            batch = names[start : start + 200]
            if self.tools.run(["gzip", "-t", *(str(self.wal / name) for name in batch)], ok=range(256)).rc != 0:
                broken += [n[:-3] for n in batch if self.tools.run(["gzip", "-t", str(self.wal / n)], ok=range(256)).rc != 0]
        return broken

    def expire(self, keep: Sequence[Backup], gone: Sequence[Backup]) -> None:
        if not any(backup.kind == FULL for backup in keep):
            raise EngineRefused("not one full backup would be left: nothing is removed")
        for backup in sorted(gone, key=lambda b: b.kind == FULL):  # what depends on others first
            # Out of sight in one step, so that a killed removal leaves no half backup under its name.
            doomed = self.base / f".{backup.label}"
            os.rename(self.base / backup.label, doomed)
            shutil.rmtree(doomed)
        first = min(backup.wal_start for backup in keep)
        for entry in list(os.scandir(self.wal)):
            name = entry.name[:24]
            # Timelines can be compared by name only where the newer one begins later, as it does after a recovery.
            if WAL_NAME.fullmatch(name) and name[8:] < first[8:] and name[:8] <= first[:8]:
                os.unlink(entry.path)

    def restore(self, label: str, into: Path, repository: Repository) -> None:
        backup = next(each for each in repository.backups if each.label == label)
        if backup.needs:
            parts = [str(self.base / name / "data") for name in (*backup.needs, label)]
            self.tools.run(["pg_combinebackup", *parts, "-o", str(into)])
            return
        self.tools.run(["cp", "-a", "--reflink=auto", f"{self.base / label / 'data'}/.", str(into)])

    def leftovers(self, remove: bool) -> list[str]:
        if not self.base.is_dir():
            return []
        left = [entry for entry in sorted(self.base.iterdir()) if UNFINISHED.fullmatch(entry.name)]
        left += [entry for entry in sorted(self.wal.glob(".*")) if not _young(entry, self.now())]
        for entry in left if remove else []:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        return [str(entry) for entry in left]


def compare_with_manifest(data: Path) -> list[str]:
    """Return how a backup differs from its backup_manifest: sha256, sizes, missing and additional files, the manifest itself."""
    text = (data / "backup_manifest").read_bytes()
    signed, seal = text.rsplit(b'"Manifest-Checksum"', 1)
    if hashlib.sha256(signed).hexdigest() not in seal.decode(errors="replace"):
        return ["backup_manifest does not have the checksum that it names"]
    problems = []
    expected = {each["Path"]: each for each in json.loads(text)["Files"] if "Path" in each}
    for name, each in sorted(expected.items()):
        path = data / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != int(each["Size"]):
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {each['Size']}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != each["Checksum"]:
            problems.append(f"checksum mismatch for file {name}")
    ours = {"backup_manifest", "postgresql.auto.conf", "standby.signal", "recovery.signal"}
    for path in data.rglob("*"):
        name = str(path.relative_to(data))
        if path.is_file() and name not in expected and name not in ours and not name.startswith("pg_wal/"):
            problems.append(f"{name} is not in the manifest")
    return problems[:20]


def _young(entry: Path, now: float) -> bool:
    """Return whether a part of a WAL file may still be in the making."""
    try:
        return now - entry.stat().st_mtime < 3600
    except FileNotFoundError:
        return True


def _wal_name(timeline: int, lsn: str, segment_bytes: int) -> str:
    high, low = (int(part, 16) for part in lsn.split("/"))
    # The end of a backup may be the first byte of the next file, which then holds nothing of it.
    return f"{timeline:08X}{high:08X}{low // segment_bytes:08X}"


def _folder_bytes(folder: Path) -> int:
    done = subprocess.run(["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])
