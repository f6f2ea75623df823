# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Policies of log files: what the inventory says about them, and the logrotate configuration that follows from it.

Pure: nothing here looks at a host.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREFIX = "llm-cost-tracker-"
MARK = "# Managed by the runbook log-management: what is changed here by hand is overwritten."
REPLACES = "# Replaces: "
# logrotate ignores files with this suffix, and dpkg leaves a configuration file alone that was renamed.
DISABLED = ".disabled"

ROTATORS = ("logrotate", "application")
FREQUENCIES = ("hourly", "daily", "weekly", "monthly")
REOPENS = ("nginx", "postgresql", "watched", "signal", "command", "copytruncate")
COMPRESSORS = ("auto", "zstd", "gzip", "none")
CLASSES = ("public", "internal", "confidential")
# What systemd hides from logrotate.service: it fails there, and the state file says "rotated" all the same (logrotate#422).
READ_ONLY_IN_SERVICE = ("/usr", "/boot", "/efi", "/etc")
SECONDS = {"hourly": 3600, "daily": 86400, "weekly": 7 * 86400, "monthly": 31 * 86400}

POLICY_ARGUMENT: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "default": [],
    "options": {
        "name": {"type": "str", "required": True},
        "paths": {"type": "list", "elements": "str", "required": True},
        "rotated_by": {"type": "str", "choices": list(ROTATORS), "default": "logrotate"},
        "frequency": {"type": "str", "choices": list(FREQUENCIES), "default": "daily"},
        "max_size": {"type": "str"},
        "keep": {"type": "int", "default": 14},
        "keep_days": {"type": "int"},
        "max_days": {"type": "int"},
        "reopen": {"type": "str", "choices": list(REOPENS), "default": "watched"},
        "signal": {"type": "str"},
        "pid_file": {"type": "path"},
        "unit": {"type": "str"},
        "command": {"type": "str"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str", "default": "0640"},
        "compress": {"type": "str", "choices": list(COMPRESSORS), "default": "auto"},
        "archive": {"type": "bool", "default": False},
        "classification": {"type": "str", "choices": list(CLASSES), "default": "internal"},
        "replaces": {"type": "list", "elements": "str", "default": []},
        "options": {"type": "list", "elements": "str", "default": []},
    },
}


@dataclass(frozen=True)
class Policy:
    """One policy; its fields are the keys of logs_policies, sizes in bytes. `keep_days` is the least, `max_days` the most."""

    name: str
    paths: tuple[str, ...]
    rotated_by: str = "logrotate"
    frequency: str = "daily"
    max_size_bytes: int | None = None
    keep: int = 14
    keep_days: int | None = None
    max_days: int | None = None
    reopen: str = "watched"
    signal: str = ""
    pid_file: str = ""
    unit: str = ""
    command: str = ""
    owner: str = ""
    group: str = ""
    mode: str = "0640"
    compress: str = "auto"
    archive: bool = False
    classification: str = "internal"
    replaces: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return PREFIX + self.name

    @property
    def by_logrotate(self) -> bool:
        return self.rotated_by == "logrotate"

    @property
    def interval_seconds(self) -> int:
        return SECONDS[self.frequency]

    def reopen_argv(self, server: Server | None = None) -> list[str] | None:
        """Return the command that makes the writer open its file anew, or None where there is none."""
        script = reopen_script(self, server or Server())
        return ["sh", "-c", "\n".join(script)] if script else None


@dataclass(frozen=True)
class Server:
    """How logrotate's script asks PostgreSQL for another log file. Without a password: peer, trust or a password file.

    `os_user` is who root becomes for that; empty where whoever rotates asks as itself.
    """

    host: str = ""
    port: int | None = None
    user: str = "postgres"
    os_user: str = "postgres"
    psql: str = "psql"


def size_of(text: str) -> int:
    """Return the bytes of a size such as 500, 100k, 100M or 2G, as logrotate writes them. Raise ValueError for another."""
    found = re.fullmatch(r"(\d+)([kKMG]?)", str(text).strip())
    if not found or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no size: give a number of bytes, or one with k, M or G, such as 100M")
    return int(found[1]) * {"": 1, "k": 1024, "K": 1024, "M": 1024**2, "G": 1024**3}[found[2]]


