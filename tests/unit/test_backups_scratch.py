"""A throwaway server on restored data: real base backups, real WAL archives, three versions of PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import backups_scratch
from ansible.module_utils.backups_figures import compare, integrity, read_figures, take_figures
from ansible.module_utils.backups_scratch import (
    MARK,
    MARK_TEXT,
    MissingWal,
    Place,
    ScratchError,
    ScratchRefused,
    ScratchServer,
    Target,
    TargetNotReached,
    clean_leftovers,
    next_segment,
    refuse_place,
    settings_lines,
)
from ansible.module_utils.runbook_psql import PsqlError, Session
from ansible.module_utils.runbook_tools import ToolError, Tools
from support.postgres import Server, unprivileged_user, wait_until

LIMIT = 120


@dataclass
class Source:
    """A live server with an archive, a base backup, and what happened after it.

    Order: backup, 10 rows and the restore point of `figures`, 10 rows, moment `before_drop`, DROP TABLE, 1 row.
    """

    server: Server
    backup: Path
    archive: Path
    figures: dict[str, Any]
    xid: str
    before_drop: str

    @property
    def restore_command(self) -> str:
        return f'cp "{self.archive}/%f" "%p"'

    def has_wal(self, name: str) -> bool:
        return (self.archive / name).exists()


@pytest.fixture(scope="module", params=["system15", "wheel16", "wheel18"])
def source(request: pytest.FixtureRequest, scratch: Path, bin_dirs: dict[str, Path]) -> Iterator[Source]:
    folder = scratch / f"live-{request.param}"
    server = Server(
        bin_dirs[request.param],
        folder,
        f"archive_mode = on\narchive_command = 'test ! -f {folder}/archive/%f && cp %p {folder}/archive/%f'\n",
    )
    archive = folder / "archive"
    archive.mkdir()
    own(archive)
    server.run(
        *("initdb", "-D", str(server.data), "-A", "trust", "-U", "postgres", "--no-sync", "-k"),
        *("-E", "UTF8", "--locale", "C"),
    )
    with open(server.data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.write(server.settings)
    server.start()
    yield history(server, folder / "backup", archive)
    server.stop()


WRITER = """
DO $$ BEGIN LOOP
  INSERT INTO public.kept (total_cost_usd) VALUES (0.5);
  IF random() < 0.3 THEN UPDATE public.kept SET total_cost_usd = total_cost_usd + 1 WHERE id = (random() * 50)::int; END IF;
  COMMIT;
  PERFORM pg_sleep(random() * 0.01);
