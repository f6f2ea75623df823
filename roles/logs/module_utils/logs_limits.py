# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Limits of logs that are not logrotate's: the journal, containers, PostgreSQL's own log, folders of temporary files.

Each part reads what is in force, says what is due, and changes that alone. A part that is not on the host has nothing due.
"""

from __future__ import annotations

import configparser
import contextlib
import glob
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ansible.module_utils.logs_policy import size_of
from ansible.module_utils.runbook_psql import Connection, PsqlError, PsqlUnreachable, Session, literal
from ansible.module_utils.runbook_result import finding
from ansible.module_utils.runbook_state import replace_text
from ansible.module_utils.runbook_tools import ToolError, Tools

MARK = "# Managed by the runbook log-management: what is changed here by hand is overwritten.\n"
JOURNAL_DROP_IN = "etc/systemd/journald.conf.d/60-llm-cost-tracker.conf"
JOURNAL_FOLDERS = ("etc/systemd/journald.conf.d", "run/systemd/journald.conf.d", "usr/local/lib/systemd/journald.conf.d",
                   "usr/lib/systemd/journald.conf.d", "lib/systemd/journald.conf.d")  # fmt: skip
TMPFILES = "etc/tmpfiles.d/llm-cost-tracker.conf"
# Folders that a typo must not empty.
KEPT_FOLDERS = ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/usr", "/var",
                "/var/lib", "/var/log")  # fmt: skip
# With these, statements are logged whole, and prompts and answers are in them.
LOGS_STATEMENTS = {"log_statement": ("all", "mod")}


class LimitRefused(Exception):
    """A change is not made; the text says why and what to do."""


@dataclass(frozen=True)
class Change:
    """One setting that is not as it must be: `part` is journal, docker, postgresql or tmpfiles."""

    part: str
    subject: str
    reason: str
    before: str
    after: str


@dataclass(frozen=True)
class Limits:
    """What must hold. `journal` has storage, max_use_bytes, keep_free_bytes, max_days; `docker` driver, max_size, max_file,
    daemon_json, containers (globs of names); `postgresql` settings by name; `tmpfiles` entries of path and max_days.
    None or empty: that part is left alone."""

    journal: Mapping[str, Any] | None = None
    docker: Mapping[str, Any] | None = None
    postgresql: Mapping[str, str] = field(default_factory=dict)
    connection: Connection | None = None
    tmpfiles: tuple[Mapping[str, Any], ...] = ()
    confirm: tuple[str, ...] = ()
    host: str = ""
    root: str = "/"

    def faults(self) -> list[str]:
        """Return what is wrong with the inputs."""
        told = []
        for each in self.tmpfiles:
            path = str(each.get("path", ""))
            clean = "/" + os.path.normpath(path).lstrip("/")
            if clean != path or clean in KEPT_FOLDERS or clean.count("/") < 2 or re.search(r"[\s%*?\[]", path):
                told.append(f"logs_tmpfiles has the path {path!r}; it must be absolute, two folders deep, and hold nothing else")
            if int(each.get("max_days") or 0) < 1:
                told.append(f"logs_tmpfiles: max_days of {path} is {each.get('max_days')!r}; it must be at least 1")
        for name, value in self.postgresql.items():
            if not re.fullmatch(r"log_[a-z_]+|logging_collector", name):
                told.append(f"logs_postgresql_settings has {name}={value}; only settings of logging (log_...) belong there")
        return told


class Limiter:
    """Reads and changes all parts."""

    def __init__(self, limits: Limits, tools: Tools) -> None:
        self.parts = [Journal(limits, tools), Docker(limits, tools), Postgresql(limits), TmpFiles(limits, tools)]

    def look(self) -> tuple[list[Change], list[dict[str, Any]]]:
        """Return what is due, and findings about what only a person can change."""
        due: list[Change] = []
        told: list[dict[str, Any]] = []
        for part in self.parts:
            changes, findings = part.look()
            due += changes
            told += findings
        return due, told

    def apply(self, part: str) -> None:
        """Bring one part in order. Raise LimitRefused or ToolError."""
        next(each for each in self.parts if each.name == part).apply()


class Journal:
    """journald: persistent, with caps. Its files are vacuumed by the emergency's ladder alone."""

    name = "journal"

    def __init__(self, limits: Limits, tools: Tools) -> None:
        self.wanted, self.tools, self.limits = limits.journal, tools, limits
        self.root = Path(limits.root)

    def text(self) -> str:
        """Return the drop-in."""
        wanted = self.wanted or {}
        lines = [f"Storage={wanted['storage']}", f"SystemMaxUse={wanted['max_use_bytes']}",
                 *([f"SystemKeepFree={wanted['keep_free_bytes']}"] if wanted.get("keep_free_bytes") else []),
                 *([f"MaxRetentionSec={wanted['max_days']}day", "MaxFileSec=1day"] if wanted.get("max_days") else [])]  # fmt: skip
        return MARK + "[Journal]\n" + "\n".join(lines) + "\n"

    def effective(self) -> dict[str, str]:
        """Return journald's settings as its files give them, the last one winning."""
        names: dict[str, str] = {}
        for folder in reversed(JOURNAL_FOLDERS):
            for path in glob.glob(str(self.root / folder / "*.conf")):
                names[os.path.basename(path)] = path
        paths = [str(self.root / "etc/systemd/journald.conf"), *(names[n] for n in sorted(names))]
        found: dict[str, str] = {}
        for path in paths:
            parser = configparser.ConfigParser(interpolation=None, strict=False)
            parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their capitals
            with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
                parser.read(path, encoding="utf-8")
                found.update(parser["Journal"] if parser.has_section("Journal") else {})
        return found

    def present(self) -> bool:
        return self.wanted is not None and self.tools.has("journalctl") and (self.root / "run/systemd/journal").exists()

    def look(self) -> tuple[list[Change], list[dict[str, Any]]]:
        if not self.present() or self.wanted is None:
            return [], []
        now = self.effective()
        path = self.root / JOURNAL_DROP_IN
        told = []
        storage = now.get("Storage", "auto")
        kept = storage == "persistent" or (storage == "auto" and (self.root / "var/log/journal").is_dir())
        if not kept and self.wanted["storage"] != "persistent":
            told.append(finding("journal-volatile", "The journal ends with a reboot", observed=f"Storage={storage}", expected="persistent",
                                remedy="logs_journal_storage=persistent"))  # fmt: skip
        if _read(path) == self.text():
            wanted_now = {k: v for k, _, v in (line.partition("=") for line in self.text().splitlines()[2:])}
            overruled = {k: now.get(k, "") for k, v in wanted_now.items() if now.get(k) != v}
            if overruled:
                told.append(finding("journal-overruled", "Another file of journald has the last word", observed=str(overruled),
                                    expected=str(wanted_now), remedy=f"Look into {self.root}etc/systemd/journald.conf.d"))  # fmt: skip
            return [], told
        if self.wanted["storage"] == "volatile" and kept and self.confirmation() not in self.limits.confirm:
            told.append(finding("journal-volatile-refused", "The journal stays persistent: a volatile one ends with a reboot, its evidence too",
                                observed=f"Storage={storage}", expected="volatile",
                                remedy=f"--confirm {self.confirmation()}, or logs_journal_storage=persistent"))  # fmt: skip
            return [], told
        before = ", ".join(f"{k}={now[k]}" for k in ("Storage", "SystemMaxUse", "MaxRetentionSec") if k in now) or "the defaults"
        after = ", ".join(self.text().splitlines()[2:])
        return [Change("journal", "journald", "it has other limits", before, after)], told

    def confirmation(self) -> str:
        return f"{self.limits.host}/journal-volatile"

    def apply(self) -> None:
        path = self.root / JOURNAL_DROP_IN
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_text(path, self.text(), mode=0o644)
        # It reads its configuration at a start alone; what is sent meanwhile waits in its socket.
        self.tools.run(["systemctl", "restart", "systemd-journald.service"], limit_seconds=60)
        self.tools.run(["journalctl", "--flush"], limit_seconds=60)