def policies_from(given: Sequence[Mapping[str, Any]]) -> list[Policy]:
    """Return the policies. Raise ValueError with all that is wrong with them, before anything was looked at."""
    policies, told = [], []
    for number, each in enumerate(given, 1):
        fields = {k: v for k, v in each.items() if v is not None}
        try:
            limit = fields.pop("max_size", None)
            fields["max_size_bytes"] = size_of(limit) if limit is not None else None
        except ValueError as error:
            told.append(f"policy {each.get('name', number)}: max_size {error}")
            continue
        lists = {k: tuple(v) for k, v in fields.items() if isinstance(v, (list, tuple))}
        policy = Policy(**{**fields, **lists})
        told += [f"policy {policy.name or number}: {fault}" for fault in faults(policy)]
        policies.append(policy)
    told += _shared_files(policies)
    names = [p.name for p in policies]
    told += [f"policy {name} is there twice: give each its own name" for name in sorted({n for n in names if names.count(n) > 1})]
    if told:
        raise ValueError("; ".join(told))
    return policies


def _shared_files(policies: Sequence[Policy]) -> list[str]:
    """Return which policies may be meant for one file: logrotate takes the first of them and skips all of the other."""
    return [
        f"the policies {one.name} ({path}) and {other.name} ({hit}) may match one file: give each file to one of them"
        for number, one in enumerate(policies)
        for other in policies[number + 1 :]
        if one.name != other.name
        for path in one.paths
        if (hit := next((p for p in other.paths if overlap(path, p)), ""))
    ]


def faults(policy: Policy) -> list[str]:
    """Return what is wrong with one policy, each with what to do."""
    return [
        *_faults_of_paths(policy),
        *_faults_of_reopening(policy),
        *_faults_of_retention(policy),
        *(f"option {line!r} is not one line of logrotate's" for line in policy.options if "\n" in line or re.search(r"[{}]", line)),
    ]


def _faults_of_paths(policy: Policy) -> list[str]:
    told = []
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", policy.name):
        told.append(f"name {policy.name!r} must be lower case letters, digits and hyphens: it names a file in /etc/logrotate.d")
    if not policy.paths:
        told.append("paths is empty; name at least one file")
    for path in policy.paths:
        clean = "/" + os.path.normpath(path).lstrip("/")
        if not path.startswith("/") or clean != path or re.search(r"[\s\"'{}#\\]", path):
            told.append(f"path {path!r} must be absolute, without .., spaces, quotes, braces or backslashes")
        elif policy.by_logrotate and path.startswith(tuple(f"{top}/" for top in READ_ONLY_IN_SERVICE)):
            told.append(f"path {path} is below a folder that logrotate.service cannot write (ProtectSystem=full): log elsewhere")
        elif re.search(r"[*?\[]", os.path.dirname(path)) and path.split("/")[1][:1] in "*?[":
            told.append(f"path {path} could match any file of the system; begin with two fixed folders")
        elif path.endswith("*") and policy.by_logrotate:
            told.append(f"path {path} matches rotated files as well, which would be rotated again: end it with what live files end with")
    if not re.fullmatch(r"0?[0-7]{3}", policy.mode):
        told.append(f"mode {policy.mode!r} must be octal in quotes, such as '0640'")
    elif int(policy.mode, 8) & 0o022:
        told.append(f"mode {policy.mode} lets others than the owner write; take 0640 or less")
    if bool(policy.owner) != bool(policy.group):
        told.append("owner and group belong together; give both, or neither to keep those of the live file")
    if any("/" in name or not name for name in policy.replaces):
        told.append("replaces names files in the folder of logrotate's configuration, without a path")
    return told


def _faults_of_reopening(policy: Policy) -> list[str]:
    told = []
    if policy.reopen == "signal" and not (policy.signal and bool(policy.pid_file) != bool(policy.unit)):
        told.append("reopen=signal needs signal and either pid_file or unit")
    if policy.signal and not re.fullmatch(r"(SIG)?(HUP|USR1|USR2|INT|WINCH)", policy.signal):
        told.append(f"signal {policy.signal!r} is none by which programs open their logs anew: HUP, USR1 or USR2")
    if policy.reopen == "command" and not policy.command.strip():
        told.append("reopen=command needs command")
    if re.search(r"^\s*endscript\s*$", policy.command, re.M):
        told.append("command has a line endscript, which would end logrotate's script early")
    if policy.unit and not re.fullmatch(r"[A-Za-z0-9@_.:-]+", policy.unit):
        told.append(f"unit {policy.unit!r} is no name of a unit")
    if policy.reopen == "copytruncate" and policy.archive:
        told.append("copytruncate loses lines, so that an archive of it is never whole: let the writer reopen, or set archive to false")
    return told


