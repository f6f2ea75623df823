# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What a host's logs look like: files, writers, rotation, file systems, journal, containers. It only reads."""

from __future__ import annotations

import contextlib
import errno
import glob
import grp
import os
import pwd
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils import logs_staging as staging
from ansible.module_utils.logs_archive import Archive, ArchiveError, FolderArchive, Kept, hold, place_faults
from ansible.module_utils.logs_files import LogFile, is_rotated, live_files, live_name, look_at, rotated_files
from ansible.module_utils.logs_forecast import Forecast, forecast, history, keep_sample
from ansible.module_utils.logs_holders import Holder
from ansible.module_utils.logs_holders import look as look_for_holders
from ansible.module_utils.logs_limits import Change, Limiter, Limits
from ansible.module_utils.logs_logrotate import (
    Block,
    Configuration,
    Problem,
    debug_run,
    lint,
    messages,
    overlaps,
    parse_state,
    read_configuration,
    text_of,
    why_ignored,
)
from ansible.module_utils.logs_policy import (
    Policy,
    Rendering,
    Server,
    config_text,
    covers,
    is_ours,
    overlap,
)
from ansible.module_utils.logs_space import Mount, mount_of, mounts_here
from ansible.module_utils.runbook_state import read_json, write_json
from ansible.module_utils.runbook_tools import ToolError, Tools

MEMORY = "logs.json"
# Beyond these a folder holds no logs, or what is there is not for logrotate.
NO_LOGS = ("journal", "pgsql-data", "lost+found")
WTMP = ("wtmp", "btmp", "lastlog", "faillog", "tallylog")


@dataclass(frozen=True)
class Given:
    """What the modules are told, shapes as in the role's inputs."""

    policies: tuple[Policy, ...]
    state_dir: Path
    config: str
    config_dir: str
    state_file: str
    schedule: str
    dirs: tuple[str, ...]
    ignored_paths: tuple[str, ...]
    filesystems: tuple[str, ...]
    server: Server
    limits: Limits
    archive: Archive | None
    archive_after_days: int
    archive_max_days: int | None
    hold: bool
    hold_file: str
    manage_packages: bool
    reopen_wait_seconds: float = 10
    now: Callable[[], float] = time.time