END LOOP; END $$
"""


def write(server: Server) -> None:
    with Session(server.connection("busy")) as session, contextlib.suppress(PsqlError):
        session.execute(WRITER)


def history(server: Server, backup: Path, archive: Path) -> Source:
    server.sql("CREATE DATABASE tracker")
    server.sql(
        "CREATE TABLE public.costs (id serial PRIMARY KEY, created_at timestamptz DEFAULT now(), total_cost_usd numeric); "
        "CREATE TABLE public.kept (n int); INSERT INTO public.costs (total_cost_usd) SELECT 0.01 FROM generate_series(1, 5000)",
        "tracker",
    )
    server.sql(f"ALTER SYSTEM SET archive_command = 'touch {archive}/obeyed; cp %p {archive}/%f'")
    server.sql("ALTER SYSTEM SET port = 5999")
    server.run(
        "pg_basebackup", "-h", str(server.folder), "-U", "postgres", "-D", str(backup), "-c", "fast", "--no-sync"
    )
    server.sql("ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()")
    more = "INSERT INTO public.costs (total_cost_usd) SELECT 0.02 FROM generate_series(1, 10)"
    server.sql(more, "tracker")
    figures = take_figures(server.connection("tracker"), "set").as_dict()
    xid = server.sql(f"BEGIN; {more}; SELECT pg_current_xact_id(); COMMIT", "tracker")[0]
    server.sql("SELECT pg_switch_wal()")
    before_drop = server.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )[0]
    server.sql("DROP TABLE public.costs", "tracker")
    server.sql("SELECT pg_switch_wal()")
    server.sql("INSERT INTO public.kept VALUES (1)", "tracker")
    last = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0]
    server.sql("SELECT pg_switch_wal()")
    wait_until((archive / last).exists, "the last segment is archived")
    return Source(server, backup, archive, figures, xid, before_drop)


def own(path: Path) -> None:
    if user := unprivileged_user():
        shutil.chown(path, user)


def tools(source: Source) -> Tools:
    return Tools(os_user=source.server.user, bin_dir=str(source.server.bin_dir))


@pytest.fixture
def place(source: Source, scratch: Path, tmp_path: Path) -> Iterator[Place]:
    with Place(scratch / "drills" / tmp_path.name[-8:], source.server.user) as made:
        made.data.rmdir()
        subprocess.run(["cp", "-a", str(source.backup), str(made.data)], check=True)
        yield made


def scratch_server(source: Source, place: Place, **more: Any) -> ScratchServer:
    more.setdefault("restore_command", source.restore_command)
    more.setdefault("has_wal", source.has_wal)
    return ScratchServer(place.data, place.run, tools(source), **more)


def count(server: ScratchServer, table: str = "public.costs") -> int:
    with Session(server.connection("tracker")) as session:
        return int(session.value(f"SELECT count(*) FROM {table}"))


def test_recovery_to_the_restore_point_shows_the_figures_of_the_set(source: Source, place: Place) -> None:
    assert source.figures["exact"] and source.figures["tables"]["public.costs"] == 5010
    target = Target("name", source.figures["restore_point"])
    with scratch_server(source, place, target=target, settings=source.figures["settings"]) as server:
        recovered = server.start_and_recover(LIMIT)
        restored = read_figures(server.connection("tracker"))
        with Session(server.connection("tracker")) as session:
            assert integrity(session) == []
            settings = {
                name: session.value(f"SELECT current_setting('{name}') AS v")
                for name in (
                    "archive_mode",
                    "archive_command",
                    "listen_addresses",
                    "max_connections",
                    "hba_file",
                    "port",
                )
            }
        size, _ = server.dump_to_null("tracker")
        checked = server.amcheck(["tracker"], 1)
        server.stop()
        pages = server.page_checksums()
    assert compare(source.figures, restored.as_dict()) == []
    assert recovered.reached and f'recovery stopping at restore point "{target.value}"' in recovered.evidence
    assert recovered.end_lsn == source.figures["lsn"] and recovered.timeline == 2 and recovered.segments >= 1
    assert recovered.last_commit_at and recovered.last_commit_at < source.before_drop
    assert settings == {
        "archive_mode": "off",
        "archive_command": "(disabled)",
        "listen_addresses": "",
        "max_connections": "30",
        "hba_file": str(place.run / "pg_hba.conf"),
        "port": str(backups_scratch.PORT),
    }
    assert not (source.archive / "obeyed").exists() and not list(source.archive.glob("00000002*"))
    assert size > 5010 * 10
    assert pages.done and pages.problems == []
    assert checked.problems == [] and checked.done == (source.server.bin_dir.parts[1] == "usr")
    if not checked.done:
        assert checked.notes == ["the extension amcheck is not on this host: install the contrib package of the server"]
    assert {"prepare", "recover", "stop", "page_checksums", "dump tracker", "amcheck"} <= set(server.phases)


def test_figures_taken_while_others_write_are_what_a_recovery_shows(source: Source, place: Place) -> None:
    live = source.server
    live.sql("CREATE DATABASE busy TEMPLATE tracker")
    live.sql(
        "ALTER TABLE public.kept ADD id serial, ADD created_at timestamptz DEFAULT now(), ADD total_cost_usd numeric",
        "busy",
    )
    writers = [threading.Thread(target=write, args=(live,)) for _ in range(3)]
    for one in writers:
        one.start()
    try:
        taken = [take_figures(live.connection("busy"), f"busy{n}", 200).as_dict() for n in range(4)]
    finally:
        live.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^DO'")
        for one in writers:
            one.join(30)
    assert all(figures["exact"] for figures in taken)
    last = live.sql("SELECT pg_walfile_name(pg_switch_wal())")[0]
    wait_until((source.archive / last).exists, "the last segment is archived")
    shown = []
    for figures in (taken[0], taken[-1]):
        shutil.rmtree(place.data)
        subprocess.run(["cp", "-a", str(source.backup), str(place.data)], check=True)
        with scratch_server(source, place, target=Target("name", figures["restore_point"])) as server:
            server.start_and_recover(LIMIT)
            shown.append(compare(figures, read_figures(server.connection("busy")).as_dict()))
    assert shown == [[], []]


def test_recovery_to_the_moment_before_the_drop(source: Source, place: Place) -> None:
    with scratch_server(source, place, target=Target("time", source.before_drop)) as server:
        recovered = server.start_and_recover(LIMIT)
        assert count(server) == 5020
        assert count(server, "public.kept") == 0
    assert "recovery stopping before commit of transaction" in recovered.evidence


def test_recovery_to_the_latest_and_to_consistency(source: Source, place: Place) -> None:
    with scratch_server(source, place) as server:
        recovered = server.start_and_recover(LIMIT)
        assert count(server, "public.kept") == 1
        assert "archive recovery complete" in recovered.evidence
        assert recovered.last_commit_at and recovered.last_commit_at > source.before_drop
        with pytest.raises(ScratchError, match="stop it first"):
            server.page_checksums()


def test_recovery_to_consistency_is_the_backup_alone(source: Source, place: Place) -> None:
    with scratch_server(source, place, target=Target("immediate")) as server:
        assert "recovery stopping after reaching consistency" in server.start_and_recover(LIMIT).evidence
        assert count(server) == 5000


def test_recovery_to_an_lsn(source: Source, place: Place) -> None:
    with scratch_server(source, place, target=Target("lsn", source.figures["lsn"])) as server:
        assert "recovery stopping after WAL location" in server.start_and_recover(LIMIT).evidence
        assert count(server) == 5010


def test_recovery_to_a_transaction(source: Source, place: Place) -> None:
    with scratch_server(source, place, target=Target("xid", source.xid), timeline="current") as server:
        evidence = server.start_and_recover(LIMIT).evidence
        assert f"recovery stopping after commit of transaction {source.xid}" in evidence
        assert count(server) == 5020


def test_a_time_beyond_the_archive_is_not_reached(source: Source, place: Place) -> None:
    with (
        scratch_server(source, place, target=Target("time", "2099-01-01T00:00:00Z")) as server,
        pytest.raises(
            TargetNotReached, match=r"2099-01-01T00:00:00Z lies after the end of the WAL: the last .* is of 20"
        ) as told,
    ):
        server.start_and_recover(LIMIT)
    assert type(told.value) is TargetNotReached and not server.running
    assert told.value.last_commit_at and told.value.last_commit_at > source.before_drop


def test_a_target_before_the_end_of_the_backup_needs_an_earlier_one(source: Source, place: Place) -> None:
    with (
        scratch_server(source, place, target=Target("lsn", "0/1000028")) as server,
        pytest.raises(TargetNotReached, match="use an earlier backup"),
    ):
        server.start_and_recover(LIMIT)


@pytest.mark.parametrize("target", [Target(), Target("time", "2099-01-01T00:00:00Z")], ids=str)
def test_a_gap_in_the_archive_is_told_from_its_end(source: Source, place: Place, target: Target) -> None:
    segments = sorted(p.name for p in source.archive.iterdir() if len(p.name) == 24)
    gone = segments[-2]
    command = f'test "%f" != {gone} && {source.restore_command}'

    def has_wal(name: str) -> bool:
        return name != gone and source.has_wal(name)

    with (
        scratch_server(source, place, target=target, restore_command=command, has_wal=has_wal) as server,
        pytest.raises(
            MissingWal, match=f"segment {gone} is missing from the archive, while later ones are there"
        ) as told,
    ):
        server.start_and_recover(LIMIT)
    assert told.value.segment == gone


def test_a_backup_without_its_own_wal_cannot_be_used(source: Source, place: Place) -> None:
    for file in (place.data / "pg_wal").iterdir():
        if file.is_file():
            file.unlink()
    with scratch_server(source, place, restore_command="false") as server, pytest.raises(MissingWal) as told:
        server.start_and_recover(LIMIT)
    assert "the archive lacks WAL that this backup itself needs" in str(told.value)
    assert told.value.segment and len(told.value.segment) == 24


def test_a_server_that_does_not_start_gives_its_last_words(source: Source, place: Place) -> None:
    (place.data / "PG_VERSION").write_text("9.0\n")
    with (
        scratch_server(source, place) as server,
        pytest.raises(ScratchError, match=r"did not start.*initialized by PostgreSQL version 9\.0"),
    ):
        server.start_and_recover(LIMIT)


def test_a_recovery_that_takes_too_long_is_ended(source: Source, place: Place) -> None:
    with (
        scratch_server(source, place, restore_command="sleep 60") as server,
        pytest.raises(ScratchError, match="took longer than 1 s and was ended"),
    ):
        server.start_and_recover(1)
    assert backups_scratch._servers_in(place.folder) == []


def test_libraries_that_are_not_here_are_left_out(source: Source, place: Place) -> None:
    settings = {"shared_preload_libraries": "pg_cron, no_such_library", "max_connections": "77"}
    with scratch_server(source, place, settings=settings, target=Target("immediate")) as server:
        recovered = server.start_and_recover(LIMIT)
        with Session(server.connection("postgres")) as session:
            assert session.value("SELECT current_setting('shared_preload_libraries')") == ""
            assert session.value("SELECT current_setting('max_connections')") == "77"
    assert recovered.notes == [
        "pg_cron is left out: it would act on its own",
        "no_such_library is not on this host: started without it",
    ]


def test_a_real_restore_keeps_its_wal_and_gets_its_settings_back(source: Source, place: Place) -> None:
    auto = place.data / "postgresql.auto.conf"
    auto.write_text(auto.read_text() + "restore_command = 'x'\nrecovery_target_time = 'y'\nwork_mem = '5MB'\n")
    for _ in range(2):  # an ended run has put the file aside already
        scratch_server(source, place).prepare()
    with scratch_server(source, place, archive="keep", target=Target("immediate")) as server:
        server.start_and_recover(LIMIT)
        with Session(server.connection("postgres")) as session:
            assert session.value("SELECT current_setting('fsync')") == "on"
        server.stop()
        server.settle_auto_conf()
    ready = {p.name for p in (place.data / "pg_wal/archive_status").glob("*.ready")}
    assert "00000002.history.ready" in ready
    text = auto.read_text()
    assert "obeyed" in text and "5999" in text and "work_mem" in text
    assert "restore_command" not in text and "recovery_target" not in text
    assert not (place.data / "recovery.signal").exists() and not (place.data / backups_scratch.ASIDE).exists()
    assert not (source.archive / "obeyed").exists()


def damaged(server: ScratchServer, place: Place) -> None:
    """Flip a byte in the middle of a page of the table, as a disk would."""
    with Session(server.connection("tracker")) as session:
        session.execute("CHECKPOINT")
        name = session.value("SELECT pg_relation_filepath('public.costs')")
    server.stop()
    with open(place.data / name, "r+b") as file:
        file.seek(8192 + 8000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_a_flipped_byte_is_found_by_checksums_and_by_reading_all_rows(source: Source, place: Place) -> None:
    with scratch_server(source, place, target=Target("immediate")) as server:
        server.start_and_recover(LIMIT)
        damaged(server, place)
        found = server.page_checksums()
        assert found.done and len(found.problems) == 1 and "block 1" in found.problems[0]
        server.prepare()
        (place.data / "recovery.signal").unlink()
        server._start()
        assert server._wait(backups_scratch.time.monotonic() + LIMIT, LIMIT)
        with pytest.raises(ToolError, match="invalid page in block 1"):
            server.dump_to_null("tracker")


def test_a_lost_index_entry_is_found_by_amcheck(scratch: Path, bin_dirs: dict[str, Path], tmp_path: Path) -> None:
    live = Server(bin_dirs["system15"], scratch / "live-amcheck")
    live.create()
    try:
        live.sql("CREATE TABLE public.t AS SELECT i FROM generate_series(1, 1000) i; CREATE INDEX i ON public.t (i)")
        with Place(scratch / "amcheck", live.user) as place:
            live.run("pg_basebackup", "-h", str(live.folder), "-U", "postgres", "-D", str(place.data), "-c", "fast")
            name = live.sql("SELECT pg_relation_filepath('public.t')")[0]
            with open(place.data / name, "r+b") as file:  # no checksums here: the value of a row, not its index entry
                file.seek(8192 - 8)
                file.write(b"\x77\x00\x00\x00")
            with ScratchServer(
                place.data, place.run, Tools(live.user, str(live.bin_dir)), restore_command="false"
            ) as server:
                server.start_and_recover(LIMIT)
                found = server.amcheck(["postgres"])
                server.stop()
                pages = server.page_checksums()
    finally:
        live.stop()
    assert found.done and len(found.problems) == 1 and "lacks matching index tuple" in found.problems[0]
    assert not pages.done and "checksums are off" in pages.notes[0]


def test_links_to_the_live_servers_files_are_refused(source: Source, place: Place) -> None:
    (place.data / "pg_tblspc" / "16999").symlink_to(source.server.folder)
    with pytest.raises(ScratchRefused, match="which may be the live server's"):
        scratch_server(source, place).prepare()
    ScratchServer(
        place.data, place.run, tools(source), restore_command="", tablespace_roots=[source.server.folder.parent]
    ).prepare()


DIES = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from ansible.module_utils.backups_scratch import Place, ScratchServer, Target
from ansible.module_utils.runbook_tools import Tools
import shutil, subprocess
class Detached(Tools):
    def command(self, argv):  # as on a host without setpriv: the server outlives its run
        return [self.path(argv[0]), *argv[1:]]
place = Place(Path({root!r}), {user!r}).__enter__()
place.data.rmdir()
subprocess.run(["cp", "-a", {backup!r}, str(place.data)], check=True)
kind = Detached if sys.argv[1] == "detached" else Tools
server = ScratchServer(place.data, place.run, kind({user!r}, {bin_dir!r}), restore_command="false", target=Target("immediate"))
server.start_and_recover(120)
print(place.folder, server._process.pid, flush=True)
sys.stdin.read()
"""