def _faults_of_retention(policy: Policy) -> list[str]:
    told = []
    if policy.keep < 1:
        told.append(f"keep is {policy.keep}; at least one rotated file must be kept, or a rotation is a deletion")
    for name in ("keep_days", "max_days"):
        value = getattr(policy, name)
        if value is not None and value < 1:
            told.append(f"{name} is {value}; it must be at least 1, or left out")
    if policy.keep_days and policy.max_days and policy.keep_days > policy.max_days:
        told.append(f"keep_days {policy.keep_days} is more than max_days {policy.max_days}")
    reach = policy.keep * policy.interval_seconds / 86400
    if policy.by_logrotate and policy.keep_days and not policy.archive and reach < policy.keep_days:
        told.append(
            f"keep {policy.keep} rotated {policy.frequency} reaches {reach:.0f} days back, and keep_days is {policy.keep_days}:"
            " raise keep, or archive"
        )
    return told


@dataclass(frozen=True)
class Rendering:
    """What the host adds to a policy: whether root rotates, and as whom (`su`, empty: as root, in folders of its own), with
    which compressor, under a hold or not.

    `create` is false where the writer makes its file itself as soon as it is gone: logrotate would take that one for a
    leftover, and move it away with the lines in it.
    """

    root: bool = True
    su: str = ""
    create: bool = True
    owner: str = ""
    group: str = ""
    compressor: str = ""
    hold_file: str = ""
    held: str = ""


def config_text(policy: Policy, rendering: Rendering, server: Server) -> str:
    """Return the logrotate configuration of a policy.

    What is archived before it goes, and all of it while there is a hold, is not deleted by logrotate: `rotate -1`.
    """
    kept = policy.archive or rendering.held
    lines = [
        *([f"su {rendering.su}"] if rendering.su else []),
        policy.frequency,
        *([f"maxsize {policy.max_size_bytes}"] if policy.max_size_bytes else []),
        f"rotate {-1 if kept else policy.keep}",
        *([f"maxage {policy.max_days}"] if policy.max_days and not kept else []),
        "missingok",
        "notifempty",
        # Names that stay: an archive, a shipper and a second rotation on the same day depend on it.
        "dateext",
        "dateformat -%Y%m%d-%s",
        *_creation(policy, rendering),
        *_compression(rendering),
        *policy.options,
    ]
    scripts = _scripts(policy, rendering, server)
    head = [MARK, *(f"{REPLACES}{name}" for name in policy.replaces)]
    body = [f"    {line}" for line in lines]
    # On one line, as logrotate counts lines between names and brace as none, and its messages would name others.
    return "\n".join([*head, " ".join(policy.paths) + " {", *body, *scripts, "}", ""])


def _creation(policy: Policy, rendering: Rendering) -> list[str]:
    if policy.reopen == "copytruncate":
        return ["copytruncate"]
    if not rendering.create:
        return ["nocreate"]
    if rendering.root and rendering.owner:
        return [f"create {policy.mode} {rendering.owner} {rendering.group}"]
    return [f"create {policy.mode}"]


def _compression(rendering: Rendering) -> list[str]:
    """A day later, as writers may hold the old file for a while."""
    if not rendering.compressor:
        return ["nocompress"]
    if rendering.compressor.endswith("zstd"):
        program = rendering.compressor
        more = [f"compresscmd {program}", f"uncompresscmd {os.path.join(os.path.dirname(program), 'unzstd')}",
                "compressext .zst", "compressoptions -q -T1 -6"]  # fmt: skip
    else:
        more = [f"compresscmd {rendering.compressor}", "compressext .gz", "compressoptions -6"]
    return ["compress", "delaycompress", *more]


