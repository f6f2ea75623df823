# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The engine pgbackrest, 2.45 and newer: https://pgbackrest.org/command.html

Its verify trusts the copy of a damaged manifest and does not miss WAL, so both are looked at here as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.backups_engine import (
    DIFF,
    FULL,
    INCR,
    WAL_NAME,
    Archive,
    Backup,
    EngineRefused,
    Repository,
    Server,
    wal_gaps,
)
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools, version

OLDEST = (2, 45)
ABSENT_CODES = (1, 3)  # missing stanza path, missing stanza data
NO_BACKUP = 2
LOCKED_RC = 50


class PgBackRest:
    """A stanza of a pgBackRest configuration file.

    `config` is the configuration file, `repository_path` the folder of a local repository (empty: it is elsewhere),
    `program` what starts pgbackrest. `known` maps labels to the sha256 of their manifest when it was written.
    """

    name = "pgbackrest"

    def __init__(self, tools: Tools, stanza: str, config: str, repository_path: str, known: dict[str, str]) -> None:
        self.tools, self.stanza, self.config, self.repository_path = tools, stanza, config, repository_path
        self.known = known

    def _run(self, command: str, *arguments: str, **how: Any) -> str:
        argv = ["pgbackrest", f"--config={self.config}", f"--stanza={self.stanza}", command, *arguments]
        return self.tools.run(argv, **how).out

    def version(self) -> tuple[int, ...]:
        """Return the version. Raise EngineRefused where it is too old for what is done here."""
        found = version(self.tools.run(["pgbackrest", "version"]).out)
        if found < OLDEST:
            shown = ".".join(map(str, found))
            raise EngineRefused(f"pgbackrest {shown} is too old: 2.45 or newer is needed; install a newer package")
        return found

    def read(self, server: Server | None) -> Repository:
        try:
            found = self.version()
            # With a wrong passphrase it quotes what it could not read, byte by byte.
            told = json.loads(self._run("info", "--output=json"), strict=False)
        except (ToolMissing, EngineRefused) as error:
            return Repository("error", str(error))
        except (ToolError, ValueError) as error:
            if not os.path.exists(self.config):
                return Repository("absent", f"there is no {self.config} yet")
            return Repository("error", _explained(str(error)))
        if not told:
            return Repository("absent", "there is no stanza yet", version=found)
        return self._repository(told[0], found, server)

    def _repository(self, stanza: dict[str, Any], found: tuple[int, ...], server: Server | None) -> Repository:
        status = stanza["repo"][0]["status"] if stanza.get("repo") else stanza["status"]
        common = {
            "encrypted": stanza.get("cipher", "none") != "none",
            "local_path": self.repository_path,
            "version": found,
        }
        if status["code"] in ABSENT_CODES:
            # A stanza of another name in the same repository: somebody else's, or a typing error.
            others = self._stanzas()
            if others:
                names = ", ".join(others)
                return Repository(
                    "mismatch",
                    f"the repository holds the stanzas {names} and none named {self.stanza}: set backups_stanza, or"
                    f" make this one with pgbackrest --stanza={self.stanza} stanza-create",
                    **common,
                )
            return Repository("absent", str(status["message"]), **common)
        if status["code"] not in (0, NO_BACKUP):
            return Repository("error", _explained(str(status["message"])), **common)
        systems = {db["id"]: (str(db["system-id"]), int(str(db["version"]).split(".")[0])) for db in stanza["db"]}
        backups = tuple(_backup(each, systems) for each in stanza["backup"])
        current = systems[max(systems)] if systems else ("", 0)
        if server is not None and systems and current != (server.system_identifier, server.major):
            return Repository("mismatch", self._mismatch(current, server), backups, **common)
        archive = self._archive(server, backups, max(systems, default=1), current[1])
        return Repository("ready", str(status["message"]), backups, archive, **common)

    def _stanzas(self) -> list[str]:
        try:
            listed = json.loads(
                self.tools.run(["pgbackrest", f"--config={self.config}", "repo-ls", "--output=json", "archive"]).out
            )
        except (ToolError, ValueError):
            return []
        return sorted(name for name, entry in listed.items() if entry["type"] == "path" and name != ".")

    def _mismatch(self, known: tuple[str, int], server: Server) -> str:
        return (
            f"stanza {self.stanza} belongs to the system {known[0]} of version {known[1]}, and the server is"
            f" {server.system_identifier} of version {server.major}. If this server was upgraded or made anew on purpose,"
            f" look at its data first, then run pgbackrest --config={self.config} --stanza={self.stanza} stanza-upgrade by"
            " hand; if it is a copy of another one, give it a stanza of its own with backups_stanza"
        )

    def _archive(self, server: Server | None, backups: Sequence[Backup], db_id: int, major: int) -> Archive:
        folder = f"archive/{self.stanza}/{major}-{db_id}"
        try:
            listed = json.loads(self._run("repo-ls", "--recurse", "--output=json", folder))
        except (ToolError, ValueError):
            return Archive()
        found = {
            name: float(entry.get("time", 0))
            for path, entry in listed.items()
            if entry["type"] == "file" and (name := path.rsplit("/", 1)[-1][:24]) and WAL_NAME.fullmatch(name)
            and not path.endswith((".backup", ".partial"))
            and ".partial-" not in path
        }  # fmt: skip
        size = server.wal_segment_bytes if server else 16 * 1024 * 1024
        oldest = min((backup.wal_start for backup in backups), default="")
        gaps = wal_gaps(found, size, oldest)
        return Archive(tuple(sorted(found)), gaps, max(found.values(), default=None))

    def archive_command(self) -> str:
        # The server expands %p; a percent sign of ours would have to be doubled.
        words = ["pgbackrest", f"--config={self.config}", f"--stanza={self.stanza}", "archive-push"]
        return " ".join(shlex.quote(word).replace("%", "%%") for word in words) + " %p"

    def restore_command(self, data_dir: Path) -> str:
        # The configuration names the live data directory, to which nothing must be written.
        words = [self.tools.path("pgbackrest"), f"--config={self.config}", f"--stanza={self.stanza}", f"--pg1-path={data_dir}",
                 "archive-get"]  # fmt: skip
        return " ".join(shlex.quote(word).replace("%", "%%") for word in words) + ' %f "%p"'

    def kinds(self, server: Server) -> tuple[str, ...]:
        return (FULL, DIFF, INCR)

    def prepare(self, server: Server) -> list[str]:
        seen = self.read(server)
        if seen.state == "mismatch":
            raise EngineRefused(seen.message)
        if seen.state == "error":
            raise EngineRefused(seen.message)
        if seen.state == "ready":
            return []
        try:
            self._run("stanza-create", "--log-level-console=warn")
        except ToolError as error:
            raise EngineRefused(_explained(str(error))) from error
        return [f"made stanza {self.stanza}"]

    def backup(self, kind: str, server: Server) -> str:
        before = {backup.label for backup in self.read(server).backups}
        try:
            self._run("backup", f"--type={kind}", "--no-expire-auto", "--log-level-console=warn")
        except ToolError as error:
            if error.rc == LOCKED_RC:
                raise EngineRefused(
                    "another pgbackrest works on this stanza; wait for it, or find it with ps -C pgbackrest"
                ) from error
            raise ToolError(_explained(str(error)), error.rc, error.output) from error
        labels = [each.label for each in self.read(server).backups if each.label not in before]
        if not labels:
            raise ToolError("pgbackrest says that it took a backup, and the repository has no new one")
        return max(labels)

    def manifest_sum(self, label: str) -> str:
        """Return the sha256 of a backup's manifest as it is stored; empty where it cannot be read."""
        try:
            listed = self._run("repo-get", "--raw", f"backup/{self.stanza}/{label}/backup.manifest")
        except ToolError:
            return ""
        return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()

    def receive(self, until_lsn: str) -> None:
        return  # the server hands its WAL over

    def verify(self, backups: Sequence[Backup]) -> dict[str, list[str]]:
        problems: dict[str, list[str]] = {}
        # The report came with 2.44; from 2.55 on an unsound repository is an exit status too.
        done = self.tools.run(
            ["pgbackrest", f"--config={self.config}", f"--stanza={self.stanza}", "--output=text", "--verbose",
             "--log-level-console=off", "verify"],
            ok=range(256),
        )  # fmt: skip
        for label, text in read_verification(done.out).items():
            problems.setdefault(label, []).append(text)
        if "status: ok" not in done.out and not problems:
            problems[""] = [f"verify gave no verdict: {_explained((done.err or done.out).strip()[:300] or 'no output')}"]
        for label in [backup.label for backup in backups]:
            found = self.manifest_sum(label)
            if self.known.get(label) and found != self.known[label]:
                problems.setdefault(label, []).append("backup.manifest is not the one that was written with the backup")
        for name in ("backup", "archive"):
            texts = [self._info_text(name, ending) for ending in ("", ".copy")]
            if texts[0] != texts[1] or not texts[0]:
                problems.setdefault("", []).append(f"{name}.info and its copy are not the same: one of them is damaged")
        return problems

    def _info_text(self, name: str, ending: str) -> str:
        try:
            return self._run("repo-get", f"{name}/{self.stanza}/{name}.info{ending}")
        except ToolError:
            return ""

    def expire(self, keep: Sequence[Backup], gone: Sequence[Backup]) -> None:
        fulls = [backup for backup in keep if backup.kind == FULL]
        if not fulls:
            raise EngineRefused("not one full backup would be left: nothing is removed")
        # Fulls leave oldest first, and take with them what depends on them and the WAL before the first that stays.
        self._run("expire", f"--repo1-retention-full={len(fulls)}", "--log-level-console=warn")

    def restore(self, label: str, into: Path, repository: Repository) -> None:
        # type=none writes no settings for recovery and leaves postgresql.auto.conf as it was.
        arguments = [
            f"--set={label}",
            f"--pg1-path={into}",
            "--type=none",
            "--archive-mode=preserve",
            f"--tablespace-map-all={into}.tablespaces",
            "--log-level-console=warn",
        ]
        self._run("restore", *arguments)

    def leftovers(self, remove: bool) -> list[str]:
        # pgBackRest goes on from what a killed backup left, or removes it, with the next backup.
        return []