def killed_run(source: Source, root: Path, how: str) -> tuple[Path, int]:
    """Start a run that has a server, kill it, and return its folder and the server's pid."""
    code = DIES.format(
        tests=str(Path(__file__).resolve().parents[1]),
        root=str(root),
        user=source.server.user,
        backup=str(source.backup),
        bin_dir=str(source.server.bin_dir),
    )
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout and run.stdin
    folder, pid = run.stdout.readline().split()
    assert clean_leftovers(root) == [], "a restore that runs is left alone"
    run.send_signal(signal.SIGKILL)
    run.wait(30)
    run.stdout.close()
    run.stdin.close()
    return Path(folder), int(pid)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists()


def test_a_server_ends_with_its_run(source: Source, scratch: Path, tmp_path: Path) -> None:
    root = scratch / "killed" / tmp_path.name[-8:]
    folder, pid = killed_run(source, root, "attached")
    wait_until(lambda: gone(pid), "the server ended with its run")
    assert clean_leftovers(root) == [f"removed {folder}"]


def test_leftovers_of_a_killed_run_are_ended_and_removed(source: Source, scratch: Path, tmp_path: Path) -> None:
    root = scratch / "left" / tmp_path.name[-8:]
    folder, pid = killed_run(source, root, "detached")
    assert not gone(pid)
    outside = scratch / f"outside-{tmp_path.name[-8:]}"
    outside.mkdir()
    (outside / MARK).write_text(MARK_TEXT)
    (folder / "data" / "way-out").symlink_to(outside)
    (root / "link").symlink_to(outside)
    (root / "somebody's").mkdir()
    (root / "pretends").mkdir()
    (root / "pretends" / MARK).symlink_to(outside / MARK)
    done = clean_leftovers(root)
    assert [line.split(" (")[0] for line in done] == [f"ended a server in {folder}", f"removed {folder}"]
    assert gone(pid) and not folder.exists()
    assert (outside / MARK).exists() and {p.name for p in root.iterdir()} == {MARK, "link", "somebody's", "pretends"}
    assert source.server.sql("SELECT 1") == ["1"], "the live server is not touched"
    (root / MARK).unlink()
    assert clean_leftovers(root) == []


