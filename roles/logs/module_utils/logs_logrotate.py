# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""logrotate 3.21 and its configuration: read as it reads it, and judged by what it says instead of its exit status.

logrotate ends with 0 though it ignored a file or a line; some mistakes it does not mention at all. See logrotate(8).
"""

from __future__ import annotations

import calendar
import glob
import os
import re
import shlex
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ansible.module_utils.logs_policy import READ_ONLY_IN_SERVICE, covers, is_ours, matches
from ansible.module_utils.runbook_tools import ToolError, Tools

# A name that begins with a dot is left out by none of them, as their stars match no dot there.
TABOO = ("*,v", "*.bak", "*.cfsaved", "*.disabled", "*.dpkg-bak", "*.dpkg-del", "*.dpkg-dist", "*.dpkg-new", "*.dpkg-old", "*.dpkg-tmp",
         "*.rhn-cfg-tmp-*", "*.rpmnew", "*.rpmorig", "*.rpmsave", "*.swp", "*.ucf-dist", "*.ucf-new", "*.ucf-old", "*~")  # fmt: skip
FREQUENCIES = ("hourly", "daily", "weekly", "monthly", "yearly")
SCRIPTS = ("postrotate", "prerotate", "firstaction", "lastaction", "preremove")
Settings = dict[str, tuple[str, int]]  # by directive: its words, and its line (0: inherited)
LOCKED = 3
PATIENCE_SECONDS = 60
ROTATION_SECONDS = 3600
# What every run in debug mode says.
_NOISE = re.compile(r"warning: logrotate in debug mode does nothing")
_MESSAGE = re.compile(r"^(error|warning|note): (.*)$")
_PLACE = re.compile(r"^([^\s:]+):(\d+):? (.*)$")
_ABOUT_FILE = (
    re.compile(r"Ignoring (?P<name>\S+) because (?P<text>.*)"),
    re.compile(r"Potentially dangerous mode on (?P<name>\S+): (?P<text>.*)"),
    re.compile(r"found error in file (?P<name>\S+), (?P<text>.*)"),
)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a configuration: `file` is its whole path, `line` is 0 where the file as a whole is meant."""

    kind: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}" if place else self.text


@dataclass
class Block:
    """Some files and how they are rotated. `settings` are the last word of each directive, with its line."""

    file: str
    line: int
    patterns: list[str]
    settings: Settings = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    clashes: list[tuple[int, str]] = field(default_factory=list)

    def value(self, name: str) -> str | None:
        found = self.settings.get(name)
        return found[0] if found else None

    def line_of(self, name: str) -> int:
        """Return the line of a directive; that of the block where it comes from outside of it."""
        return (self.settings[name][1] if name in self.settings else 0) or self.line


def parse(text: str, file: str, inherited: Settings | None = None) -> tuple[list[Block], list[str], dict]:
    """Return the blocks of a configuration, what it includes, and the settings it leaves to what comes after it."""
    blocks: list[Block] = []
    includes: list[str] = []
    outer = dict(inherited or {})
    patterns: list[str] = []
    block: Block | None = None
    lines = iter(enumerate(text.splitlines(), 1))
    for number, raw in lines:
        line = raw.split("#", 1)[0].strip() if raw.lstrip().startswith("#") or " #" in raw else raw.strip()
        while line:
            if block is None:
                line, patterns, block = _outside(line, number, file, patterns, outer, includes)
                if block is not None:
                    blocks.append(block)
            elif line.startswith("}"):
                block, line = None, line[1:].strip()
            else:
                word = line.split()[0].rstrip("{}")
                if word in SCRIPTS:
                    block.scripts[word] = "\n".join(_script(lines))
                    line = ""
                else:
                    directive, _, line = line.partition("}")
                    _note(block, directive, number)
                    if _:
                        block = None
                    line = line.strip()
    return blocks, includes, outer