def _backup(told: dict[str, Any], systems: dict[int, tuple[str, int]]) -> Backup:
    system, major = systems.get(told["database"]["id"], ("", 0))
    return Backup(
        label=told["label"],
        kind=told["type"],
        started=float(told["timestamp"]["start"]),
        stopped=float(told["timestamp"]["stop"]),
        lsn_start=told.get("lsn", {}).get("start", ""),
        lsn_stop=told.get("lsn", {}).get("stop", ""),
        wal_start=told["archive"].get("start") or "",
        wal_stop=told["archive"].get("stop") or "",
        bytes=int(told["info"]["size"]),
        repository_bytes=int(told["info"]["repository"].get("delta", 0)),
        system_identifier=system,
        server_major=major,
        needs=tuple(told.get("reference") or ()),
        error=bool(told.get("error")),
    )


def read_verification(text: str) -> dict[str, str]:
    """Return what `verify --output=text --verbose` found wrong, by label; "" for the archive and the whole."""
    problems: dict[str, str] = {}
    subject, verdict = "", ""
    for line in text.splitlines():
        if found := re.match(r"\s+backup: ([^,\s]+), status: (\w[\w ]*)", line):
            subject, verdict = found[1], found[2].strip()
            if verdict != "valid":
                problems[subject] = f"verify says {verdict}"
        elif re.match(r"\s+archiveId: ", line):
            subject, verdict = "", "archive"
        elif re.match(r"\s+missing: ", line) and re.search(r": [1-9]", line):
            about = f"{verdict}, {line.strip()}"
            problems[subject] = f"verify says {about}"
        elif re.match(r"\s+No usable ", line):
            problems[""] = f"verify says {line.strip()}"
    return problems


def _explained(text: str) -> str:
    """Return a message of pgbackrest on one line, without the bytes it could not decrypt, and what to do."""
    if "unable to load info file" in text and re.search(r"FormatError|CryptoError|flush", text):
        return (
            "the repository cannot be read with this passphrase (or backup.info and its copy are both damaged):"
            " compare backups_passphrase with the one the repository was made with"
        )
    if "unexpected control version" in text or "is this version of PostgreSQL supported" in text:
        return (
            "this version of PostgreSQL is newer than what this pgbackrest knows: install a newer pgbackrest, or set"
            " backups_engine=basebackup"
        )
    printable = "".join(c if c.isprintable() else " " for c in text.replace("\n", "; "))
    return re.sub(r"\s+", " ", printable)[:600]