CLEANS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from ansible.module_utils.backups_scratch import clean_leftovers
print(*clean_leftovers(Path({root!r})), sep=chr(10))
"""


def test_root_in_a_container_ends_what_it_may_not_look_into(source: Source, scratch: Path, tmp_path: Path) -> None:
    root = scratch / "contained" / tmp_path.name[-8:]
    folder, pid = killed_run(source, root, "detached")
    code = CLEANS.format(tests=str(Path(__file__).resolve().parents[1]), root=str(root))
    without = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"] if os.geteuid() == 0 else []
    done = subprocess.run([*without, sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert done.splitlines() == [f"ended a server in {folder} (1 processes)", f"removed {folder}"]
    wait_until(lambda: gone(pid), "the server is gone")
    assert source.server.sql("SELECT 1") == ["1"], "the live server is not touched"


def test_a_place_is_made_and_removed(scratch: Path, tmp_path: Path) -> None:
    root = scratch / "places" / tmp_path.name[-8:]
    old = os.umask(0o077)
    try:
        with Place(root, unprivileged_user(), lambda: 0.0) as place:
            assert place.folder == root / "19700101T000000Z"
            assert [p.stat().st_mode & 0o777 for p in (root, place.folder, place.data)] == [0o711, 0o711, 0o700]
            with pytest.raises(ScratchRefused, match="another restore began in this second"):
                Place(root, None, lambda: 0.0).__enter__()
        assert not place.folder.exists()
        refuse_place(root, [], 1)
    finally:
        os.umask(old)


# --- places that are refused


@pytest.fixture
def spot(scratch: Path) -> Iterator[Path]:
    """A folder with a short name."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def refused(root: Path, live: list[Path] | None = None, needed: int = 1, **more: Any) -> str:
    with pytest.raises(ScratchRefused) as told:
        refuse_place(root, live or [], needed, **more)
    return str(told.value)