class Docker:
    """Logs of containers. Limits in daemon.json are those of containers that are made later; what counts is docker inspect."""

    name = "docker"

    def __init__(self, limits: Limits, tools: Tools) -> None:
        self.wanted, self.tools = limits.docker, tools

    def present(self) -> bool:
        if self.wanted is None or not self.tools.has("docker"):
            return False
        try:
            return self.tools.run(["docker", "version", "--format", "{{.Server.Version}}"], ok=range(256), limit_seconds=20).rc == 0
        except ToolError:
            return False

    def wanted_text(self, now: Mapping[str, Any]) -> str:
        """Return daemon.json with the limits and all else as it is."""
        wanted = self.wanted or {}
        kept = {k: v for k, v in (now.get("log-opts") or {}).items() if now.get("log-driver", wanted["driver"]) == wanted["driver"]}
        options = {**kept, "max-size": wanted["max_size"], "max-file": str(wanted["max_file"])}
        return json.dumps({**now, "log-driver": wanted["driver"], "log-opts": options}, indent=2, sort_keys=True) + "\n"

    def configured(self) -> dict[str, Any]:
        """Return what daemon.json says. Raise LimitRefused where it cannot be understood."""
        path = (self.wanted or {})["daemon_json"]
        try:
            now = json.loads(Path(path).read_text(encoding="utf-8") or "{}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise LimitRefused(f"{path} cannot be read as JSON ({error}): correct it by hand, as docker will not start with it either") from error
        if not isinstance(now, dict):
            raise LimitRefused(f"{path} holds no JSON object: correct it by hand")
        return now

    def look(self) -> tuple[list[Change], list[dict[str, Any]]]:
        if not self.present() or self.wanted is None:
            return [], []
        told = []
        due = []
        try:
            now = self.configured()
            wanted = json.loads(self.wanted_text(now))
            if now != wanted:
                before = json.dumps({k: now.get(k) for k in ("log-driver", "log-opts")})
                after = json.dumps({k: wanted[k] for k in ("log-driver", "log-opts")})
                due.append(Change("docker", self.wanted["daemon_json"], "containers made from now on have no such limits", before, after))
        except LimitRefused as refused:
            told.append(finding("docker-configuration", "Docker's configuration is damaged", subject=self.wanted["daemon_json"],
                                observed=str(refused), severity="critical", remedy="Correct it by hand"))  # fmt: skip
        return due, [*told, *self._containers()]

    def _containers(self) -> list[dict[str, Any]]:
        ids = self.tools.run(["docker", "ps", "--all", "--quiet", "--no-trunc"], limit_seconds=30).out.split()
        if not ids:
            return []
        # One that is removed meanwhile is left out of the answer.
        shown = self.tools.run(["docker", "inspect", *ids], ok=(0, 1), limit_seconds=60).out
        return [f for each in json.loads(shown or "[]") for f in self.judge(each)]

    def judge(self, container: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what is wrong with the log of one container, as docker inspect shows it."""
        wanted = self.wanted or {}
        name = str(container.get("Name", "")).lstrip("/")
        if not any(fnmatchcase(name, glob_) for glob_ in wanted.get("containers") or ["*"]):
            return []
        config = (container.get("HostConfig") or {}).get("LogConfig") or {}
        driver, options = config.get("Type", ""), config.get("Config") or {}
        if driver not in ("json-file", "local"):
            return []
        size = options.get("max-size")
        seen = f"{driver}, max-size {size or 'none'}, max-file {options.get('max-file', 'none')}{self._log_size(container)}"
        remedy = "Set logging: in its compose file and make it anew (docker compose up -d --force-recreate); a restart is not enough"
        expected = f"max-size {wanted['max_size']}, max-file {wanted['max_file']}"
        if driver == "json-file" and (not size or size == "-1"):
            title = "The log of a container grows without a limit"
            return [finding("container-log-unbounded", title, subject=name, observed=seen, expected=expected, remedy=remedy)]
        told = []
        if size and _docker_size(size) > _docker_size(wanted["max_size"]):
            told.append(finding("container-log-large", "The log of a container may grow more than the policy says", subject=name, observed=seen,
                                expected=expected, severity="info", remedy=remedy))  # fmt: skip
        if driver == "json-file" and int(options.get("max-file", 1)) < 2:
            told.append(finding("container-log-one-file", "A container keeps one log file: what is full is thrown away, and docker logs -f hangs",
                                subject=name, observed=seen, expected=expected, remedy=remedy))  # fmt: skip
        return told

    def _log_size(self, container: Mapping[str, Any]) -> str:
        with contextlib.suppress(OSError, TypeError):
            return f", {os.stat(str(container.get('LogPath') or '')).st_size} bytes now"
        return ""

    def apply(self) -> None:
        path = Path((self.wanted or {})["daemon_json"])
        text = self.wanted_text(self.configured())
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        before = _read(path)
        replace_text(path, text, mode=mode)
        if self.tools.has("dockerd"):
            # Older ones do not know the option: then nothing is said, and nothing is wrong.
            done = self.tools.run(["dockerd", "--validate", "--config-file", str(path)], ok=range(256), limit_seconds=30)
            if done.rc and "unknown flag" not in done.err:
                _put_back(path, before, mode)
                raise LimitRefused(f"docker refuses {path} with these limits, it is as it was: {done.err.strip()[-300:]}")


class Postgresql:
    """Settings of PostgreSQL's own log, with ALTER SYSTEM and a reload."""

    name = "postgresql"

    def __init__(self, limits: Limits) -> None:
        self.wanted, self.connection = dict(limits.postgresql), limits.connection

    def look(self) -> tuple[list[Change], list[dict[str, Any]]]:
        if self.connection is None:
            return [], []
        names = sorted({*self.wanted, *LOGS_STATEMENTS, "log_min_duration_statement", "log_parameter_max_length"})
        try:
            with Session(self.connection) as session:
                listed = ", ".join(literal(n) for n in names)
                asked = f"SELECT name, setting, coalesce(unit, '') AS unit, context, pending_restart FROM pg_settings WHERE name IN ({listed})"  # noqa: S608  names are literals, quoted
                rows = {row["name"]: row for row in session.rows(asked)}
                # PostgreSQL itself knows what 100MB is in its own units.
                same = {name: self._same(session, name, value, rows) for name, value in self.wanted.items()}
        except (PsqlUnreachable, PsqlError) as error:
            return [], [finding("server-unreachable", "PostgreSQL cannot be asked how it logs", observed=str(error),
                                remedy="Start it, or see service-down")]  # fmt: skip
        due = [Change("postgresql", name, "the inventory says otherwise", rows[name]["setting"], value) for name, value in self.wanted.items()
               if name in rows and not same[name]]  # fmt: skip
        told = [finding("server-setting-unknown", "PostgreSQL has no such setting", subject=name, observed="unknown", expected=value,
                        remedy="Correct logs_postgresql_settings") for name, value in self.wanted.items() if name not in rows]  # fmt: skip
        waiting = [name for name in self.wanted if rows.get(name, {}).get("pending_restart")]
        told += [finding("server-restart", "A setting of the log waits for a restart", subject=name, observed=rows[name]["setting"],
                         severity="info", remedy="Restart PostgreSQL in a quiet minute") for name in waiting]  # fmt: skip
        return due, [*told, *self._prompts(rows)]

    def _same(self, session: Session, name: str, value: str, rows: Mapping[str, Any]) -> bool:
        if name not in rows:
            return True
        if rows[name]["setting"] == value or (rows[name]["setting"], value) in (("on", "true"), ("off", "false")):
            return True
        if rows[name]["unit"] in ("kB", "8kB", "MB", "B", "ms", "s", "min"):
            return bool(session.value(f"SELECT current_setting({literal(name)}) = {literal(value)}"))
        return False

    def _prompts(self, rows: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = self.wanted.get("log_statement")
        setting = rows.get("log_statement", {}).get("setting")
        if setting not in LOGS_STATEMENTS["log_statement"] or (wanted and wanted != setting):
            return []
        return [finding("statements-logged", "PostgreSQL logs statements whole, and prompts and answers are in them", subject="log_statement",
                        observed=setting, expected="none or ddl", remedy="Set log_statement to none in logs_postgresql_settings")]  # fmt: skip

    def apply(self) -> None:
        due, _ = self.look()
        if self.connection is None:
            return
        with Session(self.connection) as session:
            for change in due:
                session.execute(f"ALTER SYSTEM SET {change.subject} = {literal(change.after)}")
            session.execute("SELECT pg_reload_conf()")
            broken = session.rows("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL AND NOT applied AND error !~ 'without restart'")
        names = {change.subject for change in due}
        if told := [f"{row['name']}: {row['error']}" for row in broken if row["name"] in names]:
            raise LimitRefused(f"PostgreSQL refuses {'; '.join(told)}")


class TmpFiles:
    """Folders that systemd-tmpfiles empties of what is old."""

    name = "tmpfiles"

    def __init__(self, limits: Limits, tools: Tools) -> None:
        self.wanted, self.tools = limits.tmpfiles, tools
        self.path = Path(limits.root) / TMPFILES

    def text(self) -> str:
        return MARK + "".join(f"e {each['path']} - - - {int(each['max_days'])}d\n" for each in self.wanted) if self.wanted else ""

    def look(self) -> tuple[list[Change], list[dict[str, Any]]]:
        now = _read(self.path)
        if not self.tools.has("systemd-tmpfiles") or now == self.text() or (not now.startswith(MARK) and not self.wanted):
            return [], []
        reason = "folders of temporary files have other limits" if self.wanted else "the inventory has no such folders any more"
        return [Change("tmpfiles", str(self.path), reason, f"{max(0, len(now.splitlines()) - 1)} folders", f"{len(self.wanted)} folders")], []

    def apply(self) -> None:
        if not self.text():
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_text(self.path, self.text(), mode=0o644)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _put_back(path: Path, text: str, mode: int) -> None:
    if text:
        replace_text(path, text, mode=mode)
    else:
        path.unlink(missing_ok=True)


def _docker_size(text: str) -> int:
    """Return the bytes of a size as docker writes it: 10m, 1g, 500k."""
    try:
        return size_of(str(text).strip().rstrip("bB").replace("m", "M").replace("g", "G"))
    except ValueError:
        return 0