@dataclass
class Service:
    """The files of one policy: `live` now, `rotated` from the oldest on, and those that hold them open for writing.

    `ignored` says why logrotate ignores its configuration as it is installed; `no_files` are paths that are something else.
    """

    policy: Policy
    live: list[LogFile] = field(default_factory=list)
    rotated: list[LogFile] = field(default_factory=list)
    writers: list[Holder] = field(default_factory=list)
    rendering: Rendering = field(default_factory=Rendering)
    wanted: str = ""
    installed: str = ""
    superseded: list[str] = field(default_factory=list)
    blocked: str = ""
    unknown_owner: str = ""
    ignored: str = ""
    refused: list[str] = field(default_factory=list)
    no_files: list[tuple[str, str]] = field(default_factory=list)
    forecast: Forecast | None = None
    history: list[tuple[float, float]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.disk for file in [*self.live, *self.rotated])


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system: bytes and inodes, free for its users and for root alone."""

    mount: str
    device: int
    size: int
    free: int
    free_root: int
    inodes: int
    inodes_free: int
    read_only: bool
    deleted_open: int = 0
    forecast: Forecast | None = None
    samples: tuple[tuple[float, float], ...] = ()

    @property
    def used(self) -> int:
        return self.size - self.free_root

    @property
    def free_percent(self) -> float:
        usable = self.used + self.free
        return 100.0 * self.free / usable if usable else 0.0

    @property
    def inodes_free_percent(self) -> float:
        return 100.0 * self.inodes_free / self.inodes if self.inodes else 100.0


@dataclass
class Picture:
    """All that the planner decides over."""

    now: float = 0.0
    missing: list[str] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    rotated_at: dict[str, float] = field(default_factory=dict)
    filled: list[str] = field(default_factory=list)
    state_fault: str = ""
    scheduler: str = ""
    last_run: float | None = None
    uncovered: list[LogFile] = field(default_factory=list)
    strays: list[Holder] = field(default_factory=list)
    complete: bool = True
    filesystems: list[FileSystem] = field(default_factory=list)
    held: str = ""
    archive_fault: str = ""
    archived: list[Kept] = field(default_factory=list)
    proofs: dict[str, Any] = field(default_factory=dict)
    limits: list[Change] = field(default_factory=list)
    limit_findings: list[dict[str, Any]] = field(default_factory=list)
    main_missing: bool = False


def free_space(path: str, mounts: Iterable[Mount]) -> FileSystem:
    """Return the file system that holds `path`, which must be there.

    A bind mount is known by the kernel's list of `mounts` alone, as its device is that of its origin.
    """
    found = os.statvfs(path)
    return FileSystem(
        mount_of(os.path.realpath(path), mounts), os.stat(path).st_dev, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize,
        found.f_bfree * found.f_frsize, found.f_files, found.f_favail, bool(found.f_flag & os.ST_RDONLY),
    )  # fmt: skip


class Surveyor:
    """Reads the host once; `memory` is what earlier runs left."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.tools = Tools()
        self.memory_path = given.state_dir / "memory" / MEMORY
        self.memory: dict[str, Any] = read_json(self.memory_path, {})
        self.now = given.now()

    def remember(self) -> None:
        write_json(self.memory_path, self.memory)

    def look(self, write: bool = True) -> Picture:
        """Return the picture. With `write` the memory of how full the file systems were is kept."""
        given = self.given
        picture = Picture(now=self.now, missing=self._missing(), held=hold(given.hold, given.hold_file))
        picture.proofs = self.memory.get("proofs", {})
        configuration = read_configuration(given.config, given.config_dir)
        picture.main_missing = not os.path.exists(given.config)
        picture.services = [self._service(policy, configuration, picture.held) for policy in given.policies]
        picture.gone = self._gone()
        self._try_out(picture, [f.path for f in configuration.files if f.hangs])
        mine = configuration.ours()
        picture.blocks = [b for b in configuration.blocks if b.file not in mine]
        self._read_state(picture)
        self._read_schedule(picture)
        self._judge_configuration(picture, configuration)
        self._read_holders(picture)
        picture.uncovered = self._uncovered(configuration)
        self._read_archive(picture)
        picture.filesystems = self._filesystems(picture, write)
        limiter = Limiter(given.limits, self.tools)
        picture.limits, told = limiter.look()
        picture.limit_findings += told
        if write:
            self.remember()
        return picture

    # --- policies -----------------------------------------------------------------------------------------------

    def _missing(self) -> list[str]:
        by_logrotate = [p for p in self.given.policies if p.by_logrotate]
        wanted = ["logrotate"] if by_logrotate else []
        wanted += ["zstd"] if any(p.compress == "zstd" for p in by_logrotate) else []
        wanted += ["gzip"] if any(p.compress == "gzip" for p in by_logrotate) else []
        return [name for name in wanted if not self.tools.has(name)]

    def _service(self, policy: Policy, configuration: Configuration, held: str) -> Service:
        service = Service(policy, live_files(policy.paths), rotated_files(policy.paths), no_files=_no_files(policy.paths))
        if not policy.by_logrotate:
            return service
        place = os.path.join(self.given.config_dir, policy.file_name)
        service.installed = _text(place)
        if not any(glob.glob(os.path.dirname(path)) for path in policy.paths):
            # One inventory serves hosts with different parts: what has no folder here has nothing to rotate here.
            service.wanted = service.installed
            return service
        owner, group, service.unknown_owner = self._owner(policy, service.live)
        folders = sorted({os.path.dirname(path) for path in policy.paths if "*" not in os.path.dirname(path)})
        root = os.geteuid() == 0
        service.rendering = Rendering(
            root=root,
            su=_rotates_as(owner, group, folders) if root else "",
            create=policy.reopen != "watched" or not all(_may_create(owner, folder) for folder in folders),
            owner=owner,
            group=group,
            compressor=self._compressor(policy),
            hold_file=self.given.hold_file,
            held=held,
        )
        service.wanted = config_text(policy, service.rendering, self.given.server)
        service.ignored = why_ignored(place) if service.installed else ""
        service.superseded = [name for name in policy.replaces if os.path.isfile(os.path.join(self.given.config_dir, name))]
        service.blocked = self._in_the_way(policy, configuration) or self._misled(policy)
        return service

    def _misled(self, policy: Policy) -> str:
        """Return why a signal would not make the writer open its file anew.

        A worker of uvicorn under gunicorn is ended by SIGUSR1, and opens nothing: Kludex/uvicorn#1559, #896.
        """
        if policy.reopen != "signal" or "USR" not in policy.signal:
            return ""
        pid = _text(policy.pid_file).strip() if policy.pid_file else ""
        if policy.unit and self.tools.has("systemctl"):
            asked = ["systemctl", "show", "--property=MainPID", "--value", policy.unit]
            pid = self.tools.run(asked, ok=range(256), limit_seconds=20).out.strip()
        command = _text(f"/proc/{pid}/cmdline") if pid.isdigit() and pid != "0" else ""
        if "uvicorn" not in command:
            return ""
        return (
            f"process {pid} is uvicorn ({' '.join(command.split(chr(0)))[:80].strip()}), whose workers end at {policy.signal} and open nothing"
            " anew: let it log to standard output or with a handler that watches its file, and set reopen to watched"
        )

    def _try_out(self, picture: Picture, hanging: list[str]) -> None:
        """Note what is wrong with new configuration; what is in place already was tried out before."""
        new = [s for s in picture.services if s.policy.by_logrotate and s.wanted != s.installed and not s.blocked]
        if not new:
            return
        if hanging:
            for service in new:
                service.refused = [f"it waits for ever at {hanging[0]}, a FIFO: remove that"]
            return
        replaced = {name for s in new for name in s.policy.replaces}
        gone = replaced | {os.path.basename(path) for path in picture.gone}
        change = staging.Change(
            self.given.config, self.given.config_dir, {s.policy.file_name: s.wanted for s in new}, frozenset(gone)
        )
        told = staging.refused(change, self.tools)
        for service in new:
            service.refused = told.get(service.policy.file_name, [])

    def _owner(self, policy: Policy, live: list[LogFile]) -> tuple[str, str, str]:
        """Return user and group of the files, and what of them is not known on this host."""
        if policy.owner:
            told = [] if _known(pwd.getpwnam, policy.owner) else [f"user {policy.owner}"]
            told += [] if _known(grp.getgrnam, policy.group) else [f"group {policy.group}"]
            return policy.owner, policy.group, " and ".join(told)
        for path in [*(file.path for file in live), *(os.path.dirname(p) for p in policy.paths)]:
            with contextlib.suppress(OSError, KeyError):
                found = os.stat(path)
                return pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name, ""
        return "", "", ""

    def _compressor(self, policy: Policy) -> str:
        order = {"auto": ["zstd", "gzip"], "zstd": ["zstd"], "gzip": ["gzip"], "none": []}[policy.compress]
        return next((self.tools.path(name) for name in order if self.tools.has(name)), "")

    def _in_the_way(self, policy: Policy, configuration: Configuration) -> str:
        """Return which other configuration rotates files of this policy, or could: logrotate would skip one of both."""
        mine = os.path.join(self.given.config_dir, policy.file_name)
        if os.path.exists(configuration.main) and not configuration.reads(mine):
            ignored = next((f.ignored for f in configuration.files if f.path == configuration.main and f.ignored), "")
            if ignored:
                return f"logrotate ignores {configuration.main}: {ignored}"
            return f"logrotate never reads {mine}: add the line `include {self.given.config_dir}` to {configuration.main}"
        replaced = {os.path.join(self.given.config_dir, name) for each in self.given.policies for name in each.replaces}
        ours, names = configuration.ours(), {p.file_name for p in self.given.policies}
        for block in configuration.blocks:
            if block.file in replaced or block.file == mine:
                continue
            if block.file in ours and os.path.basename(block.file) in names:
                continue
            for pattern in block.patterns:
                if hit := next((path for path in policy.paths if overlap(pattern, path)), ""):
                    folder, name = os.path.split(block.file)
                    beside = os.path.realpath(folder) == os.path.realpath(self.given.config_dir)
                    remedy = f"add {name} to replaces, or take the path out" if beside else "take the path out of one of them"
                    return f"{hit} is rotated by {block.file}:{block.line} already ({pattern}): {remedy}"
        return ""

    def _gone(self) -> dict[str, str]:
        """Return configuration files of ours whose policy the inventory has no more, with their texts."""
        names = {policy.file_name for policy in self.given.policies if policy.by_logrotate}
        folder = self.given.config_dir
        found = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            text = _text(path := os.path.join(folder, name))
            if name not in names and is_ours(text):
                found[path] = text
        return found

    # --- logrotate itself ---------------------------------------------------------------------------------------

    def _read_state(self, picture: Picture) -> None:
        try:
            text = Path(self.given.state_file).read_text(encoding="utf-8", errors="replace")
            picture.rotated_at = parse_state(text)
            picture.filled = [path for path in picture.rotated_at if (file := look_at(path)) and file.size > 0]
            found = os.stat(self.given.state_file)
            picture.last_run = found.st_mtime
            if found.st_mode & 0o004:
                picture.state_fault = "it is readable by all, and logrotate then skips its lock: chmod 0640"
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            picture.state_fault = f"it cannot be read ({error}); logrotate stops or forgets what it rotated"

    def _read_schedule(self, picture: Picture) -> None:
        """Note how logrotate is started: timer, cron, run (by this runbook) or "" (not at all)."""
        if self.given.schedule == "run":
            picture.scheduler = "run"
            return
        if os.path.isdir("/run/systemd/system") and self.tools.has("systemctl"):
            asked = ["systemctl", "show", "--property=ActiveState,Result,NextElapseUSecRealtime", "logrotate.timer"]
            done = self.tools.run(asked, ok=range(256), limit_seconds=20)
            if "ActiveState=active" in done.out:
                picture.scheduler = "timer"
                return
        # Debian's cron job leaves it to systemd where that runs.
        elif os.access("/etc/cron.daily/logrotate", os.X_OK) and self.tools.has("cron"):
            picture.scheduler = "cron"

    def frequency(self) -> str:
        """Return how often logrotate is started."""
        if self.given.schedule == "run":
            return "hourly"
        with contextlib.suppress(ToolError, OSError):
            done = self.tools.run(["systemctl", "cat", "logrotate.timer"], ok=range(256), limit_seconds=20)
            calendars = [line for line in done.out.splitlines() if line.startswith("OnCalendar=")]
            if calendars and "hourly" in calendars[-1]:
                return "hourly"
        return "hourly" if os.access("/etc/cron.hourly/logrotate", os.X_OK) else "daily"

    def _judge_configuration(self, picture: Picture, configuration: Configuration) -> None:
        schedule, mine = self.frequency(), configuration.ours()
        for file in configuration.files:
            if file.hangs:
                picture.problems.append(Problem("hangs", file.path, 0, "it is a FIFO, and logrotate waits for ever for somebody to write to it"))
            if file.ignored:
                picture.problems.append(Problem("ignored", file.path, 0, f"logrotate ignores it: {file.ignored}"))
        for block in configuration.blocks:
            # What a policy of ours asks for is judged with the policy.
            picture.problems += [p for p in lint(block, schedule) if not (block.file in mine and p.kind in ("copytruncate", "hourly-never"))]
        picture.problems += overlaps(configuration.blocks)
        if self.tools.has("logrotate") and not picture.main_missing and not any(f.hangs for f in configuration.files):
            told = messages(self._debug(), [f.path for f in configuration.files])
            known = {(p.file, p.line) for p in picture.problems}
            picture.problems += [p for p in told if (p.file, p.line) not in known and not p.text.startswith("found error in file")]

    def _debug(self) -> str:
        state = self.given.state_dir / "memory" / "logrotate-debug"
        return debug_run(self.tools, self.tools.path("logrotate"), self.given.config, str(state))

    # --- files and who holds them ---------------------------------------------------------------------------------

    def _read_holders(self, picture: Picture) -> None:
        places = [*self.given.dirs, *(os.path.dirname(path) for service in picture.services for path in service.policy.paths)]
        # The kernel tells a file by the name that it has behind links, and in the namespace of its process.
        names = {f"{os.path.realpath(place)}/": f"{place.rstrip('/')}/" for place in places}
        known = {(f.device, f.inode) for s in picture.services for f in [*s.live, *s.rotated]}
        seen = look_for_holders(None)
        renamed = [replace(h, path=_as_given(h.path, names)) for h in seen.holders]
        found = [h for h in renamed if (h.device, h.inode) in known or h.path.startswith(tuple(names.values()))]
        picture.complete = seen.complete
        for service in picture.services:
            inodes = {(f.device, f.inode) for f in [*service.live, *service.rotated]}
            service.writers = [h for h in found if h.writes and (h.device, h.inode) in inodes]
        picture.strays = [h for h in found if h.writes and (h.deleted or is_rotated(h.path))]

    def look_at_holders(self, picture: Picture) -> Picture:
        """Read anew which files are open, and by whom."""
        for service in picture.services:
            service.live, service.rotated = live_files(service.policy.paths), rotated_files(service.policy.paths)
        self._read_holders(picture)
        return picture

    def _uncovered(self, configuration: Configuration) -> list[LogFile]:
        """Return log files that grow and that nobody rotates."""
        patterns = [p for b in configuration.blocks for p in b.patterns]
        policies = [p for policy in self.given.policies for p in policy.paths]
        found = []
        for folder in self.given.dirs:
            for file in walk(folder):
                if file.compressed or os.path.basename(file.path) in WTMP or covers(self.given.ignored_paths, file.path):
                    continue
                live = live_name(file.path) or file.path
                if not covers(policies, live) and not covers(patterns, live) and not covers(patterns, file.path):
                    found.append(file)
        return found

    # --- archive and space ----------------------------------------------------------------------------------------

    def _read_archive(self, picture: Picture) -> None:
        archive = self.given.archive
        if archive is None:
            return
        if isinstance(archive, FolderArchive):
            patterns = [path for policy in self.given.policies for path in policy.paths]
            picture.archive_fault, told = place_faults(archive.place, patterns)
            picture.limit_findings += told
            if picture.archive_fault:
                return
        try:
            picture.archived = archive.index()
        except (ArchiveError, ToolError, OSError, ValueError) as error:
            picture.archive_fault = str(error)

    def _filesystems(self, picture: Picture, write: bool) -> list[FileSystem]:
        places = [*self.given.filesystems, *(os.path.dirname(f.path) for s in picture.services for f in s.live)]
        found: dict[tuple[int, bool], FileSystem] = {}
        mounts: list[Mount] = []
        with contextlib.suppress(OSError):
            mounts = mounts_here()
        for place in places:
            with contextlib.suppress(OSError):
                each = free_space(place, mounts)
                found.setdefault((each.device, each.read_only), each)
        samples = self.memory.setdefault("samples", {})
        result = []
        for each in found.values():
            kept = keep_sample([tuple(s) for s in samples.get(each.mount, [])], self.now, each.used)
            if write:
                samples[each.mount] = kept
            deleted = {(h.device, h.inode): h.disk_bytes for h in picture.strays if h.deleted and h.device == each.device}
            told = forecast(kept, each.used + each.free)
            fields = {**each.__dict__, "deleted_open": sum(deleted.values()), "forecast": told, "samples": tuple(kept)}
            result.append(FileSystem(**fields))
        for service in picture.services:
            files = [(f.mtime, f.size) for f in [*service.rotated, *service.live]]
            archived = [(k.mtime, k.bytes) for k in picture.archived if k.policy == service.policy.name]
            service.history = history([*archived, *files], self.now)
            # How fast a service writes; whether that fills a disk is the file system's matter.
            service.forecast = forecast(service.history, 0) if service.history else None
        return result