def _scripts(policy: Policy, rendering: Rendering, server: Server) -> list[str]:
    told: list[str] = []
    if rendering.hold_file and not (policy.archive or rendering.held):
        # A hold that was put up since the last run: nothing is rotated out until that run has been told.
        told += ["    firstaction", f"        test ! -e {shlex.quote(rendering.hold_file)}", "    endscript"]
    if script := reopen_script(policy, server):
        told += ["    sharedscripts", "    postrotate", *(f"        {line}" for line in script), "    endscript"]
    return told


def reopen_script(policy: Policy, server: Server) -> list[str]:
    """Return the lines of shell by which the writer opens its file anew; none where it does so by itself."""
    if policy.reopen == "nginx":
        return _to_pid_file("USR1", policy.pid_file or "/run/nginx.pid")
    if policy.reopen == "signal":
        if policy.unit:
            # Signals to a unit that does not run are no fault.
            unit = shlex.quote(policy.unit)
            return [f"systemctl is-active --quiet {unit} || exit 0", f"systemctl kill --signal={policy.signal} --kill-whom=main {unit}"]
        return _to_pid_file(policy.signal, policy.pid_file)
    if policy.reopen == "postgresql":
        ask = [server.psql, "-XAtqw", "-d", "postgres", "-U", server.user]
        ask += (["-h", server.host] if server.host else []) + (["-p", str(server.port)] if server.port else [])
        ask += ["-c", "SELECT pg_rotate_logfile()"]
        line = " ".join(shlex.quote(word) for word in ask)
        if server.os_user:
            line = f"runuser -u {shlex.quote(server.os_user)} -- {line}"
        return [f"{line} >/dev/null"]
    return policy.command.splitlines() if policy.reopen == "command" else []


def _to_pid_file(signal: str, path: str) -> list[str]:
    quoted = shlex.quote(path)
    return [f'[ ! -s {quoted} ] || kill -{signal.replace("SIG", "")} "$(cat {quoted})"']


def replaced_by(text: str) -> list[str]:
    """Return the files that a configuration of ours has taken the place of."""
    return [line[len(REPLACES):].strip() for line in text.splitlines() if line.startswith(REPLACES)]  # fmt: skip


def is_ours(text: str) -> bool:
    return text.startswith(MARK)


def covers(patterns: Iterable[str], path: str) -> bool:
    """Return whether one of the globs matches the path, folder by folder as logrotate and the shell do."""
    parts = path.split("/")
    return any(len(p := pattern.split("/")) == len(parts) and all(map(matches, p, parts)) for pattern in patterns)


def matches(pattern: str, name: str) -> bool:
    """Return whether a glob matches a name; one that begins with a dot only where the glob does so too."""
    return fnmatch.fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))


def overlap(first: str, second: str) -> bool:
    """Return whether two globs may match one file: known by example, not by the files that happen to be there."""
    one, other = first.split("/"), second.split("/")
    return len(one) == len(other) and all(_overlap(a, b) for a, b in zip(one, other))


def _overlap(first: str, second: str) -> bool:
    """Whether two globs of one name have a word in common."""
    one, other = (_tokens(p) for p in (first, second))
    reached = {(0, 0)}
    todo = [(0, 0)]
    while todo:
        i, j = todo.pop()
        if i == len(one) and j == len(other):
            return True
        steps = []
        a, b = "".join(one[i : i + 1]), "".join(other[j : j + 1])
        if a == "*":
            steps += [(i + 1, j)] + ([(i, j + 1)] if b else [])
        if b == "*":
            steps += [(i, j + 1)] + ([(i + 1, j)] if a else [])
        if a and b and "*" not in (a, b) and _common_character(a, b):
            steps.append((i + 1, j + 1))
        for step in steps:
            if step not in reached:
                reached.add(step)
                todo.append(step)
    return False


def _tokens(glob_: str) -> list[str]:
    """Return a glob as what stands for one character each (a bracket, a question mark, the character itself) and stars."""
    return re.findall(r"\[[!^]?\][^\]]*\]|\[[^\]]+\]|.", glob_, re.S)


def _common_character(first: str, second: str) -> bool:
    if len(first) == len(second) == 1:
        return first == second or "?" in (first, second)
    # Whoever excludes characters leaves thousands of others: two such brackets have one in common.
    named = {c for token in (first, second) for c in (map(chr, range(33, 127)) if len(token) > 1 else token)}
    return any(all(fnmatch.fnmatchcase(c, token) for token in (first, second)) for c in named | {"\u20ac"})
