# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The steps of a backup run. Each reads anew what is due, does it, and tells what it did to what.

A set is taken in this order: a backup of the database, a restore point with the figures that a recovery to it must
show, its WAL in the archive, the components, the snapshot of files, and last of all the manifest. Killed anywhere
before that, there is no set, and the next run takes one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.backups_components import capture_files, capture_redis, capture_sqlite
from ansible.module_utils.backups_engine import FULL, WAL, Engine, EngineRefused, Server
from ansible.module_utils.backups_figures import FiguresError, ensure_canary, take_figures
from ansible.module_utils.backups_manifest import FILES_TAG, NAME, TAG, new_set_id, sealed
from ansible.module_utils.backups_planner import Plan, plan
from ansible.module_utils.backups_scratch import MARK, MARK_TEXT, Place, ScratchServer, Target, clean_leftovers
from ansible.module_utils.backups_survey import Job, Surveyor, set_tags
from ansible.module_utils.runbook_components import Component, ComponentError
from ansible.module_utils.runbook_psql import PsqlError, PsqlUnreachable, Session, child_identity, literal
from ansible.module_utils.runbook_restic import after_forget, before_forget, new_marks
from ansible.module_utils.runbook_result import action, finding, human_bytes
from ansible.module_utils.runbook_state import replace_text
from ansible.module_utils.runbook_tools import ToolError

MANAGED = "# Ansible managed"