def walk(folder: str, most: int = 20000) -> Iterable[LogFile]:
    """Yield the files below a folder that may be logs: on its file system, behind no link, not the journal's."""
    seen = 0
    try:
        device = os.stat(folder).st_dev
    except OSError:
        return
    for place, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if n not in NO_LOGS and _device(os.path.join(place, n)) == device]
        for name in names:
            seen += 1
            if seen > most:
                return
            if file := look_at(os.path.join(place, name)):
                yield file


def _device(path: str) -> int:
    try:
        return os.lstat(path).st_dev
    except OSError:
        return -1


def _rotates_as(owner: str, group: str, folders: list[str]) -> str:
    """Return as which user and group root rotates in folders that are not its own alone; logrotate skips them otherwise.

    The owner of the files where it may write there; else root, as Debian does for PostgreSQL's folder.
    """
    found = [found for folder in folders if (found := _stat(folder))]
    if not owner or all(f.st_uid == 0 and not f.st_mode & 0o022 for f in found):
        return ""
    try:
        uid, gid = pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        return ""
    writes = all(
        f.st_mode & (0o200 if f.st_uid == uid else 0o020 if f.st_gid == gid else 0o002) or uid == 0 for f in found
    )
    return f"{owner} {group}" if writes else "root root"


def _no_files(patterns: Iterable[str]) -> list[tuple[str, str]]:
    """Return what the globs match and logrotate does not rotate, with what it is: links to logs, FIFOs, folders that are named."""
    told = {}
    for pattern in patterns:
        for path in glob.glob(pattern):
            found = _stat(path)
            if found is None or (stat.S_ISREG(found.st_mode) and not os.path.islink(path)) or is_rotated(path):
                continue
            if stat.S_ISREG(found.st_mode) and not covers(patterns, os.path.realpath(path)):
                told[path] = f"a link to {os.path.realpath(path)}"
            elif stat.S_ISFIFO(found.st_mode):
                told[path] = "a FIFO"
            elif stat.S_ISDIR(found.st_mode) and path == pattern:
                told[path] = "a folder"
    return sorted(told.items())


