"""logrotate's configuration as it reads it: each mistake it makes no fuss about is seen, with its line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.logs_logrotate import (
    Configuration,
    Problem,
    debug_run,
    lint,
    messages,
    overlaps,
    parse,
    parse_state,
    read_configuration,
)
from ansible.module_utils.runbook_tools import Tools


class Host:
    """A logrotate with a configuration and logs of its own."""

    def __init__(self, root: Path) -> None:
        self.logs, self.folder, self.main = root / "logs", root / "conf.d", root / "logrotate.conf"
        for folder in (root, self.logs, self.folder):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        self.state = root / "state"
        self.write(self.main, f"weekly\nrotate 4\ncreate\ninclude {self.folder}\n")

    def write(self, path: Path, text: str, mode: int = 0o644) -> Path:
        path.write_text(text.replace("LOGS", str(self.logs)))
        path.chmod(mode)
        return path

    def log(self, name: str, text: str = "line\n") -> Path:
        return self.write(self.logs / name, text)

    def configure(self, name: str, text: str, mode: int = 0o644) -> Path:
        return self.write(self.folder / name, text, mode)

    def read(self) -> Configuration:
        return read_configuration(str(self.main))

    def complaints(self) -> list[Problem]:
        out = debug_run(Tools(), "logrotate", str(self.main), str(self.state))
        return messages(out, [f.path for f in self.read().files])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["logrotate", *words, "-s", str(self.state), str(self.main)], capture_output=True, text=True, check=False)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    # logrotate looks at the parents of a log too.
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        parent.chmod(0o755)
    return Host(tmp_path / "host")


# --- what it says, and does not say -----------------------------------------------------------------------------


def test_a_file_that_it_ignores_with_exit_status_0(host: Host) -> None:
    host.log("a.log")
    path = host.configure("group", "LOGS/a.log {\n daily\n}\n", mode=0o664)
    assert host.run("-d").returncode == 0
    configuration = host.read()
    assert not configuration.blocks and "group or others" in next(f.ignored for f in configuration.files if f.path == str(path))
    assert any(p.file == str(path) for p in host.complaints())


def test_a_line_that_it_does_not_know(host: Host) -> None:
    host.log("a.log")
    path = host.configure("typo", "LOGS/a.log {\n daily\n maxsiz 100k\n}\n")
    assert host.run("-d").returncode == 0
    assert Problem("message", str(path), 3, "unknown option 'maxsiz' -- ignoring line") in host.complaints()


def test_a_healthy_configuration_is_no_problem(host: Host) -> None:
    host.log("a.log")
    host.configure("fine", "LOGS/a.log {\n daily\n maxsize 100k\n compress\n postrotate\n  true\n endscript\n}\n")
    assert host.complaints() == []
    assert [p for b in host.read().blocks for p in lint(b, "daily")] == [] and overlaps(host.read().blocks) == []


def test_two_that_rotate_one_file(host: Host) -> None:
    host.log("a.log")
    host.configure("first", "LOGS/*.log {\n daily\n}\n")
    second = host.configure("second", "\n\nLOGS/a.log {\n daily\n}\n")
    told = overlaps(host.read().blocks)
    assert [(p.kind, p.file, p.line) for p in told] == [("duplicate", str(second), 3)] and f"{host.folder}/first:1" in told[0].text
    assert any(p.file == str(second) for p in host.complaints())
    # And it is true: only the first rotates.
    host.run("-f")
    block = host.read().block_for(str(host.logs / "a.log"))
    assert block and block.file.endswith("first")


@pytest.mark.parametrize(
    ("body", "schedule", "kind", "line", "word"),
    [
        ("daily\n size 1k", "daily", "size-and-time", 3, "takes the place of daily"),
        ("size 1k\n daily", "daily", "size-and-time", 3, "takes the place of size 1k"),
        ("hourly", "daily", "hourly-never", 2, "started daily"),
        ("daily\n dateext\n maxsize 1k", "daily", "same-name", 3, "%s"),
        ("size 1k\n dateext", "daily", "same-name", 3, "%s"),
        ("daily\n compress\n compresscmd /nowhere/zstd", "daily", "no-compressor", 4, "/nowhere/zstd"),
        ("daily\n copytruncate", "daily", "copytruncate", 3, "are lost"),
        ("daily\n rotate 0", "daily", "rotate-0", 3, "a deletion"),
    ],
)
def test_what_it_never_mentions(host: Host, body: str, schedule: str, kind: str, line: int, word: str) -> None:
    host.log("a.log")
    path = host.configure("silent", f"LOGS/a.log {{\n {body}\n}}\n")
    assert host.run("-d").returncode == 0 and host.complaints() == [], "logrotate itself has nothing to say"
    told = [p for block in host.read().blocks for p in lint(block, schedule)]
    assert [(p.kind, p.file, p.line) for p in told] == [(kind, str(path), line)] and word in told[0].text


@pytest.mark.parametrize(
    "body",
    ["daily\n maxsize 1k", "hourly", "daily\n dateext\n dateformat -%Y%m%d-%s\n maxsize 1k", "daily\n dateext",
     "daily\n copytruncate\n nocopytruncate", "daily\n compress\n compresscmd /bin/sh", "weekly\n daily"],
)  # fmt: skip
def test_what_is_all_right(host: Host, body: str) -> None:
    host.configure("fine", f"LOGS/a.log {{\n {body}\n}}\n")
    assert [p for block in host.read().blocks for p in lint(block, "hourly")] == []


def test_places_where_it_cannot_rotate(host: Host) -> None:
    host.configure("bad", "/usr/local/app/x.log /var/lib/docker/containers/*/*.log {\n daily\n}\n")
    assert [p.kind for block in host.read().blocks for p in lint(block, "daily")] == ["protected-path", "container-log"]


# --- grammar ------------------------------------------------------------------------------------------------------


def test_blocks_are_read_as_logrotate_reads_them() -> None:
    text = """# a comment
