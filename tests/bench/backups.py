"""Backups and drills against the bare tools and borgmatic, over one database and its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.backups_drill import Drill
from ansible.module_utils.backups_pgbackrest import PgBackRest
from ansible.module_utils.backups_planner import Limits
from ansible.module_utils.backups_work import Backups
from ansible.module_utils.runbook_restic import pack_bytes
from ansible.module_utils.runbook_result import action
from support.backups import DATABASE, Lab

from bench.measure import Figure, Writer, percentile, timed

SQL = Path(__file__).resolve().parents[2] / "roles/sandbox/files/sql"
SETTINGS = "shared_buffers = 512MB\nmin_wal_size = 2GB\nmax_wal_size = 4GB\nmaintenance_work_mem = 128MB"
IDLE_SECONDS = 20
FILES_BYTES = 200_000_000
MB = 1e6
# 1 % more rows, as a day or two bring them: copies of the newest ones.
DAY = """
INSERT INTO llm_usage_logs (trace_id, span_id, timestamp, application_name, user_id, model_name, provider, input_tokens,
  output_tokens, total_cost_usd, latency_ms, prompt_text, response_text)
SELECT md5(id::text), span_id, now(), application_name, user_id, model_name, provider, input_tokens, output_tokens,
  total_cost_usd, latency_ms, prompt_text, response_text
FROM llm_usage_logs ORDER BY id DESC LIMIT (SELECT count(*) / 100 FROM llm_usage_logs)
"""
BORGMATIC = """
source_directories: [{files}]
repositories: [{{path: {repository}, label: bench}}]
encryption_passphrase: bench-passphrase
compression: zstd,3
borg_base_directory: {home}
postgresql_databases:
    # The label stands for the socket folder in names of files.
    - {{name: {database}, hostname: {socket}, label: bench, username: postgres, format: custom, compression: 0}}
"""


def build(bin_dir: Path, folder: Path, scale: float, engine: str) -> Lab:
    """Make a host with the tracker's data and files that do not compress."""
    lab = Lab(folder, bin_dir, engine, settings=SETTINGS, limits=Limits(verify_max_age_hours=9999))
    for parent in [folder, *folder.parents]:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o711)
    lab.server.create()
    lab.server.sql(f"CREATE ROLE tracker LOGIN; CREATE DATABASE {DATABASE}")
    lab.server.sql(f"ALTER DATABASE {DATABASE} SET sandbox.scale = {scale}; ALTER DATABASE {DATABASE} SET timezone = 'UTC'")
    for name in ("schema", "seed", "indexes", "settle"):
        lab.server.sql((SQL / f"{name}.sql").read_text(), DATABASE)
    (lab.files / "models.bin").write_bytes(os.urandom(FILES_BYTES))
    lab.step("repositories")
    return lab


def calm(lab: Lab) -> None:
    """Begin every contest from the same state: nothing to write, everything in memory."""
    lab.server.sql("CHECKPOINT")
    os.sync()
    subprocess.run(["cat", *(str(p) for p in lab.server.data.rglob("*") if p.is_file())], stdout=subprocess.DEVNULL, check=False)


def bare(lab: Lab, *words: str, **how: Any) -> None:
    lab.job.tools().run(list(words), **how)


def against_pgbackrest(lab: Lab) -> Figure:
    """A full backup through the driver, and the same command bare, with the same configuration, in turn."""
    engine = lab.work().surveyor.engine()
    server = lab.work().surveyor.server()
    assert isinstance(engine, PgBackRest)
    command = ["pgbackrest", f"--config={lab.job.config}", "--stanza=main", "backup", "--type=full", "--no-expire-auto"]
    ours, other = [], []
    for _ in range(2):
        calm(lab)
        ours.append(timed(lambda: engine.backup("full", server)))
        calm(lab)
        other.append(timed(lambda: bare(lab, *command)))
    return within("full backup with pgbackrest, against bare `pgbackrest backup`", min(ours), min(other), 1.05)


def against_basebackup(lab: Lab) -> Figure:
    """A full backup through the driver, and pg_basebackup with pg_verifybackup bare, in turn."""
    engine, server = lab.work().surveyor.engine(), lab.work().surveyor.server()
    target = lab.server.folder / "bare"
    ours, other = [], []

    def alone() -> None:
        bare(lab, "pg_basebackup", "-D", str(target), "-d", lab.job.connection.conninfo(), "--checkpoint=fast",
             "--manifest-checksums=SHA256")  # fmt: skip
        bare(lab, "pg_verifybackup", "--quiet", "--no-parse-wal", str(target))
        os.sync()

    for _ in range(2):
        calm(lab)
        ours.append(timed(lambda: engine.backup("full", server)))
        calm(lab)
        other.append(timed(alone))
        shutil.rmtree(target)
    return within("full backup with basebackup, against bare `pg_basebackup` and `pg_verifybackup`", min(ours), min(other), 1.05)


def within(what: str, ours: float, other: float, bound: float) -> Figure:
    return Figure(what, f"{ours:.1f} s", f"{other:.1f} s", f"{ours / other:.2f}", f"<= {bound}", ours / other <= bound)


