"""Redis, SQLite, files and keys: captured from the real programs, and proven from what was captured."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import backups_components
from ansible.module_utils.backups_components import (
    Captured,
    capture_files,
    capture_redis,
    capture_sqlite,
    compare_keys,
    end_leftovers,
    excluded,
    prove_files,
    prove_keys,
    prove_redis,
    prove_sqlite,
)
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools
from support.postgres import wait_until

TOOLS = Tools()
PASSWORD = "made-up secret"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        (Path(folder) / "staging").mkdir()
        (Path(folder) / "data").mkdir()
        yield Path(folder)


class Redis:
    """A live redis-server on a socket in folder/data."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.data, self.socket = folder / "data", folder / "live"
        words = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.data), "--save", "", *more]
        self.process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
        wait_until(self.socket.exists, "redis listens")
        self.password = more[more.index("--requirepass") + 1] if "--requirepass" in more else ""

    def cli(self, *words: str, text: str | None = None) -> str:
        environment = {**os.environ, "REDISCLI_AUTH": self.password}
        argv = ["redis-cli", "-s", str(self.socket), *words]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    def fill(self, keys: int = 100) -> None:
        lines = [f"SET key:{number} value" for number in range(keys)]
        self.cli(text="\n".join([*lines, "SET short x EX 5000", "SELECT 3", "SET other y"]) + "\n")

    @property
    def settings(self) -> dict[str, Any]:
        return {"socket": str(self.socket), "password": self.password}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis(short: Path) -> Iterator[Redis]:
    server = Redis(short)
    server.fill()
    yield server
    server.stop()