class Backups:
    """The steps over one job. `actions` and `findings` grow as work is done."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.surveyor = Surveyor(job)
        self.actions: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []

    def due(self, verify: bool | None = False) -> Plan:
        """Return what is due now."""
        return plan(self.surveyor.look(verify), self.job.limits)

    @contextmanager
    def acting(self, step: str, subject: str, reason: str, **told: Any) -> Iterator[dict[str, Any]]:
        """Note an action around the work that carries it out. What fails is noted, and raised again."""
        entry = action(step, subject, reason, **told)
        began = time.monotonic()
        self.actions.append(entry)
        try:
            yield entry
        except (ToolError, EngineRefused, ComponentError, FiguresError, PsqlError, OSError) as error:
            entry.update(result="failed", detail=str(error)[:600])
            raise
        else:
            entry["result"] = "done"
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)

    def repositories(self) -> None:
        """Make what is missing: configuration, repositories, the server's archiving. Remove what killed runs left."""
        picture = self.surveyor.look(verify=False)
        planned = plan(picture, self.job.limits)
        if planned.blocked:
            raise EngineRefused(planned.blocked)
        job, engine = self.job, self.surveyor.engine()
        if picture.leftovers:
            with self.acting("repositories", f"{len(picture.leftovers)} leftovers", "left by a run that was killed"):
                clean_leftovers(Path(job.scratch_dir))
                engine.leftovers(remove=True)
        if picture.files.stale_locks:
            released = self.surveyor.restic.release_stale(socket.gethostname(), 0)
            for lock in released:
                self.actions.append(action("repositories", str(lock), "its process is gone", result="done"))
        if picture.files.damaged:
            with self.acting("repositories", f"{len(picture.files.damaged)} damaged files", "what they held is saved anew"):
                # What is lost for good shows when the whole is checked again.
                self.surveyor.memory["files"].update(mended_at=self.job.now(), verified_at=None)
                self.surveyor.remember()
                self.surveyor.restic.set_aside(picture.files.damaged)
        for subject, why in picture.settings:
            with self.acting("repositories", subject, why):
                self._ensure(subject, engine)

    def _ensure(self, subject: str, engine: Engine) -> None:
        job = self.job
        if subject == job.config:
            self.write_config(self.surveyor.config_text(self.surveyor.server()))
        elif subject == job.files_repository:
            if os.path.isabs(job.files_repository):
                os.makedirs(job.files_repository, mode=0o700, exist_ok=True)
            self.surveyor.restic.init()
        elif subject == job.repository:
            self._make_folder()
            engine.prepare(self.surveyor.server())
        elif subject == "archive_command":
            self._configure("archive_command", engine.archive_command())
        elif subject == "archive_timeout":
            self._configure("archive_timeout", f"{job.archive_timeout_seconds}s")
        elif subject == "archive_mode":
            self._configure("archive_mode", "on")
            self._configure("wal_level", "replica", only_from="minimal")
            self._restart()

    def _make_folder(self) -> None:
        """Make the folder of a local repository, for the server's user alone."""
        path = self.job.repository_path
        if not path:
            return
        made = [parent for parent in [Path(path), *Path(path).parents] if not parent.exists()]
        os.makedirs(path, mode=0o755, exist_ok=True)
        for parent in made[1:]:
            parent.chmod(0o711)  # whatever the umask: the server's user has to get here
        if made and (identity := child_identity(self.job.os_user)):
            os.chown(path, identity["user"], identity["group"])
            os.chmod(path, 0o700)

    def write_config(self, text: str, to: str = "") -> None:
        """Write pgbackrest's configuration, which holds the passphrase, for the server's user alone."""
        path = Path(to or self.job.config)
        if path.exists() and MANAGED not in path.read_text(encoding="utf-8", errors="replace"):
            raise EngineRefused(f"{path} is somebody else's: set backups_pgbackrest_config to another name")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_text(path, text, owner=child_identity(self.job.os_user))

    def _configure(self, name: str, value: str, only_from: str | None = None) -> None:
        with Session(self.job.connection) as session:
            if only_from is not None and session.value(f"SELECT current_setting({literal(name)})") != only_from:
                return
            session.execute(f"ALTER SYSTEM SET {name} = {literal(value)}")
            session.execute("SELECT pg_reload_conf()")
            at_start = session.value(f"SELECT context = 'postmaster' FROM pg_settings WHERE name = {literal(name)}")  # noqa: S608  a literal, quoted
            files = session.rows("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL")
        # What takes effect at a restart could not be applied, and is no fault.
        broken = [] if at_start else [row for row in files if row["name"] == name]
        if broken:
            raise EngineRefused(f"the server refuses {name}={value}: {broken[0]['error']}")

    def _restart(self) -> None:
        description = self.job.components.get("database")
        if not description:
            raise EngineRefused(
                "archive_mode is set and waits for a restart, and tracker_components does not say how to restart the"
                " database: restart it by hand, then run this again"
            )
        Component("database", description).ensure("restarted")
        self.wait_for_server("current_setting('archive_mode') <> 'off'", "archive_mode is still off: another file or the command line sets it",
                             "the restarted server is not as it must be after 120 s")  # fmt: skip

    def wait_for_server(self, condition: str, otherwise: str, failed: str) -> None:
        """Wait until the live server answers and the SQL `condition` holds, at most 120 s.

        Raise EngineRefused with what `failed` and why: what kept it from answering, or `otherwise`.
        """
        until = time.monotonic() + 120
        while True:
            try:
                with Session(self.job.connection) as session:
                    if session.value(f"SELECT {condition}"):
                        return
                last = otherwise
            except (PsqlUnreachable, PsqlError) as error:
                last = str(error)
            if time.monotonic() > until:
                raise EngineRefused(f"{failed}: {last}")
            time.sleep(0.3)

    def scratch_server(
        self,
        place: Place,
        target: Target,
        settings: dict[str, Any],
        archive: str = "off",
        has_wal: Callable[[str], bool] | None = None,
    ) -> ScratchServer:
        """Return the server that recovers what was restored into `place`; arguments are those of ScratchServer."""
        return ScratchServer(
            place.data,
            place.run,
            self.job.tools(),
            restore_command=self.surveyor.engine().restore_command(place.data),
            target=target,
            archive=archive,
            settings=settings,
            superuser=self.job.connection.user or "postgres",
            has_wal=has_wal,
            tablespace_roots=[Path(f"{place.data}.tablespaces")],
        )

    def set(self) -> None:
        """Take the set that is due."""
        planned = self.due()
        if not planned.kind:
            return
        if planned.blocked:
            raise EngineRefused(planned.blocked)
        if planned.kind == WAL:
            # Whether none is missing shows when what comes after it has arrived.
            try:
                self.archive(self.surveyor.engine(), self.surveyor.server())
                planned = self.due()
            except EngineRefused as refused:
                planned.kind = FULL
                told = next(a for a in planned.actions if a["step"] == "set")
                told.update(subject="full set", reason=f"going on by WAL is not possible: {refused}")
        self.take(planned.kind, next(a for a in planned.actions if a["step"] == "set"))

    def take(self, kind: str, planned: dict[str, Any]) -> dict[str, Any]:
        """Take a set of this kind and return its manifest."""
        server = self.surveyor.server()
        engine = self.surveyor.engine()
        began = self.job.now()
        set_id = new_set_id(began)
        self._refuse_full_disk(engine, server, kind)
        with self.acting("set", f"{planned['subject']} {set_id}", planned["reason"], number=planned["number"],
                         threshold=planned["threshold"], unit="hours") as entry:  # fmt: skip
            label = self._backup(engine, kind, server)
            backed_up = self.job.now()
            manifest = self._finish(set_id, kind, label, began, server, engine)
            backup = next(b for b in engine.read(server).backups if b.label == label)
            entry.update(after=backup.repository_bytes if kind != WAL else manifest["files_bytes_added"], measure="bytes")
            entry["detail"] = f"backup {label} in {backed_up - began:.1f} s, set in {self.job.now() - began:.1f} s"
        return manifest

    def _backup(self, engine: Engine, kind: str, server: Server) -> str:
        if kind == WAL:
            return self._newest_label(engine, server)
        try:
            return engine.backup(kind, server)
        except ToolError as error:
            path = self.job.repository_path
            free = shutil.disk_usage(path).free if path and os.path.isdir(path) else None
            if free is None or free > 16 * 1024 * 1024:
                raise
            raise ToolError(f"no space left in {path}, {human_bytes(free)} free: {error}", error.rc, error.output) from error

    def _newest_label(self, engine: Engine, server: Server) -> str:
        problems = self.surveyor.memory.get("database", {}).get("problems", {})
        good = [b for b in engine.read(server).backups if not problems.get(b.label)]
        return max(good, key=lambda b: b.stopped).label

    def _refuse_full_disk(self, engine: Engine, server: Server, kind: str) -> None:
        """Raise EngineRefused where a backup would fill the disk that it goes to."""
        path = self.job.repository_path
        if not path or not os.path.isdir(path) or kind == WAL:
            return
        seen = engine.read(server)
        same = [b.repository_bytes for b in seen.backups if b.kind == kind]
        with Session(self.job.connection) as session:
            whole = int(session.value("SELECT sum(pg_database_size(oid)) FROM pg_database"))
        # What the last one of its kind took, or a third of the data, which zstd makes of rows like these; plain, all.
        expected = max(same) if same else whole if self.job.engine == "basebackup" else whole // 3
        free = shutil.disk_usage(path).free
        if free < expected * 1.1:
            raise EngineRefused(
                f"{path} has {human_bytes(free)} free, and the backup needs about {human_bytes(expected * 1.1)}: enlarge"
                " it, lower backups_keep_days, or set backups_repository to another disk"
            )

    def _finish(
        self, set_id: str, kind: str, label: str, began: float, server: Server, engine: Engine
    ) -> dict[str, Any]:
        """Take all of a set but the backup of the database, and write its manifest."""
        job = self.job
        canary = ensure_canary(job.connection, set_id)
        figures = take_figures(job.connection, set_id, costs=job.costs, count_seconds=job.count_seconds).as_dict()
        self.archive(engine, server, str(figures["wal_file"]))
        with self._staging() as staging:
            components = self._capture(staging)
            paths = [str(staging), *(p for each in job.files for p in each["paths"] if os.path.lexists(p))]
            excludes = [x for each in job.files for x in each.get("exclude") or []]
            saved = self.surveyor.restic.backup(paths, set_tags(set_id, FILES_TAG), job.stanza, excludes)
        ended = self.job.now()
        manifest = {
            "set": set_id,
            "host": socket.gethostname(),
            "started": began,
            "finished": ended,
            "kind": kind,
            "database": {
                "engine": job.engine,
                "label": label,
                "manifest_sha256": engine.manifest_sum(label),
                "name": job.connection.database,
                "data_dir": server.data_dir,
                "canary": getattr(canary, "at", None),
                "figures": figures,
            },
            "components": components,
            "staging": str(staging),
            "snapshot": saved.snapshot,
            "files_bytes_added": saved.bytes_added,
            "skew_seconds": round(ended - _point_at(figures, ended), 1),
            "versions": {"engine": ".".join(map(str, engine.read(server).version)), "server": server.version_num,
                         "restic": ".".join(map(str, self.surveyor.restic.version()))},
        }  # fmt: skip
        whole = sealed(manifest)
        self._write_manifest(whole)
        return whole

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=1, sort_keys=True).encode()
        self.surveyor.restic.store(NAME, text, set_tags(manifest["set"], TAG), self.job.stanza)
        self.surveyor.shelf.keep(manifest)

    def archive(self, engine: Engine, server: Server, wal_file: str = "") -> None:
        """Have the server go on to its next WAL file, and wait until `wal_file`, or all before that, is in the repository."""
        with Session(self.job.connection) as session:
            # Where nothing was written since the last switch it stays, and the file before is the last one.
            last = str(session.value("SELECT pg_walfile_name(pg_switch_wal() - 1)"))
            wal_file = wal_file or last
            behind = session.value("SELECT pg_current_wal_lsn()::text")
        engine.receive(behind)
        until = time.monotonic() + self.job.wal_wait_seconds
        while wal_file not in engine.read(server).archive.names:
            self._refuse_lost(engine, server, wal_file)
            if time.monotonic() > until:
                raise EngineRefused(
                    f"WAL file {wal_file} is not in the repository after {self.job.wal_wait_seconds} s: see why"
                    " archive_command fails in the server's log"
                )
            time.sleep(0.2)

    def _refuse_lost(self, engine: Engine, server: Server, wal_file: str) -> None:
        """Raise EngineRefused where the server has archived a WAL file that is not in the repository: it never will be."""
        with Session(self.job.connection) as session:
            last = str(session.value("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"))
        # The history files of timelines and backups are archived too.
        if last[:24] >= wal_file and last[:8] == wal_file[:8] and wal_file not in engine.read(server).archive.names:
            raise EngineRefused(f"the server has archived WAL file {wal_file}, and it is not in the repository: it was lost there")

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """Give a folder for what is copied before it is saved; its name is the same for every set, so that restic's
        snapshots of it follow one another."""
        root = Path(self.job.scratch_dir)
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        (root / MARK).write_text(MARK_TEXT, encoding="utf-8")
        folder = root / "set"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        (folder / MARK).write_text(MARK_TEXT, encoding="utf-8")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _capture(self, staging: Path) -> list[dict[str, Any]]:
        job, found = self.job, []
        if job.redis:
            found.append(capture_redis(job.own_tools(), job.redis, staging, job.now).as_dict())
        if job.grafana_database:
            found.append(capture_sqlite(job.grafana_database, staging, job.now).as_dict())
        for each in job.files:
            captured = capture_files(each["name"], each["paths"], each.get("exclude") or [], job.now).as_dict()
            for problem in captured.get("problems", []):
                self.findings.append(finding("files-missing", "What is to be saved is not there", subject=each["name"],
                                             observed=problem, remedy="Correct backups_files"))  # fmt: skip
            found.append(captured)
        return found

    def expire(self) -> None:
        """Remove what newer, whole backups cover."""
        planned = self.due()
        if planned.blocked or not (planned.expire or planned.drop_sets):
            return
        seen = self.surveyor.engine().read(self.surveyor.server())
        names = {backup.label for backup in planned.expire}
        told = {a["subject"]: a for a in planned.actions if a["step"] == "expire"}
        if planned.expire:
            keep = [backup for backup in seen.backups if backup.label not in names]
            with self.acting("expire", ", ".join(sorted(names)), "newer backups cover the days to keep") as entry:
                entry.update({k: v for k, v in told[planned.expire[0].label].items() if k in ("number", "threshold", "unit")})
                entry.update(before=sum(b.repository_bytes for b in planned.expire), after=0, measure="bytes")
                self.surveyor.engine().expire(keep, planned.expire)
        self._drop_sets(planned)

    def _drop_sets(self, planned: Plan) -> None:
        restic = self.surveyor.restic
        drop = set(planned.drop_sets)
        if not drop:
            return
        with self.acting("expire", f"{len(drop)} sets", "their database backup is gone"):
            ids = [s.id for s in restic.snapshots(None) if {t[len("set-") :] for t in s.tags if t.startswith("set-")} & drop]
            if ids:
                self._forget(ids)
            for set_id in drop:
                self.surveyor.shelf.drop(set_id)

    def _forget(self, ids: list[str]) -> None:
        """Forget snapshots; what is missing afterwards is missing on purpose."""
        notes = self.surveyor.memory.setdefault("files", {})
        notes["marks"] = before_forget(notes.get("marks", new_marks()))
        self.surveyor.remember()
        gone = self.surveyor.restic.forget(ids, prune=True)
        notes["marks"] = after_forget(notes["marks"], gone)
        self.surveyor.remember()


def _point_at(figures: dict[str, Any], otherwise: float) -> float:
    """Return the time of the restore point in seconds since 1970."""
    text = str(figures.get("taken_at") or "")
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return otherwise