def _as_given(path: str, names: Mapping[str, str]) -> str:
    """Return a path behind links by the name of its folder that the policies have; `names` are folders, behind links and as given."""
    folder, name = os.path.split(path)
    given = names.get(f"{folder}/")
    return f"{given}{name}" if given else path


def _stat(path: str) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(path)
    return None


def _may_create(owner: str, folder: str) -> bool:
    """Return whether the owner of the files makes new ones in the folder, as root and the folder's owner do."""
    with contextlib.suppress(OSError, KeyError):
        uid = pwd.getpwnam(owner).pw_uid
        return uid in (0, os.stat(folder).st_uid)
    return False


def _known(look: Callable[[str], Any], name: str) -> bool:
    try:
        look(name)
    except KeyError:
        return False
    return True


def _text(path: str) -> str:
    """Return what is in a file of configuration; "" where it is none, or not for this user to read."""
    try:
        return text_of(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP):
            return ""
        raise


def files_to_scan(picture: Picture) -> list[dict[str, str]]:
    """Return the files whose new lines are read: live ones and rotated ones that are not compressed.

    Names that are no UTF-8 cannot be handed on; the planner tells of them.
    """
    return [
        {"path": file.path, "policy": service.policy.name, "classification": service.policy.classification}
        for service in picture.services
        for file in [*service.live, *service.rotated]
        if not file.compressed and file.path.isprintable()
    ]
