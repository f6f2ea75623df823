# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Brings a cluster, a table or files back from the repositories.

A cluster is recovered in a folder beside the data directory by a server of its own, and has to reach its target there.
Only then two renames put it in place: the old data directory becomes <name>.before-<time>, and is never deleted. A
journal tells a later run that it was killed between the two.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.backups_components import prove_files
from ansible.module_utils.backups_engine import FULL, Backup, EngineRefused, Repository, by_label
from ansible.module_utils.backups_planner import Picture, good_backups, good_sets
from ansible.module_utils.backups_scratch import Place, ScratchServer, Target, clean_leftovers, refuse_place
from ansible.module_utils.backups_work import Backups
from ansible.module_utils.runbook_components import Component
from ansible.module_utils.runbook_psql import Session, child_identity, literal
from ansible.module_utils.runbook_result import action, finding, human_bytes
from ansible.module_utils.runbook_state import read_json, write_json
from ansible.module_utils.runbook_tools import ToolError

FOLDER = ".runbooks-restore"
# What other tables and views have to do with a table, in the order in which it can be made again.
DEPENDENTS = """
WITH RECURSIVE views (oid, depth) AS (
  SELECT {table}::regclass::oid, 0
  UNION
  SELECT r.ev_class, v.depth + 1 FROM views v
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> v.oid
)
SELECT what, name, remedy FROM (
  SELECT 'view' AS what, format('%I.%I', n.nspname, c.relname) AS name, max(v.depth) AS place,
         format('Bring it back as well, with --set restore_table=%s.%s', n.nspname, c.relname) AS remedy
    FROM views v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE v.depth > 0
   GROUP BY n.nspname, c.relname
  UNION ALL
  SELECT 'foreign key', format('%I.%I.%I', n.nspname, c.relname, k.conname), 0,
         format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid))
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE k.contype = 'f' AND k.confrelid = {table}::regclass AND k.conrelid <> k.confrelid AND k.conparentid = 0
) dependents ORDER BY place, name
"""
FREE_FACTOR = 1.1


@dataclass(frozen=True)
class Request:
    """What is to be brought back: names are those of the role's inputs without restore_."""

    target: str = "latest"
    time: str = ""
    scope: str = "database"
    table: str = ""
    paths: tuple[str, ...] = ()
    host: str = ""
    confirm: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """How the request is carried out: from which backup and set, to which target, and what is lost by it."""

    backup: Backup
    manifest: dict[str, Any] | None
    target: Target
    data_dir: str
    needed_bytes: int
    facts: dict[str, Any] = field(default_factory=dict)


def moment(text: str) -> float:
    """Return a point in time in seconds since 1970. Raise EngineRefused where it is none, or has no zone."""
    short = re.sub(r"([+-]\d\d)$", r"\1:00", text.strip().replace("Z", "+00:00"))
    try:
        found = datetime.fromisoformat(short)
    except ValueError:
        raise EngineRefused(f"restore_time is {text!r}; write it as 2026-03-01 14:05:00+00") from None
    if found.tzinfo is None:
        raise EngineRefused(f"restore_time is {text!r}, without a zone: write it as {text}+00 if it is UTC")
    return found.timestamp()


def _iso(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S+00}"