class TestRedis:
    def test_captured_and_proven(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging", lambda: 1_790_000_000)
        assert (made.name, made.kind, made.at) == ("redis", "redis", "2026-09-21T14:13:20Z")
        assert made.details["keys"] == {"db0": {"keys": 101, "expires": 1}, "db3": {"keys": 1, "expires": 0}}
        assert made.details["rdb"] == {"keys": 102, "expires": 1}
        assert made.details["source"] == str(redis.data / "dump.rdb")
        assert made.details["role"] == "master" and made.details["version"].startswith(("6.", "7.", "8."))
        (entry,) = made.as_dict()["files"]
        assert entry["path"] == str(short / "staging" / "redis.rdb") and entry["mode"] == "0600"
        dump = Path(entry["path"])
        assert dump.stat().st_size == entry["bytes"]
        problems, details = prove_redis(TOOLS, dump, short / "proof", made.details)
        assert problems == []
        assert details["keys"] == made.details["keys"]
        assert list((short / "proof").iterdir()) == []

    def test_what_is_not_in_the_dump_is_missed(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        wanted = {**made.details, "keys": {"db0": {"keys": 150, "expires": 1}}, "rdb": {"keys": 150, "expires": 1}}
        problems, _ = prove_redis(TOOLS, short / "staging" / "redis.rdb", short / "proof", wanted)
        assert problems == [
            "102 keys are in the loaded dump, 150 were saved (1 expiring)",
            "db0 has 101 keys, 150 were saved (1 of them expiring)",
            "db3 has 1 keys, 0 were saved (0 of them expiring)",
        ]

    def test_keys_whose_time_is_over_may_be_gone(self) -> None:
        expected = {"keys": {"db0": {"keys": 10, "expires": 3}}, "rdb": {"keys": 10, "expires": 3}}
        assert compare_keys(expected, {"db0": {"keys": 7, "expires": 0}}) == []
        assert len(compare_keys(expected, {"db0": {"keys": 6, "expires": 0}})) == 2
        assert len(compare_keys(expected, {"db0": {"keys": 11, "expires": 0}})) == 2
        # A write between the server's count and its save.
        moved = {**expected, "rdb": {"keys": 11, "expires": 3}}
        assert compare_keys(moved, {"db0": {"keys": 11, "expires": 3}}) == []

    def test_two_saves_in_a_row_are_two(self, redis: Redis, short: Path) -> None:
        capture_redis(TOOLS, redis.settings, short / "staging")
        redis.cli("SET", "late", "x")
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        assert made.details["rdb"]["keys"] == 103

    def test_a_save_under_way_is_waited_for(self, redis: Redis, short: Path) -> None:
        # 102 keys at 10 ms each: a second in which a key is added that only the next save has.
        redis.cli("CONFIG", "SET", "rdb-key-save-delay", "10000")
        redis.cli("BGSAVE")
        redis.cli("SET", "late", "x")
        seen: list[str] = []

        def pause(_: float) -> None:
            seen.append(redis.cli("INFO", "persistence"))
            redis.cli("CONFIG", "SET", "rdb-key-save-delay", "0")

        made = capture_redis(TOOLS, redis.settings, short / "staging", pause=pause)
        assert "rdb_bgsave_in_progress:1" in seen[0]
        assert made.details["rdb"]["keys"] == 103

    def test_a_save_that_does_not_end(self, redis: Redis, short: Path) -> None:
        redis.cli("CONFIG", "SET", "rdb-key-save-delay", "10000000")
        with pytest.raises(ToolError, match="time limit: its save goes on"):
            capture_redis(TOOLS, redis.settings, short / "staging", limit_seconds=2)
        assert list((short / "staging").iterdir()) == []

    def test_a_save_that_fails_says_where(self, short: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", short / "data"], check=True)
        try:
            server = Redis(short, "--rdbcompression", "no")
            try:
                server.cli("SET", "big", "x" * 100_000)
                server.cli("EVAL", "for i = 1, 30 do redis.call('COPY', 'big', 'big' .. i) end", "0")
                with pytest.raises(
                    ToolError, match=rf"could not save: its folder {short}/data has 1.0 MiB free; see the"
                ):
                    capture_redis(TOOLS, server.settings, short / "staging")
                # And again, now that the last save is known to have failed.
                with pytest.raises(ToolError, match="could not save"):
                    capture_redis(TOOLS, server.settings, short / "staging")
                server.cli("FLUSHALL")
                assert capture_redis(TOOLS, server.settings, short / "staging").details["rdb"]["keys"] == 0
            finally:
                server.stop()
        finally:
            subprocess.run(["umount", short / "data"], check=True)

    def test_server_whose_file_is_not_to_be_had(
        self, redis: Redis, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As for one in a container, whose path here is of an older file of somebody else."""
        real = backups_components._dump_path

        def seen_from_here(cli: Any, saved_at: int) -> Path | None:
            os.utime(redis.data / "dump.rdb", (1, 1))
            return real(cli, saved_at)

        monkeypatch.setattr(backups_components, "_dump_path", seen_from_here)
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        assert made.details["source"] == "redis-cli --rdb"
        assert made.details["rdb"]["keys"] == 102
        assert [p.name for p in (short / "staging").iterdir()] == ["redis.rdb"]
        assert made.files[0].mode == "0600"

    def test_password(self, short: Path) -> None:
        server = Redis(short, "--requirepass", PASSWORD)
        try:
            made = capture_redis(TOOLS, server.settings, short / "staging")
            assert made.details["rdb"] == {"keys": 0, "expires": 0}
            for wrong in ("other secret", ""):
                with pytest.raises(ToolError, match=r"refuses us: .*(WRONGPASS|NOAUTH)") as caught:
                    capture_redis(TOOLS, {**server.settings, "password": wrong}, short / "staging")
                assert "other secret" not in str(caught.value)
        finally:
            server.stop()

    def test_user_without_the_right_to_read_the_configuration(self, redis: Redis, short: Path) -> None:
        rights = ["+info", "+lastsave", "+time", "+bgsave", "+psync", "+replconf", "+sync", "+ping"]
        redis.cli("ACL", "SETUSER", "saver", "on", ">word", *rights)
        settings = {**redis.settings, "user": "saver", "password": "word"}
        made = capture_redis(TOOLS, settings, short / "staging")
        assert made.details["source"] == "redis-cli --rdb" and made.details["rdb"]["keys"] == 102
        redis.cli("ACL", "SETUSER", "saver", "-bgsave")
        with pytest.raises(ToolError, match=r"NOPERM.*right to INFO"):
            capture_redis(TOOLS, settings, short / "staging")

    def test_nobody_answers(self, short: Path) -> None:
        with pytest.raises(ToolError, match=f"redis at {short}/none cannot be asked: Could not connect"):
            capture_redis(TOOLS, {"socket": str(short / "none")}, short / "staging")
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        with pytest.raises(ToolError, match=f"127.0.0.1:{port}"):
            capture_redis(TOOLS, {"port": port}, short / "staging")

    def test_empty_and_cut_dumps_are_found(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        dump = short / "staging" / "redis.rdb"
        content = dump.read_bytes()
        dump.write_bytes(content[:-20])
        problems, _ = prove_redis(TOOLS, dump, short / "proof", made.details)
        assert len(problems) == 1 and "is damaged: redis-check-rdb: " in problems[0] and "EOF" in problems[0]
        dump.write_bytes(b"")
        assert prove_redis(TOOLS, dump, short / "proof", made.details)[0] == [f"dump {dump} has 0 bytes"]
        dump.unlink()
        assert "cannot be read" in prove_redis(TOOLS, dump, short / "proof", made.details)[0][0]

    def test_damaged_dump_without_the_checker_does_not_load(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        dump = short / "staging" / "redis.rdb"
        dump.write_bytes(dump.read_bytes()[:-20])

        class NoChecker(Tools):
            def path(self, program: str) -> str:
                if program == "redis-check-rdb":
                    raise ToolMissing(program)
                return super().path(program)

        problems, details = prove_redis(NoChecker(), dump, short / "proof", made.details)
        assert len(problems) == 1 and "does not load" in problems[0]
        assert "not on this host" in details["check"]
        assert "not checked" in capture_redis(NoChecker(), redis.settings, short / "staging").details["check"]

    @pytest.mark.parametrize(("content", "words"), [(b"", "has 0 bytes"), (b"REDIS0010\xfa", "is damaged")])
    def test_a_dump_that_is_bad_at_once_is_not_kept(
        self, redis: Redis, short: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
    ) -> None:
        """The disk of the server lost what was written."""
        real = backups_components._dump_path

        def loses(cli: Any, saved_at: int) -> Path | None:
            (redis.data / "dump.rdb").write_bytes(content)
            return real(cli, saved_at)

        monkeypatch.setattr(backups_components, "_dump_path", loses)
        with pytest.raises(ToolError, match=words):
            capture_redis(TOOLS, redis.settings, short / "staging")
        assert list((short / "staging").iterdir()) == []

    def test_a_dump_larger_than_the_memory_is_refused(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        wanted = {**made.details, "used_memory": 1 << 50}
        with pytest.raises(ToolError, match="memory to load"):
            prove_redis(TOOLS, short / "staging" / "redis.rdb", short / "proof", wanted)

    def test_a_scratch_folder_with_a_long_name(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        with pytest.raises(ToolError, match="too long"):
            prove_redis(TOOLS, short / "staging" / "redis.rdb", short / ("x" * 120), made.details)

    def test_server_of_a_killed_proof_is_ended(self, short: Path) -> None:
        scratch = short / "proof"
        scratch.mkdir()
        words = ["--port", "0", "--unixsocket", str(scratch / "r.sock"), "--dir", str(scratch), "--save", ""]
        left = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL, cwd=scratch)
        (scratch / "redis.pid").write_text(f"{left.pid}\n")
        wait_until((scratch / "r.sock").exists, "it listens")
        # Its parent is gone in real life; here somebody has to take note of its end.
        threading.Thread(target=left.wait, daemon=True).start()
        assert end_leftovers(scratch) == [left.pid]
        assert left.wait(10) is not None
        assert list(scratch.iterdir()) == []
        assert end_leftovers(scratch) == []

    def test_a_pid_of_somebody_else_is_left_alone(self, redis: Redis, short: Path) -> None:
        (short / "proof").mkdir()
        for pid in (os.getpid(), redis.process.pid, 1, 0):
            (short / "proof" / "redis.pid").write_text(f"{pid}\n")
            assert end_leftovers(short / "proof") == []
        assert redis.cli("PING").strip() == "PONG"

    def test_scratch_server_ends_with_a_killed_proof(self, redis: Redis, short: Path) -> None:
        made = capture_redis(TOOLS, redis.settings, short / "staging")
        assert made.details["rdb"]
        folder = Path(backups_components.__file__).parents[3]
        script = (
            "import sys, ansible.module_utils\nfrom pathlib import Path\n"
            f"ansible.module_utils.__path__ += [str(p) for p in Path({str(folder)!r}).glob('roles/*/module_utils')]\n"
            "from ansible.module_utils.backups_components import _scratch_server\n"
            "from ansible.module_utils.runbook_tools import Tools\n"
            f"with _scratch_server(Tools(), Path({str(short / 'staging' / 'redis.rdb')!r}), Path({str(short / 'p')!r})):\n"
            "    print('up', flush=True); sys.stdin.read()\n"
        )
        python = shutil.which("python") or "python3"
        proof = subprocess.Popen(
            [python, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        assert proof.stdin and proof.stdout and proof.stdout.readline() == "up\n"
        pid = int((short / "p" / "redis.pid").read_text())
        wait_until((short / "p" / "r.sock").exists, "it listens")
        proof.send_signal(signal.SIGKILL)
        proof.wait()
        proof.stdin.close()
        proof.stdout.close()
        wait_until(lambda: not _alive(pid), "the scratch server is gone")
        assert end_leftovers(short / "p") == []


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def grafana(tmp_path: Path) -> Path:
    path = tmp_path / "live" / "grafana.db"
    path.parent.mkdir()
    (tmp_path / "staging").mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE dashboard (id INTEGER PRIMARY KEY, data TEXT)")
        database.execute('CREATE TABLE "user" (id INTEGER PRIMARY KEY)')
        database.executemany("INSERT INTO dashboard (data) VALUES (?)", [("x" * 500,)] * 200)
        database.execute('INSERT INTO "user" VALUES (1)')
    database.close()
    path.chmod(0o640)
    return path


class TestSqlite:
    def test_captured_and_proven(self, grafana: Path, tmp_path: Path) -> None:
        made = capture_sqlite(grafana, tmp_path / "staging", lambda: 1_790_000_000)
        assert (made.name, made.kind, made.at) == ("grafana", "sqlite", "2026-09-21T14:13:20Z")
        assert made.details["rows"] == {"dashboard": 200, "user": 1}
        assert made.details["original"]["mode"] == "0640"
        copy = tmp_path / "staging" / "grafana.db"
        assert [f.path for f in made.files] == [str(copy)]
        assert prove_sqlite(copy, made.details) == []
        assert [p.name for p in copy.parent.iterdir()] == ["grafana.db"]

    @pytest.mark.parametrize("mode", ["DELETE", "WAL"])
    def test_while_it_is_written(self, grafana: Path, tmp_path: Path, mode: str) -> None:
        writer = sqlite3.connect(grafana, timeout=30, isolation_level=None, check_same_thread=False)
        writer.execute(f"PRAGMA journal_mode = {mode}")
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                # Two rows or none: a copy in between would have an odd number.
                writer.execute("BEGIN IMMEDIATE")
                writer.executemany("INSERT INTO dashboard (data) VALUES (?)", [("y" * 500,)] * 2)
                writer.execute("COMMIT")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(5):
                made = capture_sqlite(grafana, tmp_path / "staging")
                assert made.details["rows"]["dashboard"] % 2 == 0
                assert prove_sqlite(tmp_path / "staging" / "grafana.db", made.details) == []
        finally:
            stop.set()
            thread.join()
            writer.close()

    def test_what_is_only_in_the_wal_is_captured(self, grafana: Path, tmp_path: Path) -> None:
        with sqlite3.connect(grafana, isolation_level=None) as writer:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA wal_autocheckpoint = 0")
            writer.execute("INSERT INTO dashboard (data) VALUES ('late')")
            made = capture_sqlite(grafana, tmp_path / "staging")
        writer.close()
        assert made.details["rows"]["dashboard"] == 201

    def test_one_that_is_locked_for_good(self, grafana: Path, tmp_path: Path) -> None:
        with sqlite3.connect(grafana, isolation_level=None) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            with pytest.raises(ToolError, match=r"busy for longer than 0\.1 s|is locked"):
                capture_sqlite(grafana, tmp_path / "staging", limit_seconds=0.1)
        writer.close()
        assert list((tmp_path / "staging").iterdir()) == []

    def test_damaged_source(self, grafana: Path, tmp_path: Path) -> None:
        with grafana.open("r+b") as file:
            file.seek(4096 * 2)
            file.write(os.urandom(4096 * 3))
        with pytest.raises(ToolError, match=r"integrity_check says|malformed"):
            capture_sqlite(grafana, tmp_path / "staging")
        assert list((tmp_path / "staging").iterdir()) == []

    def test_damage_that_only_the_integrity_check_sees(self, grafana: Path, tmp_path: Path) -> None:
        with sqlite3.connect(grafana) as database:
            database.execute("INSERT INTO dashboard VALUES (999, 'needle-1')")
            database.execute("CREATE INDEX by_data ON dashboard (data)")
        database.close()
        content = grafana.read_bytes()
        assert content.count(b"needle-1") == 2
        grafana.write_bytes(content.replace(b"needle-1", b"needle-2", 1))
        with pytest.raises(ToolError, match=r"integrity_check says: .*missing from index"):
            capture_sqlite(grafana, tmp_path / "staging")
        assert "missing from index" in prove_sqlite(grafana, {"rows": {"dashboard": 201}})[0]

    def test_no_database_and_missing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("this is no database at all " * 50)
        with pytest.raises(ToolError, match="not a database"):
            capture_sqlite(tmp_path / "file", tmp_path)
        with pytest.raises(ToolError, match="is not there"):
            capture_sqlite(tmp_path / "none", tmp_path)

    def test_damaged_copy_and_lost_rows(self, grafana: Path, tmp_path: Path) -> None:
        made = capture_sqlite(grafana, tmp_path / "staging")
        copy = tmp_path / "staging" / "grafana.db"
        with sqlite3.connect(copy) as database:
            database.execute("DELETE FROM dashboard WHERE id <= 3")
        database.close()
        assert prove_sqlite(copy, made.details) == [f"table dashboard of {copy} has 197 rows, 200 were saved"]
        with copy.open("r+b") as file:
            file.seek(4096 * 2)
            file.write(os.urandom(4096 * 3))
        (problem,) = prove_sqlite(copy, made.details)
        assert "is damaged" in problem
        copy.unlink()
        assert prove_sqlite(copy, made.details) == [f"database {copy} is missing"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "etc"
    (root / "conf" / "deep").mkdir(parents=True)
    (root / "conf" / "main.conf").write_text("listen 80;")
    (root / "conf" / "main.conf").chmod(0o640)
    (root / "conf" / "deep" / "x.tmp").write_text("x")
    (root / "link").symlink_to("conf/main.conf")
    return root


def restored(tree: Path, made: Captured, to: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Copy the tree as restic would restore it below `to`; return that and the entries of the manifest."""
    shutil.copytree(tree, to / str(tree).lstrip("/"), symlinks=True)
    return to / str(tree).lstrip("/"), made.as_dict()["files"]


class TestFiles:
    def test_captured_and_proven(self, tree: Path, tmp_path: Path) -> None:
        made = capture_files("config", [str(tree)], ["*.tmp"], lambda: 1_790_000_000)
        assert made.at == "2026-09-21T14:13:20Z" and made.problems == []
        assert {Path(f.path).name: (f.kind, f.mode, f.bytes) for f in made.files if f.kind != "folder"} == {
            "main.conf": ("file", "0640", 10),
            "link": ("link", "0777", 0),
        }
        _, entries = restored(tree, made, tmp_path / "out")
        assert prove_files(tmp_path / "out", entries) == []

    def test_each_difference_is_named(self, tree: Path, tmp_path: Path) -> None:
        (tree / "conf" / "gone").write_text("x")
        made = capture_files("config", [str(tree)])
        back, entries = restored(tree, made, tmp_path / "out")
        conf = back / "conf" / "main.conf"
        conf.chmod(0o644)
        os.chown(conf, 65534, 54321)
        (back / "conf" / "deep" / "x.tmp").write_text("other")
        (back / "conf" / "gone").unlink()
        (back / "link").unlink()
        (back / "link").symlink_to("elsewhere")
        (back / "more").write_text("not in the manifest, and fine")
        assert sorted(p.replace(f"{tree}/", "") for p in prove_files(tmp_path / "out", entries)) == [
            "conf/deep/x.tmp has another content than was saved (5 bytes, 1 were saved)",
            "conf/gone is missing",
            "conf/main.conf has group 54321, root was saved",
            "conf/main.conf has mode 0644, 0640 was saved",
            "conf/main.conf has owner nobody, root was saved",
            "link has another target than was saved (0 bytes, 0 were saved)",
        ]

    def test_a_folder_where_a_file_was(self, tree: Path, tmp_path: Path) -> None:
        made = capture_files("config", [str(tree / "conf" / "main.conf")])
        back, entries = restored(tree, made, tmp_path / "out")
        (back / "conf" / "main.conf").unlink()
        (back / "conf" / "main.conf").mkdir()
        assert prove_files(tmp_path / "out", entries) == [f"{tree}/conf/main.conf is a folder, a file was saved"]

    def test_missing_path_and_special_files(self, tree: Path) -> None:
        os.mkfifo(tree / "pipe")
        with socket.socket(socket.AF_UNIX) as one:
            os.chdir(tree)  # the address of a socket is limited to 107 bytes
            one.bind("sock")
            os.chdir("/")
            made = capture_files("config", [str(tree), "/nowhere/at/all"])
        assert made.problems == ["/nowhere/at/all is not there"]
        assert made.details["skipped"] == [str(tree / "pipe"), str(tree / "sock")]

    @pytest.mark.parametrize(
        ("path", "pattern", "expected"),
        [
            ("/etc/nginx/a.tmp", "*.tmp", True),
            ("/etc/nginx/a.tmp", "/etc/*/a.tmp", True),
            ("/etc/nginx/deep/a.tmp", "/etc/*/a.tmp", False),
            ("/etc/nginx/deep/a.tmp", "/etc/**/a.tmp", True),
            ("/etc/nginx/cache/x", "cache", True),
            ("/etc/nginx/cache/x", "/cache", False),
            ("/etc/nginx/cache/x", "nginx/cache", True),
            ("/etc/nginx/b", "[^a]", True),
            ("/etc/nginx/A", "a", False),
        ],
    )
    def test_excludes_are_those_of_restic(self, tmp_path: Path, path: str, pattern: str, expected: bool) -> None:
        assert excluded(path, [pattern]) is expected

    def test_restic_agrees(self, tmp_path: Path) -> None:
        """The manifest names exactly what the snapshot holds."""
        for name in ("a.tmp", "keep", "deep/a.tmp", "deep/cache/x", "deep/b", "cache2/y"):
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "src" / name).write_text(name)
        environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(tmp_path / "repo")}

        def run(*words: str) -> str:
            argv = ["restic", "--no-cache", *words]
            return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

        run("init")
        source = str(tmp_path / "src")
        for patterns in (["*.tmp"], ["cache"], [f"{source}/*/a.tmp", "[^kd]*.tmp"], ["src/**/x"], ["deep/c*"]):
            run("backup", source, *(f"--exclude={pattern}" for pattern in patterns))
            listed = {line for line in run("ls", "latest").splitlines() if line.startswith(source)}
            made = capture_files("config", [source], patterns)
            assert {f.path for f in made.files} == listed, patterns


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., None]:
    def make(stem: str, certificate: str | None = None, days: int = 30, key: str | None = None) -> None:
        key_file = tmp_path / (key or f"{stem}.key")
        key_file.parent.mkdir(parents=True, exist_ok=True)
        words = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key_file), "-subj", "/CN=x", "-days", str(days)]
        argv = ["openssl", "req", "-x509", *words, "-out", str(tmp_path / (certificate or f"{stem}.crt"))]
        subprocess.run(argv, check=True, capture_output=True)

    return make