def _outside(
    line: str, number: int, file: str, patterns: list[str], outer: Settings, includes: list[str]
) -> tuple[str, list[str], Block | None]:
    """Read one line outside of a block: a directive for all that follow, names of files, or the begin of a block."""
    head, brace, rest = line.partition("{")
    if head.strip().startswith(("/", '"', "'")) or (brace and patterns and not head.strip()):
        patterns = [*patterns, *_words(head)]
    elif head.strip():
        words = head.split(None, 1)
        if words[0] == "include":
            includes.append(words[1].strip() if len(words) > 1 else "")
        else:
            note(outer, head, number, [])
    if not brace:
        return "", patterns, None
    # Line 0: what comes from outside of the block may be overruled in it.
    block = Block(file, number, patterns, {name: (value, 0) for name, (value, _) in outer.items()})
    return rest.strip(), [], block


def _script(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, raw in lines:
        if raw.strip() == "endscript":
            return
        yield raw.strip()


def _note(block: Block, directive: str, number: int) -> None:
    note(block.settings, directive, number, block.clashes)


def note(settings: Settings, directive: str, number: int, clashes: list[tuple[int, str]]) -> None:
    """Write a directive down. A time and a size exclude each other: the last one wins, which is noted as a clash."""
    words = re.split(r"[\s=]+", directive.strip(), maxsplit=1)
    if not words[0]:
        return
    name, value = words[0], words[1].strip() if len(words) > 1 else ""
    if name in FREQUENCIES:
        if "size" in settings and settings["size"][1]:
            clashes.append((number, f"{name} takes the place of size {settings['size'][0]} in line {settings['size'][1]}"))
        settings.pop("size", None)
        settings["frequency"] = (name, number)
    elif name == "size":
        was, line = settings.get("frequency", ("", 0))
        if line:
            clashes.append((number, f"size {value} takes the place of {was} in line {line}"))
        settings.pop("frequency", None)
        settings["size"] = (value, number)
    elif name in ("tabooext", "taboopat"):
        settings["taboo"] = (" ".join(_taboo(settings, name, value)), number)
    elif name.startswith("no") and name[2:] in ("compress", "copytruncate", "dateext", "create", "sharedscripts", "delaycompress"):
        settings.pop(name[2:], None)
        settings[name] = (value, number)
    else:
        settings.pop(f"no{name}", None)
        settings[name] = (value, number)


def _taboo(settings: Settings, name: str, value: str) -> list[str]:
    """Return the globs of names that are left out from now on; with a + they are added to those of before."""
    words = [word for word in re.split(r"[\s,]+", value) if word]
    before = settings["taboo"][0].split() if "taboo" in settings else list(TABOO)
    kept, words = (before, words[1:]) if words[:1] == ["+"] else ([], words)
    return [*kept, *(f"*{word}" if name == "tabooext" else word for word in words)]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


@dataclass(frozen=True)
class ConfigFile:
    """A file that logrotate reads: its text, and whether logrotate ignores it for its mode or owner, or `hangs` at it."""

    path: str
    text: str
    ignored: str = ""
    hangs: bool = False


@dataclass
class Configuration:
    """All that one `logrotate CONF` reads."""

    main: str
    files: list[ConfigFile] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    includes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def reads(self, path: str) -> bool:
        """Return whether logrotate reads `path`, or will as soon as it is there."""
        folder, name = os.path.split(path)
        return any(
            os.path.realpath(include) in (os.path.realpath(path), os.path.realpath(folder))
            and (os.path.realpath(include) != os.path.realpath(folder) or not _is_taboo(name, taboo))
            for include, taboo in self.includes
        )

    def ours(self) -> set[str]:
        """Return the files that this runbook has written."""
        return {file.path for file in self.files if is_ours(file.text)}

    def block_for(self, path: str) -> Block | None:
        """Return the first block that rotates `path`; the others do not."""
        return next((b for b in self.blocks if covers(b.patterns, path)), None)


def read_configuration(main: str, folder: str = "") -> Configuration:
    """Return what logrotate reads, in its order. Files that it ignores have no blocks.

    Where there is no main file yet, the parts in `folder` are what it is going to read.
    """
    found = Configuration(main)
    for path in [main] if os.path.exists(main) or not folder else included(folder):
        _read_into(found, path, {}, [])
    return found


def _read_into(found: Configuration, path: str, settings: Settings, seen: list[str]) -> dict:
    if is_fifo(path):
        found.files.append(ConfigFile(path, "", hangs=True))
        return settings
    try:
        text = text_of(path)
        ignored = why_ignored(path)
    except OSError as error:
        if os.path.exists(path):
            found.files.append(ConfigFile(path, "", f"it cannot be read ({error.strerror})"))
        return settings
    found.files.append(ConfigFile(path, text, ignored))
    if ignored or path in seen:
        return settings
    blocks, includes, after = parse(text, path, settings)
    found.blocks += blocks
    taboo = tuple(after["taboo"][0].split()) if "taboo" in after else TABOO
    for include in includes:
        found.includes.append((include, taboo))
        for each in included(include, taboo):
            # What a file in a folder sets outside of its blocks ends with it.
            _read_into(found, each, {k: (v, 0) for k, (v, _) in after.items()}, [*seen, path])
    return after


def included(path: str, taboo: Iterable[str] = TABOO) -> list[str]:
    """Return the files that `include PATH` reads, in their order. PATH is no glob; `taboo` are those of names to leave out.

    FIFOs are among them: logrotate opens them, and waits for ever.
    """
    if not os.path.isdir(path):
        return [path] if os.path.isfile(path) or is_fifo(path) else []
    patterns = tuple(taboo)
    places = [os.path.join(path, name) for name in sorted(os.listdir(path)) if not _is_taboo(name, patterns)]
    return [each for each in places if os.path.isfile(each) or is_fifo(each)]


def _is_taboo(name: str, taboo: Iterable[str]) -> bool:
    return any(matches(pattern, name) for pattern in taboo)


def is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def text_of(path: str) -> str:
    """Return the text of a file of configuration, "" where it is no regular file. Raise OSError where it cannot be read."""
    # Without waiting: nobody may ever write to a FIFO.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return ""
    with open(handle, encoding="utf-8", errors="replace") as file:
        return file.read()


def why_ignored(path: str) -> str:
    """Return why logrotate reads nothing of a file, with exit status 0; "" where it does."""
    found = os.stat(path)
    if found.st_mode & 0o022:
        return f"it is writable by group or others (mode {found.st_mode & 0o7777:04o})"
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid} and not to root"
    return ""