compress
"/var/log/with space.log" /var/log/b.log
/var/log/c.log
{
    daily # with a comment
    postrotate
        if true; then kill -HUP $(cat /run/x.pid); fi  # } is no end here
    endscript
    rotate=7
}
/var/log/d.log { weekly
rotate 3 }
nocompress
/var/log/e.log {
}
include /etc/other.d
"""
    blocks, includes, after = parse(text, "x")
    assert [b.patterns for b in blocks] == [["/var/log/with space.log", "/var/log/b.log", "/var/log/c.log"], ["/var/log/d.log"], ["/var/log/e.log"]]
    assert [b.line for b in blocks] == [5, 12, 15]
    assert blocks[0].value("rotate") == "7" and blocks[0].value("frequency") == "daily" and "kill -HUP" in blocks[0].scripts["postrotate"]
    assert "compress" in blocks[0].settings and "compress" not in blocks[2].settings and blocks[1].value("rotate") == "3"
    assert includes == ["/etc/other.d"] and "nocompress" in after


def test_what_debian_ships_is_understood() -> None:
    for path in sorted(Path("/etc/logrotate.d").iterdir()):
        blocks, _, _ = parse(path.read_text(), str(path))
        assert blocks, path
        assert all(b.patterns and all(p.startswith("/") for p in b.patterns) for b in blocks), path


def test_settings_of_the_main_file_reach_the_blocks_and_are_no_clash(host: Host) -> None:
    host.configure("one", "LOGS/a.log {\n size 1k\n}\n")
    host.configure("two", "rotate 9\nLOGS/b.log {\n missingok\n}\n")
    host.configure("three", "LOGS/c.log {\n missingok\n}\n")
    one, three, two = host.read().blocks
    assert one.value("size") == "1k" and two.value("rotate") == "9" and three.value("rotate") == "4"
    assert three.value("frequency") == "weekly"


def test_files_that_are_left_out_are_left_out(host: Host) -> None:
    for name in ("a.disabled", "b~", ".hidden", "c.dpkg-old", "d.rhn-cfg-tmp-1", "good"):
        host.configure(name, f"LOGS/{name.strip('.~')}.log {{\n daily\n}}\n")
    assert [os.path.basename(f.path) for f in host.read().files] == ["logrotate.conf", ".hidden", "good"] == reading(host)


def reading(host: Host) -> list[str]:
    """Return the names of the files that logrotate itself says it reads."""
    said = host.run("-d").stderr
    return [os.path.basename(line.split("config file ")[1]) for line in said.splitlines() if line.startswith("reading config file")]


@pytest.mark.parametrize(
    "line",
    ["tabooext + .skip", "tabooext .skip,.other", "tabooext + .other .skip", "taboopat + *.skip", "taboopat good* .hidden", "rotate 3"],
)
def test_what_is_left_out_is_what_its_configuration_says(host: Host, line: str) -> None:
    for name in ("a.skip", "b~", ".hidden", "c.bak", "d.bkp", "e.other", "good"):
        host.configure(name, f"LOGS/{name.strip('.~')}.log {{\n daily\n missingok\n}}\n")
    host.write(host.main, f"{line}\ninclude {host.folder}\n")
    assert [os.path.basename(f.path) for f in host.read().files] == reading(host)


def test_an_include_is_no_glob(host: Host) -> None:
    host.configure("one", "LOGS/a.log {\n daily\n}\n")
    host.write(host.main, f"include {host.folder}/*\n")
    assert [os.path.basename(f.path) for f in host.read().files] == ["logrotate.conf"] == reading(host)
    assert not host.read().reads(str(host.folder / "one")), "which logrotate never will either"
    host.write(host.main, f"include {host.folder}/one\n")
    assert host.read().reads(str(host.folder / "one")) and not host.read().reads(str(host.folder / "two"))


def test_a_memory_of_which_nothing_was_written_yet_is_none(host: Host) -> None:
    host.log("a.log")
    host.configure("one", "LOGS/a.log {\n daily\n}\n")
    host.write(host.state, "", 0o640)
    assert parse_state("") == {}
    done = host.run("-f")
    assert (done.returncode, done.stderr) == (0, "")


# --- state ----------------------------------------------------------------------------------------------------------


def test_its_memory_is_read(host: Host) -> None:
    log = host.log("a.log")
    host.configure("one", "LOGS/a.log {\n daily\n}\n")
    assert host.run("-f").returncode == 0
    seen = parse_state(host.state.read_text())
    assert set(seen) == {str(log)} and abs(seen[str(log)] - host.state.stat().st_mtime) < 60


@pytest.mark.parametrize("text", ["\n", "\x00\x00", "logrotate state -- version 2\nrubbish", 'logrotate state -- version 2\n"/var/log/a'])
def test_a_damaged_memory_is_seen(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse_state(text)