def test_a_place_in_around_or_at_a_live_data_directory_is_refused(spot: Path) -> None:
    live = spot / "live"
    (live / "base").mkdir(parents=True)
    (spot / "way").symlink_to(live)
    (spot / "live-link").symlink_to(live)
    assert "is the live data directory" in refused(live, [live])
    assert "lies in the live data directory" in refused(live / "base" / "x", [live])
    assert "lies in the live data directory" in refused(spot / "way" / "x", [live])
    assert "lies in the live data directory" in refused(live / "x", [spot / "live-link"])
    assert f"the live data directory {live} lies in {spot}" in refused(spot, [live])
    assert f"is a link to {live}" in refused(spot / "way", [live])
    refuse_place(spot / "live2", [live], 1)


def test_a_place_with_files_of_others_is_refused(spot: Path) -> None:
    (spot / "precious").write_text("x")
    assert f"is not empty and not ours (no {MARK} in it, but precious)" in refused(spot)
    assert "is a file" in refused(spot / "precious")
    (spot / MARK).write_text("not our text")
    assert "is not empty and not ours" in refused(spot)
    (spot / MARK).write_text(MARK_TEXT)
    refuse_place(spot, [], 1)


def test_a_full_disk_and_a_long_name_are_refused(spot: Path) -> None:
    told = refused(spot, needed=1000 * 2**20, free_bytes=lambda _: 1199 * 2**20)
    assert "has 1.2 GiB free; restoring 1000.0 MiB needs 1.2 GiB" in told
    refuse_place(spot, [], 1000 * 2**20, free_bytes=lambda _: 1200 * 2**20)
    assert "lies" not in refused(spot, needed=2**62) and "TiB" in refused(spot, needed=2**62)
    room = 107 - len("/" + backups_scratch.LONGEST_SOCKET) - len("/tmp/")
    refuse_place(Path("/tmp") / ("x" * room), [], 1)
    assert "108 bytes, and 107 is the most" in refused(Path("/tmp") / ("x" * (room + 1)))
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match=r"No such file"):
        one.bind(f"/tmp/{'x' * room}/{backups_scratch.LONGEST_SOCKET}")
    assert "does not begin with /" in refused(Path("here"))