def lint(block: Block, schedule: str) -> list[Problem]:
    """Return what logrotate never says about a block. `schedule` is how often logrotate is started: hourly or daily."""
    told = [Problem("size-and-time", block.file, line, f"{text}: maxsize beside a time means whichever comes first")
            for line, text in block.clashes]  # fmt: skip
    frequency, dateext = block.value("frequency"), "dateext" in block.settings
    formatted = block.value("dateformat") or ""
    often = frequency == "hourly" or "maxsize" in block.settings or "size" in block.settings
    if frequency == "hourly" and schedule != "hourly":
        text = f"hourly, and logrotate is started {schedule}"
        told.append(Problem("hourly-never", block.file, block.line_of("frequency"), text))
    if dateext and often and frequency != "hourly" and not re.search(r"%[sHM]", formatted):
        text = "dateext names a second rotation on one day like the first, which fails then: dateformat -%Y%m%d-%s"
        told.append(Problem("same-name", block.file, block.line_of("dateext"), text))
    if "compress" in block.settings and (program := block.value("compresscmd")) and not os.access(program, os.X_OK):
        text = f"{program} is not there: rotated files stay as large as they are"
        told.append(Problem("no-compressor", block.file, block.line_of("compresscmd"), text))
    if "copytruncate" in block.settings:
        text = "lines that are written between copy and truncation are lost"
        told.append(Problem("copytruncate", block.file, block.line_of("copytruncate"), text))
    if block.value("rotate") == "0":
        told.append(Problem("rotate-0", block.file, block.line_of("rotate"), "rotate 0: a rotation is a deletion"))
    for pattern in block.patterns:
        if pattern.startswith(tuple(f"{top}/" for top in READ_ONLY_IN_SERVICE)):
            text = f"{pattern}: logrotate.service cannot write there, and marks it as rotated"
            told.append(Problem("protected-path", block.file, block.line, text))
        if re.match(r"/var/lib/docker/containers/", pattern):
            text = f"{pattern}: docker rotates its logs itself; `docker logs -f` breaks when others do"
            told.append(Problem("container-log", block.file, block.line, text))
    return told


