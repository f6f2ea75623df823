# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The restore drill: a set is restored into a scratch folder, and has to be what its manifest says.

The live server is asked for two things only: a row, and how long its WAL takes into the repository. Everything else is
done on copies. RTO is what a person would wait for: files, database and recovery; the checks come on top. RPO is what is
lost at worst with the disk: the time WAL may wait on the server, and the time it took into the repository just now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.backups_components import prove_files, prove_keys, prove_redis, prove_sqlite
from ansible.module_utils.backups_engine import EngineRefused, by_label
from ansible.module_utils.backups_figures import (
    compare,
    ensure_canary,
    integrity,
    newest_canary,
    not_compared,
    read_figures,
)
from ansible.module_utils.backups_planner import good_sets, plan
from ansible.module_utils.backups_scratch import (
    Place,
    ScratchError,
    ScratchRefused,
    ScratchServer,
    Target,
    refuse_place,
)
from ansible.module_utils.backups_work import Backups
from ansible.module_utils.runbook_psql import PsqlError, PsqlUnreachable, Session
from ansible.module_utils.runbook_result import human_bytes
from ansible.module_utils.runbook_state import write_json
from ansible.module_utils.runbook_tools import ToolError

FAILURES = (ToolError, EngineRefused, ScratchError, ScratchRefused, PsqlError, PsqlUnreachable, OSError)