def sets_against_borgmatic(lab: Lab, scratch: Path) -> list[Figure]:
    """A full set and one after 1 % of the rows changed, against borgmatic: its PostgreSQL hook and files into borg."""
    config, home = scratch / "borgmatic.yaml", scratch / "borg-home"
    repository = scratch / "borg"
    config.write_text(BORGMATIC.format(files=lab.files, repository=repository, home=home, database=DATABASE, socket=lab.server.folder))
    environment = {"PATH": f"{lab.job.bin_dir}:{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home),
                   "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}  # fmt: skip
    home.mkdir()

    def borgmatic(*words: str) -> None:
        done = subprocess.run([str(Path(sys.executable).with_name("borgmatic")), "-c", str(config), *words],
                              env=environment, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    borgmatic("repo-create", "--encryption", "repokey-blake2")
    calm(lab)
    ours_full = timed(lambda: lab.work().take("full", action("set", "full set", "bench")))
    calm(lab)
    other_full = timed(lambda: borgmatic("create"))
    calm(lab)
    before = _repository_bytes(lab)
    lab.server.sql(DAY, DATABASE)
    by_wal = timed(lambda: lab.work().take("wal", action("set", "set of WAL and files", "bench")))
    wal_bytes = _repository_bytes(lab) - before  # the WAL of the change too, also what was archived before
    before = _repository_bytes(lab)
    calm(lab)
    by_files = timed(lambda: lab.work().take("incr", action("set", "incremental set", "bench")))
    files_bytes = _repository_bytes(lab) - before
    calm(lab)
    other_next = timed(lambda: borgmatic("create"))
    dump = lab.server.folder / "dump"
    bare(lab, "pg_dump", "-h", str(lab.server.folder), "-U", "postgres", "-Fc", "-Z1", "-f", str(dump), DATABASE)
    other_bytes = dump.stat().st_size
    dump.unlink()
    full = Figure("full set, against borgmatic with borg", f"{ours_full:.1f} s", f"{other_full:.1f} s",
                  f"{ours_full / other_full:.2f}", "< 1", ours_full < other_full)  # fmt: skip
    after = "after 1 % more usage rows"
    return [
        full,
        smaller(f"set that goes on by WAL {after}, against a dump (gzip 1)", wal_bytes, other_bytes),
        faster(f"set that goes on by WAL {after}, against borgmatic", by_wal, other_next),
        smaller(f"incremental set {after}, against a dump (gzip 1)", files_bytes, other_bytes),
        faster(f"incremental set {after}, against borgmatic", by_files, other_next),
    ]


def smaller(what: str, ours: float, other: float) -> Figure:
    return Figure(what, f"{ours / MB:.0f} MB", f"{other / MB:.0f} MB", f"{other / ours:.1f} x smaller", ">= 5 x", other / ours >= 5)


def faster(what: str, ours: float, other: float) -> Figure:
    return Figure(what, f"{ours:.1f} s", f"{other:.1f} s", f"{other / ours:.1f} x faster", ">= 5 x", other / ours >= 5)


def _repository_bytes(lab: Lab) -> int:
    database = sum(p.stat().st_size for p in Path(lab.job.repository).rglob("*") if p.is_file())
    return database + pack_bytes(lab.job.files_repository)


def drill(lab: Lab) -> list[Figure]:
    """How fast the newest set is restored and proven, and what the time goes to."""
    work = Backups(lab.but(now=lambda: time.time() + 8 * 86400, limits=Limits(full_max_age_hours=9999, diff_max_age_hours=9999)).job)
    Drill(work, lab.job.state_dir / "evidence" / "bench").run()
    record = lab.last_drill()
    assert record["result"] == "passed", record["problems"]
    whole = sum(record["phases"].values())
    share = ", ".join(f"{name} {100 * seconds / whole:.0f} %" for name, seconds in record["phases"].items() if seconds > whole / 100)
    told = f"{record['bytes'] / 1e9:.1f} GB, RTO {record['rto_seconds']:.0f} s, proven in {whole:.0f} s"
    return [Figure("restore drill", told, share, f"{record['mb_per_second']:.0f} MB/s", "-", True)]


def calm_writer(lab: Lab) -> Figure:
    """p99 of a writer of 50 transactions a second during a full backup at the default politeness, against idle."""
    lab = lab.but(nice=10)
    conninfo = f"host={lab.server.folder} user=postgres dbname={DATABASE}"
    with Writer(conninfo) as idle:
        time.sleep(IDLE_SECONDS)
    engine, server = lab.work().surveyor.engine(), lab.work().surveyor.server()
    with Writer(conninfo) as busy:
        engine.backup("full", server)
    ours, other = percentile(busy.latencies, 99), percentile(idle.latencies, 99)
    return Figure("p99 of a writer during a full backup, against idle", f"{ours * 1000:.1f} ms", f"{other * 1000:.1f} ms",
                  f"{ours / other:.1f}", "<= 1.5", ours / other <= 1.5)  # fmt: skip


def backups(bin_dir: Path, scratch: Path, scale: float) -> list[Figure]:
    """Return all figures. It takes room for about six times the data."""
    lab = build(bin_dir, scratch / "b", scale, "pgbackrest")
    try:
        figures = [against_pgbackrest(lab), *sets_against_borgmatic(lab, scratch), *drill(lab), calm_writer(lab)]
        own = Lab.__new__(Lab)
        own.__dict__.update(lab.__dict__)
        own.job = lab.but(engine="basebackup", repository=str(lab.folder / "own" / "postgresql"),
                          repository_path=str(lab.folder / "own" / "postgresql"), config_text="", takeover=True).job  # fmt: skip
        own.step("repositories")
        figures.insert(1, against_basebackup(own))
    finally:
        lab.stop()
    return figures