def overlaps(blocks: Sequence[Block], expand: bool = True) -> list[Problem]:
    """Return the files that more than one block rotates: logrotate takes the first and skips the whole file of the other."""
    told, first = [], {}
    for block in blocks:
        for path in dict.fromkeys(p for pattern in block.patterns for p in (glob.glob(pattern) if expand else [pattern])):
            other = first.setdefault(path, block)
            if other is not block:
                text = f"{path} is rotated by {other.file}:{other.line} as well; this file is skipped as a whole"
                told.append(Problem("duplicate", block.file, block.line, text))
    return told


def messages(output: str, files: Iterable[str]) -> list[Problem]:
    """Return what logrotate complained about, told by its messages. `files` are the paths of those it read."""
    by_name = {os.path.basename(path): path for path in files}
    told = []
    for line in output.splitlines():
        found = _MESSAGE.match(line.strip())
        if not found or _NOISE.match(line) or found[1] == "note":
            continue
        told.append(_problem(found[2], by_name))
    return list(dict.fromkeys(told))


def _problem(text: str, by_name: dict[str, str]) -> Problem:
    if place := _PLACE.match(text):
        return Problem("message", by_name.get(place[1], place[1]), int(place[2]), place[3])
    for shape in _ABOUT_FILE:
        if found := shape.search(text):
            return Problem("message", by_name.get(found["name"], found["name"]), 0, text)
    return Problem("message", "", 0, text)


def debug_run(tools: Tools, program: str, config: str, state: str) -> str:
    """Return what a rotation would say; nothing is changed. `state` should be a file of ours, as its lock is taken."""
    done = tools.run([program, "--debug", "--state", state, config], ok=range(256), limit_seconds=120)
    return done.out + "\n" + done.err


def rotate(tools: Tools, config: str, state: str, force: bool) -> None:
    """Carry a configuration out. Raise ToolError for whatever logrotate complains about, whatever its exit status is."""
    argv = ["logrotate", *(["--force"] if force else []), "--state", state, config]
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = tools.run(argv, ok=range(256), limit_seconds=ROTATION_SECONDS)
        # Names have whole seconds: what was rotated within this one is in the way until the next.
        waits = done.rc == LOCKED or " already exists, skipping rotation" in done.err
        if not waits or time.monotonic() > until:
            break
        time.sleep(0.3)
    if told := [str(problem) for problem in messages(done.out + "\n" + done.err, [config])]:
        raise ToolError("; ".join(told), done.rc)
    if done.rc:
        reason = f"another logrotate holds {state} for more than {PATIENCE_SECONDS} s" if done.rc == LOCKED else "it said nothing"
        raise ToolError(f"logrotate ended with {done.rc}: {reason}", done.rc)


# --- state ------------------------------------------------------------------------------------------------------


def parse_state(text: str) -> dict[str, float]:
    """Return when each log was rotated (or first seen), as logrotate remembers it in local time. Raise ValueError if it is none."""
    lines = text.splitlines()
    if not text:
        return {}  # as logrotate leaves it where it was ended during its first rotation
    if not lines or not lines[0].startswith("logrotate state -- version"):
        raise ValueError(f"the first line is {(lines or [''])[0][:60]!r}")
    seen = {}
    for number, line in enumerate(lines[1:], 2):
        found = re.fullmatch(r'"((?:[^"\\]|\\.)*)" (\d+)-(\d+)-(\d+)(?:-(\d+):(\d+):(\d+))?', line.strip())
        if not found:
            if line.strip():
                raise ValueError(f"line {number} is {line[:60]!r}")
            continue
        path = re.sub(r"\\(.)", r"\1", found[1])
        numbers = [int(n or 0) for n in found.groups()[1:]]
        try:
            seen[path] = time.mktime((*numbers, 0, 0, -1))
        except (OverflowError, ValueError):
            seen[path] = float(calendar.timegm((1970, 1, 1, 0, 0, 0)))
    return seen