class Drill:
    """One drill of the newest set. `evidence` is the folder its record and the scratch server's log go to."""

    def __init__(self, backups: Backups, evidence: Path) -> None:
        self.backups, self.job, self.evidence = backups, backups.job, evidence
        self.phases: dict[str, float] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.proved: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase, also one that fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(time.monotonic() - began, 3)

    def run(self) -> None:
        """Carry out the drill that is due. What it finds is in the record; it raises only where there is no set."""
        picture = self.backups.surveyor.look(verify=False)
        planned = plan(picture, self.job.limits)
        due = [each for each in planned.actions if each["step"] == "drill"]
        sets = good_sets(picture)
        if not due or not sets:
            return
        manifest = sets[-1]
        backup = by_label(picture.repository.backups)[manifest["database"]["label"]]
        record: dict[str, Any] = {
            "at": self.job.now(),
            "set": manifest["set"],
            "label": backup.label,
            "result": "failed",
            "bytes": backup.bytes,
            "rto_limit_seconds": self.job.limits.rto_seconds,
            "rpo_limit_seconds": self.job.limits.rpo_seconds,
            "rto_seconds": 0.0,
            "rpo_seconds": 0.0,
        }
        with self.backups.acting("drill", manifest["set"], due[0]["reason"], number=due[0]["number"],
                                 threshold=due[0]["threshold"], unit="days") as entry:  # fmt: skip
            try:
                record["rpo_seconds"] = self._exposure(picture)
                self._in_scratch(manifest, backup, picture, record)
            except FAILURES as error:
                self.problems.append(f"{type(error).__name__}: {error}"[:600])
            self._note(record)
            entry["detail"] = (
                f"RTO {record['rto_seconds']:.1f} s, RPO {record['rpo_seconds']:.0f} s, {record['mb_per_second']:.0f} MB/s"
                if record["result"] == "passed"
                else self.problems[0]
            )
        if record["result"] != "passed":
            entry["result"] = "failed"

    def _note(self, record: dict[str, Any]) -> None:
        """Complete the record, keep it in memory and as evidence."""
        waited = [self.phases.get(name, 0.0) for name in ("files", "restore", "recovery")]
        record.update(
            phases=dict(self.phases),
            problems=self.problems,
            notes=self.notes,
            proved=self.proved,
            result="failed" if self.problems else "passed",
            rto_seconds=round(sum(waited), 2),
            seconds=round(self.job.now() - record["at"], 2),
            mb_per_second=round(record["bytes"] / 1e6 / max(self.phases.get("restore", 0.0), 0.001), 1),
        )
        write_json(self.evidence / f"drill-{record['set']}.json", record)
        self.backups.surveyor.memory.setdefault("drills", []).append({**record, "evidence": str(self.evidence)})
        self.backups.surveyor.remember()

    def _exposure(self, picture: Any) -> float:
        """Return the RPO in seconds: how long a row may wait for the archive, and how long the archive takes."""
        engine, server = self.backups.surveyor.engine(), self.backups.surveyor.server()
        if self.job.receives:
            # Between two runs nothing is fetched.
            newest = picture.repository.archive.newest_at
            return round(max(self.job.now() - newest, 0.0), 1) if newest else float("inf")
        ensure_canary(self.job.connection, "drill")
        with Session(self.job.connection) as session:
            timeout = int(session.value("SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout'"))
        began = time.monotonic()
        self.backups.archive(engine, server)
        lag = time.monotonic() - began
        self.phases["archive"] = round(lag, 3)
        return round(timeout + lag, 1)

    def _in_scratch(self, manifest: dict[str, Any], backup: Any, picture: Any, record: dict[str, Any]) -> None:
        job, surveyor = self.job, self.backups.surveyor
        root = Path(job.scratch_dir)
        live = [Path(p) for p in (surveyor.server().data_dir, manifest["database"].get("data_dir")) if p]
        size = backup.bytes + sum(int(f["bytes"]) for c in manifest["components"] for f in c["files"])
        refuse_place(root, live, size, os_user=job.os_user)
        with Place(root, job.os_user, job.now) as place:
            restored = place.folder / "files"
            with self.phase("files"):
                surveyor.restic.restore(manifest["snapshot"], restored)
            with self.phase("restore"):
                surveyor.engine().restore(backup.label, place.data, picture.repository)
            figures = manifest["database"]["figures"]
            names = set(picture.repository.archive.names)
            # Archiving is off, so the live repository never sees it.
            server = self.backups.scratch_server(place, Target("name", figures["restore_point"]), figures["settings"],
                                                 has_wal=lambda name: name in names)  # fmt: skip
            try:
                with server:
                    with self.phase("recovery"):
                        recovered = server.start_and_recover(job.recovery_limit_seconds)
                    if not recovered.reached:
                        self.problems.append(f"the recovery did not stop at its target: {recovered.evidence}")
                    self.proved.append(f"recovery: {recovered.evidence}")
                    record.update(timeline=recovered.timeline, end_lsn=recovered.end_lsn, segments=recovered.segments)
                    self._database(server, manifest)
                with self.phase("checksums"):
                    self._noted("page checksums", server.page_checksums())
            finally:
                self.notes += server.notes
                server.keep_log(self.evidence / "drill-server.log")
            self._components(restored, place, manifest)

    def _database(self, server: ScratchServer, manifest: dict[str, Any]) -> None:
        name, expected = manifest["database"]["name"], manifest["database"]["figures"]
        connection = server.connection(name)
        with self.phase("figures"):
            seen = read_figures(connection, costs=list(self.job.costs), count_seconds=self.job.count_seconds).as_dict()
            wrong = compare(expected, seen)
            self.problems += [f"{d.kind} {d.subject}: expected {d.expected}, restored {d.observed}" for d in wrong]
            self.notes += [f"{table}: too large to count in time" for table in not_compared(expected, seen)]
            if not wrong:
                rows = sum(count or 0 for count in expected["tables"].values())
                days = sum(len(each) for each in expected["costs"].values())
                self.proved.append(f"{rows:,} rows in {len(expected['tables'])} tables, costs of {days} days, schema, sequences")
        with self.phase("integrity"), Session(connection) as session:
            for found in integrity(session):
                # Indexes and sequences are as they were; then it is the live server that has an invalid one.
                as_saved = not wrong and found.kind in ("index", "sequence")
                (self.notes if as_saved else self.problems).append(f"{found.kind} {found.subject}: {found.text}")
            canary = newest_canary(session)
            wanted = manifest["database"].get("canary")
            if wanted and canary.at != wanted:
                self.problems.append(f"the row written just before the set is not there: newest is {canary.at}, not {wanted}")
        if self.job.amcheck:
            with self.phase("amcheck"):
                self._noted("indexes against tables", server.amcheck([name]))
        with self.phase("dump"):
            size, _ = server.dump_to_null(name)
            self.proved.append(f"every row was read: a dump of {human_bytes(size)}")

    def _noted(self, what: str, checked: Any) -> None:
        self.problems += [f"{what}: {problem}" for problem in checked.problems]
        self.notes += [f"{what}: {note}" for note in checked.notes]
        if checked.done and not checked.problems:
            self.proved.append(what)

    def _components(self, restored: Path, place: Place, manifest: dict[str, Any]) -> None:
        tools, staging = self.job.own_tools(), str(manifest["staging"]).lstrip("/")
        with self.phase("components"):
            for each in manifest["components"]:
                wrong = prove_files(restored, each["files"])
                if each["kind"] == "redis":
                    scratch = place.folder / "redis"
                    scratch.mkdir(mode=0o700)
                    found, details = prove_redis(tools, restored / staging / "redis.rdb", scratch, each["details"])
                    wrong += found
                    self.proved.append(f"cache: loaded in {details.get('load_seconds', 0):.1f} s")
                elif each["kind"] == "sqlite":
                    wrong += prove_sqlite(restored / staging / "grafana.db", each["details"])
                else:
                    for key in prove_keys(tools, restored, [f["path"] for f in each["files"]], self.job.now):
                        (wrong if key.kind == "problem" else self.notes).append(f"{key.path}: {key.text}")
                self.problems += [f"{each['name']}: {problem}" for problem in wrong]
                if not wrong:
                    self.proved.append(f"{each['name']}: {len(each['files'])} files as they were")