def test_a_place_of_another_user_is_refused(spot: Path) -> None:
    if os.geteuid() != 0:
        assert "is not writable" in refused(Path("/proc/x"))
        return
    theirs = spot / "theirs"
    theirs.mkdir()
    own(theirs)
    assert "belongs to user" in refused(theirs)
    closed = spot / "closed"
    closed.mkdir(mode=0o700)
    assert "cannot get into" in refused(closed / "x", os_user=unprivileged_user())
    assert "does not exist on this host" in refused(spot / "x", os_user="nobody-at-all")


# --- targets


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("moment", "x", "kind is 'moment'"),
        ("latest", "x", "latest has value"),
        ("name", "", "name has value ''"),
        ("time", "2026-01-01T00:00:00", "has no time zone"),
        ("lsn", "300", "is no LSN"),
        ("xid", "x", "is no number"),
    ],
)
def test_targets_that_mean_nothing_are_refused(kind: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Target(kind, value)


def test_settings_are_quoted() -> None:
    lines = settings_lines(Target("name", "it's"), "cp 'a\\b' %p", "off", "current")
    assert "restore_command = 'cp ''a\\\\b'' %p'" in lines and "recovery_target_name = 'it''s'" in lines
    assert "recovery_target_timeline = 'current'" in lines and "archive_mode = off" in lines
    assert "recovery_target = 'immediate'" in settings_lines(Target("immediate"), "x", "keep")
    with pytest.raises(ValueError, match="one line"):
        settings_lines(Target(), "a\nb", "off")
    with pytest.raises(ValueError, match="off or keep"):
        settings_lines(Target(), "a", "on")


def test_segments_follow_each_other_over_a_log_file() -> None:
    assert next_segment("00000001000000000000000F", 16 << 20) == "000000010000000000000010"
    assert next_segment("0000000100000000000000FF", 16 << 20) == "000000010000000100000000"
    assert next_segment("000000020000000A00000003", 1 << 30) == "000000020000000B00000000"