class TestKeys:
    def prove(self, root: Path, **more: Any) -> list[tuple[str, str, str]]:
        paths = [f"/{p.relative_to(root)}" for p in root.rglob("*")]
        return [(f.kind, f.path, f.text) for f in prove_keys(TOOLS, root, paths, **more)]

    def test_matching(self, tmp_path: Path, keys: Callable[..., None]) -> None:
        keys("site")
        keys("le", certificate="live/fullchain.pem", key="live/privkey.pem")
        keys("apart", certificate="certs.pem", key="private/server.key")
        assert self.prove(tmp_path) == []

    def test_swapped(self, tmp_path: Path, keys: Callable[..., None]) -> None:
        keys("one")
        keys("two")
        (tmp_path / "one.key").rename(tmp_path / "x")
        (tmp_path / "two.key").rename(tmp_path / "one.key")
        (tmp_path / "x").rename(tmp_path / "two.key")
        assert self.prove(tmp_path) == [
            ("problem", "/one.key", "does not belong to the certificate /one.crt"),
            ("problem", "/two.key", "does not belong to the certificate /two.crt"),
        ]

    def test_key_of_no_certificate(self, tmp_path: Path, keys: Callable[..., None]) -> None:
        keys("site")
        keys("other", certificate="dropped.crt", key="live/privkey1.pem")
        (tmp_path / "dropped.crt").unlink()
        assert self.prove(tmp_path) == [
            ("problem", "/live/privkey1.pem", "belongs to none of the certificates /site.crt")
        ]
        (tmp_path / "site.crt").unlink()
        assert self.prove(tmp_path) == []

    def test_expired_is_a_warning(self, tmp_path: Path, keys: Callable[..., None]) -> None:
        keys("site", days=10)
        assert self.prove(tmp_path, now=lambda: time.time() + 9 * 86400) == []
        ((kind, path, text),) = self.prove(tmp_path, now=lambda: time.time() + 11 * 86400)
        assert (kind, path) == ("warning", "/site.crt") and text.startswith("expired at 20")

    def test_damaged(self, tmp_path: Path, keys: Callable[..., None]) -> None:
        keys("site")
        for name in ("site.key", "site.crt"):
            content = (tmp_path / name).read_text().splitlines(keepends=True)
            (tmp_path / name).write_text("".join(content[:5]))
        found = self.prove(tmp_path)
        assert [(kind, path) for kind, path, _ in found] == [("problem", "/site.crt"), ("problem", "/site.key")]
        assert "is no private key openssl can read" in found[1][2]

    def test_with_a_passphrase_and_of_other_kinds(self, tmp_path: Path, keys: Callable[..., None]) -> None:
        keys("site")
        argv = ["openssl", "pkey", "-in", str(tmp_path / "site.key"), "-aes256", "-passout", "pass:x", "-out"]
        subprocess.run([*argv, str(tmp_path / "closed.key")], check=True)
        argv = ["openssl", "pkey", "-in", str(tmp_path / "site.key"), "-outform", "DER", "-out"]
        subprocess.run([*argv, str(tmp_path / "binary.key")], check=True)
        (tmp_path / "token.key").write_text("not a key at all")
        (tmp_path / "empty.key").write_text("")
        found = self.prove(tmp_path)
        assert [(kind, path) for kind, path, _ in found] == [("note", "/closed.key"), ("note", "/token.key")]
        assert "passphrase" in found[0][2]