class Restore:
    """One restore. `actions` and `findings` are those of `backups`."""

    def __init__(self, backups: Backups, request: Request, evidence: Path) -> None:
        self.backups, self.job, self.request, self.evidence = backups, backups.job, request, evidence
        self.journal = self.job.state_dir / "backups" / "restore.json"

    # What it would do

    def way(self, keep: bool = False) -> Way:
        """Return how the request is carried out. Raise EngineRefused for whatever stands in the way, seen before any change."""
        self._ensure_config(keep)
        picture = self.backups.surveyor.look(verify=False, write=False)
        if picture.repository.state in ("error", "absent", "mismatch"):
            raise EngineRefused(picture.repository.message)
        self._refuse_request()
        manifest = self._manifest(picture)
        backup, target = self._base(picture, manifest)
        data_dir = _data_dir([*picture.sets, *([manifest] if manifest else [])])
        if not data_dir and self.request.scope == "database":
            raise EngineRefused("no set says where the data directory is; name a set with restore_target")
        needed = round(backup.bytes * FREE_FACTOR)
        way = Way(backup, manifest, target, data_dir, needed, self._facts(picture, manifest, backup, target))
        if self.request.scope == "database":
            self._refuse_place(way)
        elif self.request.scope == "files" and manifest is None:
            raise EngineRefused("no set was taken before restore_time: files come from a set")
        return way

    def _ensure_config(self, keep: bool) -> None:
        """On a new machine pgbackrest has no configuration yet: write it, or for a look, a copy that is gone afterwards."""
        job = self.job
        if job.engine != "pgbackrest" or os.path.exists(job.config):
            return
        surveyor = self.backups.surveyor
        sets = surveyor.look(verify=False, write=False).sets
        data_dir = _data_dir(sets)
        if not data_dir:
            raise EngineRefused(f"there is no {job.config}, and no set tells what to write into it: see backups_files_repository")
        if keep:
            self.backups.write_config(surveyor.rendered(data_dir))
            return
        self._copy = tempfile.TemporaryDirectory(prefix="runbooks-")
        os.chmod(self._copy.name, 0o711)  # noqa: S103  the file in it is for one user alone, who has to get there
        place = os.path.join(self._copy.name, "pgbackrest.conf")
        self.backups.write_config(surveyor.rendered(data_dir), place)
        self.job = replace(job, config=place)
        self.backups = Backups(self.job)

    def _refuse_request(self) -> None:
        request = self.request
        if request.scope == "table" and not re.fullmatch(r"[A-Za-z_][\w$]*\.[A-Za-z_][\w$]*", request.table):
            raise EngineRefused(f"restore_table is {request.table!r}; write it as public.llm_metrics")
        if request.scope == "files" and not request.paths:
            raise EngineRefused("restore_files is empty; name the files, as absolute paths")
        for path in request.paths:
            if not os.path.isabs(path) or ".." in Path(path).parts:
                raise EngineRefused(f"restore_files names {path!r}, which is no absolute path")

    def _manifest(self, picture: Picture) -> dict[str, Any] | None:
        sets = good_sets(picture)
        if self.request.target != "latest":
            found = [each for each in sets if each["set"] == self.request.target]
            if not found:
                known = ", ".join(f"{each['set']} ({_iso(each['finished'])})" for each in sets[-10:]) or "none"
                raise EngineRefused(f"there is no whole set {self.request.target!r}; there are: {known}")
            return found[0]
        if self.request.time:
            wanted = moment(self.request.time)
            sets = [each for each in sets if float(each["finished"]) <= wanted]
        return sets[-1] if sets else None

    def _base(self, picture: Picture, manifest: dict[str, Any] | None) -> tuple[Backup, Target]:
        """Return the backup to begin with, and where the recovery ends."""
        good = good_backups(picture)
        if not good:
            raise EngineRefused("there is no backup that verifies; see runbook run backup-recovery --check")
        newest_at = picture.repository.archive.newest_at
        if self.request.time:
            wanted = moment(self.request.time)
            fitting = [backup for backup in good if backup.stopped <= wanted]
            if not fitting or (newest_at is not None and wanted > newest_at + 1):
                raise EngineRefused(
                    f"{self.request.time} cannot be reached: what is there reaches from {_iso(good[0].stopped)} to"
                    f" {_iso(newest_at)}"
                )
            self._refuse_gap(picture, fitting[-1])
            return fitting[-1], Target("time", _iso_exact(wanted))
        if self.request.target != "latest" and manifest is not None:
            label, figures = manifest["database"]["label"], manifest["database"]["figures"]
            return by_label(good)[label], Target("name", figures["restore_point"])
        self._refuse_gap(picture, good[-1])
        return good[-1], Target("latest")

    def _refuse_gap(self, picture: Picture, backup: Backup) -> None:
        gap = picture.repository.archive.gap_after(backup.wal_start)
        if gap:
            self.backups.findings.append(
                finding("wal-gap", "WAL is missing in the archive", subject=gap, observed=gap, severity="critical",
                        remedy="The recovery ends before it; name a set or a time before it")
            )  # fmt: skip

    def _facts(
        self, picture: Picture, manifest: dict[str, Any] | None, backup: Backup, target: Target
    ) -> dict[str, Any]:
        """Return what a person has to know before they agree: what it goes back to, and what is lost."""
        sets = good_sets(picture)
        newest = sets[-1] if sets else None
        lost: dict[str, int] = {}
        if newest and manifest and newest["set"] != manifest["set"]:
            then, now = (each["database"]["figures"]["tables"] for each in (manifest, newest))
            lost = {t: n - (then.get(t) or 0) for t, n in now.items() if n is not None and n > (then.get(t) or 0)}
        return {
            "goes_back_to": f"{target} from backup {backup.label} of {_iso(backup.stopped)}",
            "newest_backup": _iso(good_backups(picture)[-1].stopped),
            "newest_wal": f"{picture.repository.archive.newest} of {_iso(picture.repository.archive.newest_at)}",
            "rows_since": ", ".join(f"{table} {count}" for table, count in sorted(lost.items())) or "none between these sets",
            "database_bytes": backup.bytes,
        }

    def _refuse_place(self, way: Way) -> None:
        data = Path(way.data_dir)
        if not data.parent.is_dir():
            raise EngineRefused(f"{data.parent} does not exist: make it, or install the server's packages first")
        if os.path.ismount(data) or data.is_symlink():
            raise EngineRefused(
                f"{data} is a mount point or a link and cannot be renamed: move its content into a folder of its own by"
                " hand, and restore as the page backup-recovery says"
            )
        if pid := _running(data):
            raise EngineRefused(f"the server runs (pid {pid}) on {data}: stop it first, and what writes to it")
        if data.exists() and any(data.iterdir()) and not (data / "PG_VERSION").exists():
            raise EngineRefused(f"{data} is not empty and is no data directory of PostgreSQL: look at it, then move it away")
        self._refuse_other_system(way, data)
        free = shutil.disk_usage(data.parent).free
        if free < way.needed_bytes:
            raise EngineRefused(
                f"{data.parent} has {human_bytes(free)} free and the restore needs {human_bytes(way.needed_bytes)}, as the"
                " old data stays: free space first"
            )

    def _refuse_other_system(self, way: Way, data: Path) -> None:
        tools = self.job.tools()
        major = re.search(r"\d+", tools.run(["postgres", "--version"]).out)
        if major and int(major.group()) != way.backup.server_major:
            raise EngineRefused(
                f"the backup is of PostgreSQL {way.backup.server_major}, and the programs here are of {major.group()}: install"
                f" version {way.backup.server_major}, or set backups_bin_dir to its folder"
            )
        if not (data / "global" / "pg_control").exists():
            return
        told = tools.run(["pg_controldata", "-D", str(data)]).out
        found = re.search(r"Database system identifier:\s+(\d+)", told)
        if found and way.backup.system_identifier and found[1] != way.backup.system_identifier:
            raise EngineRefused(
                f"the backup is of system {way.backup.system_identifier}, and {data} holds the system {found[1]}: this is"
                " another host's repository, or another host's data; if it is meant, move the data directory away first"
            )

    def confirmation(self) -> str:
        """Return what has to be given as --confirm."""
        return f"{self.request.host}/{self.job.connection.database}"

    def lost(self, way: Way) -> str:
        """Return in words what going back loses."""
        facts = way.facts
        return (
            f"{facts['goes_back_to']}; newest backup {facts['newest_backup']}, newest WAL {facts['newest_wal']}; rows since:"
            f" {facts['rows_since']}; {self._unarchived(way)}{human_bytes(way.needed_bytes)} are needed beside the old data"
        )

    def _unarchived(self, way: Way) -> str:
        """Return in words what lies in the old data directory and never reached the archive; empty if nothing does."""
        folder = Path(way.data_dir) / "pg_wal" / "archive_status"
        try:
            waiting = len(list(folder.glob("*.ready")))
        except OSError:
            waiting = 0
        return f"{waiting} WAL files of the old data were never archived; " if waiting else ""

    def refuse_unconfirmed(self, lost: str = "") -> None:
        """Raise EngineRefused unless the confirmation names this host and database; it says what would be `lost`."""
        if self.confirmation() not in self.request.confirm:
            given = ", ".join(self.request.confirm) or "none"
            raise EngineRefused(
                f"this replaces data ({lost or self.request.scope}), so it wants a confirmation: --confirm"
                f" {self.confirmation()} (given: {given})"
            )

    # What it does

    def run(self) -> None:
        """Carry the request out."""
        self.refuse_unconfirmed()
        if self.request.scope == "database" and self._finish_swap():
            return
        way = self.way(keep=True)
        {"database": self._database, "table": self._table, "files": self._files}[self.request.scope](way)

    def _server(self, place: Place, way: Way, archive: str) -> ScratchServer:
        figures = (way.manifest or {}).get("database", {}).get("figures", {})
        return self.backups.scratch_server(place, way.target, figures.get("settings", {}), archive=archive)

    def _database(self, way: Way) -> None:
        data = Path(way.data_dir)
        root = data.parent / FOLDER
        clean_leftovers(root)
        refuse_place(root, [data], 0, os_user=self.job.os_user)
        with Place(root, self.job.os_user, self.job.now) as place:
            with self.backups.acting("restore-data", str(place.data), f"back to {way.target}", kind="change") as entry:
                self._restore_into(place, way)
                server = self._server(place, way, "keep")
                try:
                    with server:
                        recovered = server.start_and_recover(self.job.recovery_limit_seconds)
                        if not recovered.reached:
                            raise EngineRefused(f"the recovery did not stop at {way.target}: {recovered.evidence}")
                        self._refuse_empty(server)
                finally:
                    server.keep_log(self.evidence / "restore-server.log")
                server.settle_auto_conf()
                (place.data / "recovery.signal").unlink(missing_ok=True)
                entry["detail"] = f"{recovered.evidence}; timeline {recovered.timeline}"
            self._swap(place.data, data)
        shutil.rmtree(root, ignore_errors=True)
        self._start(data)
        self.journal.unlink()

    def _request(self) -> list[str]:
        return [self.request.target, self.request.time]

    def _restore_into(self, place: Place, way: Way) -> None:
        repository: Repository = self.backups.surveyor.engine().read(None)
        self.backups.surveyor.engine().restore(way.backup.label, place.data, repository)

    def _refuse_empty(self, server: ScratchServer) -> None:
        """Raise EngineRefused if the database is not there after all."""
        with Session(server.connection("postgres")) as session:
            name = self.job.connection.database
            names = [row["datname"] for row in session.rows("SELECT datname FROM pg_database")]
            if name not in names:
                raise EngineRefused(f"at this moment there was no database {name}: nothing was replaced")

    def _swap(self, new: Path, data: Path) -> None:
        """Put `new` in the place of the data directory, and that aside. Two renames, told to later runs beforehand."""
        aside = data.with_name(f"{data.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self.job.now()))}")
        if aside.exists():
            raise EngineRefused(f"{aside} exists already: wait a second and run again")
        if pid := _running(data):
            raise EngineRefused(f"the server was started meanwhile (pid {pid}): stop it, and run again")
        with self.backups.acting("restore-data", str(data), f"the old data is {aside.name}", kind="destructive"):
            kept = new.with_name("ready")
            os.rename(new, kept)
            write_json(self.journal, {"new": str(kept), "data": str(data), "aside": str(aside), "request": self._request()})
            try:
                if data.exists():
                    self._move(data, aside)
                os.rename(kept, data)
            except BaseException:
                if aside.exists() and not data.exists():
                    os.rename(aside, data)
                self.journal.unlink()
                raise
        self._tell_of_slots(aside)

    def _tell_of_slots(self, aside: Path) -> None:
        """Say which replication slots the old server had: a backup holds none, and their readers have to begin anew."""
        folder = aside / "pg_replslot"
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            self.backups.findings.append(
                finding("replication-slot", "A replication slot is gone with the old history", subject=name, severity="warning",
                        remedy="Rebuild the standby that used it, then make the slot again")
            )  # fmt: skip

    def _move(self, data: Path, aside: Path) -> None:
        """Rename a folder. Where its file system cannot (overlays of containers), copy it first and remove it then."""
        try:
            os.rename(data, aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            part = aside.with_name(f".{aside.name}.part")
            self.job.own_tools().run(["cp", "-a", str(data), str(part)])
            os.sync()
            os.rename(part, aside)
            shutil.rmtree(data)

    def _finish_swap(self) -> bool:
        """Finish what a run that was killed between its two renames began; return whether there was something."""
        noted = read_json(self.journal, None)
        if noted is None:
            return False
        new, data, aside = (Path(noted[key]) for key in ("new", "data", "aside"))
        swapped = data.exists() and not new.exists()
        if (data.exists() and not aside.exists()) or (swapped and noted["request"] != self._request()):
            # Nothing was replaced and the old data may have gone on, or that was another restore: this one begins anew.
            self.journal.unlink()
            return False
        if not new.exists() and not data.exists():
            raise EngineRefused(f"{data} and {new} are both gone, the old data is {aside}: look at it, rename it, remove {self.journal}")
        with self.backups.acting("restore-data", str(data), "a run was killed between two renames", kind="destructive"):
            if new.exists():
                if data.exists():
                    shutil.rmtree(data)  # what is left of it after its copy was complete
                os.rename(new, data)
        shutil.rmtree(data.parent / FOLDER, ignore_errors=True)
        self._start(data)
        self.journal.unlink()
        return True

    def _start(self, data: Path) -> None:
        description = self.job.components.get("database")
        if not description:
            raise EngineRefused(f"{data} is ready; tracker_components does not say how the database is started: start it")
        with self.backups.acting("restore-data", "server", "its data is back", kind="change") as entry:
            Component("database", description).ensure("started")
            self.backups.wait_for_server("NOT pg_is_in_recovery()", "it is in recovery", "the server is not there 120 s after its start")
            with Session(self.job.connection) as session:
                timeline = session.value("SELECT timeline_id FROM pg_control_checkpoint()")
            entry["detail"] = f"timeline {timeline}"

    def backup_again(self) -> None:
        """Take a full set of the restored server: the old ones are of a history that did not happen."""
        if self.request.scope != "database":
            return
        planned = action("set", "full set", "the server has a new timeline")
        self.backups.take(FULL, planned)
        self.backups.actions[-1]["step"] = "restore-backup"

    def _table(self, way: Way) -> None:
        schema, name = self.request.table.split(".")
        root = Path(self.job.scratch_dir)
        clean_leftovers(root)
        live = Path(self.backups.surveyor.server().data_dir)
        refuse_place(root, [live], way.backup.bytes, os_user=self.job.os_user)
        with Place(root, self.job.os_user, self.job.now) as place:
            self._restore_into(place, way)
            with self._server(place, way, "off") as server:
                recovered = server.start_and_recover(self.job.recovery_limit_seconds)
                if not recovered.reached:
                    raise EngineRefused(f"the recovery did not stop at {way.target}: {recovered.evidence}")
                server.keep_log(self.evidence / "restore-server.log")
                self._bring_table(server, schema, name)

    def _bring_table(self, server: ScratchServer, schema: str, name: str) -> None:
        """Copy a table from the scratch server: to its place where it is gone, else into a schema of its own."""
        database = self.job.connection.database
        table, into = f"{_quoted(schema)}.{_quoted(name)}", schema
        with Session(server.connection(database)) as there, Session(self.job.connection) as here:
            if there.value(f"SELECT to_regclass({literal(table)}) IS NULL"):
                raise EngineRefused(
                    f"at {server.target} there was no table {schema}.{name}: name a moment before it was dropped with"
                    " restore_time, or a set with restore_target"
                )
            exists = not here.value(f"SELECT to_regclass({literal(table)}) IS NULL")
            if exists:
                into = f"restored_{time.strftime('%Y%m%dT%H%M%S', time.gmtime(self.job.now())).lower()}"
                self._move_aside(there, schema, name, into)
                here.execute(f"CREATE SCHEMA {_quoted(into)}")
                table = f"{_quoted(into)}.{_quoted(name)}"
            count = f"SELECT count(*) FROM {table}"  # noqa: S608  both names are quoted
            rows = there.value(count)
            # A view is made anew from the rows that are live.
            kind = f"SELECT relkind FROM pg_class WHERE oid = {literal(table)}::regclass"  # noqa: S608  a literal
            same = there.value(kind) not in ("v", "m")
            reason = "beside the one that is there" if exists else "brought back"
            with self.backups.acting("restore-data", f"{into}.{name}", reason, kind="change", before=0, unit="rows") as entry:
                self._pipe(server, database, into, name)
                found = here.value(count)
                if same and found != rows:
                    raise EngineRefused(f"{into}.{name} has {found} rows, and {rows} were in the backup")
                entry["after"] = found
            if exists:
                remedy = f"Compare and copy what is missing, then DROP SCHEMA {into} CASCADE"
                self.backups.findings.append(
                    finding("table-beside", "The table is there already; its rows of then are beside it",
                            subject=f"{into}.{name}", severity="info", remedy=remedy)
                )  # fmt: skip
            else:
                self.backups.findings += _gone_with(there, here, table)

    def _move_aside(self, there: Session, schema: str, name: str, into: str) -> None:
        """Move the table of the scratch server into a schema of its own, without what refers to live rows."""
        table = f"{_quoted(schema)}.{_quoted(name)}"
        for key in there.rows("SELECT conname, conrelid::regclass::text AS of FROM pg_constraint WHERE contype = 'f'"):
            if key["of"] not in (table, f"{schema}.{name}", name):
                continue
            there.execute(f"ALTER TABLE {table} DROP CONSTRAINT {_quoted(key['conname'])}")
        there.execute(f"CREATE SCHEMA {_quoted(into)}")
        there.execute(f"ALTER TABLE {table} SET SCHEMA {_quoted(into)}")

    def _pipe(self, server: ScratchServer, database: str, schema: str, name: str) -> None:
        """Dump the table and load it, in one transaction."""
        tools, to = self.job.tools(), self.job.connection
        dump = ["pg_dump", "--no-password", "-h", str(server.run_dir), "-p", str(server.port), "-U", server.superuser,
                "-d", database, "-t", f"{_quoted(schema)}.{_quoted(name)}"]  # fmt: skip
        load = ["psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", to.conninfo()]
        who = child_identity(self.job.os_user)
        password = {"PGPASSWORD": to.password} if to.password else {}
        with subprocess.Popen(tools.command(dump), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", **who) as source:
            done = subprocess.run(tools.command(load), stdin=source.stdout, capture_output=True, text=True, check=False,
                                  cwd="/", env={**os.environ, **password}, **who)  # fmt: skip
            said = source.stderr.read() if source.stderr else ""
        # A dump that ends early must not pass for a small table.
        if source.returncode != 0 or done.returncode != 0:
            raise ToolError(f"the table could not be copied: {(said + done.stderr).strip()[-600:]}")

    def _files(self, way: Way) -> None:
        manifest = way.manifest or {}
        known = [entry for each in manifest["components"] for entry in each["files"]]
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.job.now()))
        root = Path(self.job.scratch_dir)
        clean_leftovers(root)
        wanted = {p: [e for e in known if e["path"] == p or e["path"].startswith(p.rstrip("/") + "/")] for p in self.request.paths}
        for path, entries in wanted.items():
            if not entries:
                raise EngineRefused(f"{path} is not in the set {manifest['set']}")
        with Place(root, None, self.job.now) as place:
            restored = place.folder / "files"
            self.backups.surveyor.restic.restore(manifest["snapshot"], restored, list(wanted))
            for path, entries in wanted.items():
                if problems := prove_files(restored, entries):
                    raise EngineRefused(f"{path} did not come back whole: {problems[0]}; nothing was replaced")
            for path in wanted:
                self._put(restored / path.lstrip("/"), Path(path), stamp)

    def _put(self, source: Path, path: Path, stamp: str) -> None:
        """Put a restored file or folder in its place, and what is there aside."""
        aside = path.with_name(f"{path.name}.before-{stamp}")
        part = path.with_name(f".{path.name}.restored-{stamp}")
        with self.backups.acting("restore-data", str(path), f"the old one is {aside.name}" if path.exists() else "it was gone",
                                 kind="destructive"):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            # cp keeps owners and modes, and is on the same file system as the place before it takes the name.
            self.job.own_tools().run(["cp", "-a", str(source), str(part)])
            if os.path.lexists(path):
                os.rename(path, aside)
            os.rename(part, path)


def _gone_with(there: Session, here: Session, table: str) -> list[dict[str, Any]]:
    """Return a finding for each foreign key and view that a DROP ... CASCADE of the table took along."""
    query = DEPENDENTS.format(table=literal(table))
    known = {row["name"] for row in here.rows(query)}
    return [
        finding("gone-with-the-table", f"A {row['what']} was dropped together with the table", subject=row["name"], remedy=row["remedy"])
        for row in there.rows(query)
        if row["name"] not in known
    ]


def _data_dir(sets: Sequence[dict[str, Any]]) -> str:
    """Return where the last of these sets that says it has the live data directory; empty if none does."""
    return next((str(each["database"]["data_dir"]) for each in reversed(sets) if each["database"].get("data_dir")), "")


def _running(data: Path) -> int:
    """Return the pid of the server on a data directory; 0 where none runs."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return 0
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return 0
    return pid if b"postgres" in command or b"postmaster" in command else 0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _iso_exact(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S.%f}+00"
