"""The database maintenance against the bare tools, on copies of one worn cluster."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
from ansible.module_utils.database_planner import Limits
from ansible.module_utils.database_work import Job, Maintenance
from support.postgres import Server

from bench.measure import Figure, Writer, percentile, timed

ROOT = Path(__file__).resolve().parents[2]
SQL = ROOT / "roles/sandbox/files/sql"
# Recycled WAL files, as on a server that has been up for a while.
SETTINGS = "shared_buffers = 512MB\nmin_wal_size = 2GB\nmax_wal_size = 4GB\nmaintenance_work_mem = 128MB"
RETENTION = [
    {"table": "llm_usage_logs", "time_column": "timestamp", "keep_days": 90},
    {"table": "llm_metrics", "time_column": "timestamp", "keep_days": 90},
    {"table": "spans", "time_column": "start_time", "keep_days": 90},
]
IDLE_SECONDS = 10
# What "all of it is due" means: every index a quarter full, a third of every table's rows dead.
ALL_DUE = """
DO $$
DECLARE i record;
BEGIN
  FOR i IN SELECT indexrelid::regclass AS name FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
            WHERE c.relnamespace = 'public'::regnamespace AND indisvalid LOOP
    EXECUTE format('ALTER INDEX %s SET (fillfactor = 25)', i.name);
    EXECUTE format('REINDEX INDEX %s', i.name);
    EXECUTE format('ALTER INDEX %s RESET (fillfactor)', i.name);
  END LOOP;
END $$;
UPDATE llm_usage_logs SET latency_ms = latency_ms + 1 WHERE id % 3 = 0;
UPDATE spans SET duration_ms = duration_ms + 1 WHERE hashtext(span_id) % 3 = 0;
UPDATE llm_metrics SET latency_ms = latency_ms + 1 WHERE hashtext(span_id) % 3 = 0;
"""


class Cluster:
    """A server made from a stopped one's files: data, wear and counters are the same for every contender."""

    def __init__(self, bin_dir: Path, folder: Path) -> None:
        self.server = Server(bin_dir, folder, SETTINGS)

    def copy(self, folder: Path) -> Cluster:
        made = Cluster(self.server.bin_dir, folder)
        subprocess.run(["cp", "-a", "--reflink=auto", str(self.server.data), str(made.server.data)], check=True)
        configuration = made.server.data / "postgresql.conf"
        configuration.write_text(configuration.read_text().replace(str(self.server.folder), str(folder)))
        os.sync()  # what the copy left to be written would be measured as the server's
        made.server.start()
        self.warm(made)
        return made

    @staticmethod
    def warm(cluster: Cluster) -> None:
        cluster.query(
            "CHECKPOINT; SELECT count(*) FROM llm_usage_logs; SELECT count(*) FROM spans; SELECT count(*) FROM llm_metrics"
        )

    def remove(self) -> None:
        self.server.stop()
        shutil.rmtree(self.server.folder)

    @property
    def conninfo(self) -> str:
        return f"host={self.server.folder} user=postgres dbname=bench"

    def query(self, sql: str) -> list[str]:
        return self.server.sql(sql, "bench")

    def tool(self, name: str, *arguments: str) -> None:
        self.server.run(name, "-h", str(self.server.folder), "-U", "postgres", *arguments, "bench")

    def job(self, **fields: Any) -> Job:
        job = Job(self.server.connection("bench"), Limits(), self.server.folder / "memory", jobs=2)
        return dataclasses.replace(job, **fields)

    def state(self) -> tuple[int, int]:
        """Return bytes and dead rows of the database."""
        numbers = self.query(
            "SELECT pg_database_size('bench'); SELECT pg_stat_clear_snapshot(); SELECT sum(n_dead_tup) FROM pg_stat_user_tables"
        )
        return int(numbers[0]), int(numbers[-1])


def build(bin_dir: Path, folder: Path, scale: float) -> Cluster:
    """Make and wear out the cluster that the contenders copy, and stop it."""
    cluster = Cluster(bin_dir, folder)
    cluster.server.create()
    cluster.server.sql("CREATE ROLE tracker LOGIN; CREATE DATABASE bench")
    cluster.server.sql(f"ALTER DATABASE bench SET sandbox.scale = {scale}; ALTER DATABASE bench SET timezone = 'UTC'")
    for name in ("schema", "seed", "indexes", "settle", "wear"):
        cluster.query((SQL / f"{name}.sql").read_text())
    cluster.server.run("pg_ctl", "-D", str(cluster.server.data), "-m", "fast", "-w", "stop")
    return cluster


def retention(base: Cluster, scratch: Path) -> list[Figure]:
    """Rows per second, and what a writer feels, against one plain DELETE per table."""
    ours, other = base.copy(scratch / "ours"), base.copy(scratch / "other")
    with Writer(ours.conninfo) as idle:
        time.sleep(IDLE_SECONDS)  # the measurement itself: a writer left alone for ten seconds
    with Writer(ours.conninfo) as during, Maintenance(ours.job(retention=RETENTION)) as maintenance:
        started = time.perf_counter()
        result = maintenance.retention()
        seconds = time.perf_counter() - started
    rows = sum(a["before"] - a["after"] for a in result.actions)
    cutoffs = "now()::date - 90"
    plain = (
        f"DELETE FROM llm_usage_logs WHERE timestamp < {cutoffs}; DELETE FROM llm_metrics WHERE timestamp < {cutoffs};"
        f" DELETE FROM spans s WHERE start_time < {cutoffs} AND NOT EXISTS (SELECT FROM llm_metrics m WHERE m.span_id = s.span_id)"
    )
    with Writer(other.conninfo) as plain_writer:
        plain_seconds = timed(lambda: other.query(plain))
    left = [c.query("SELECT count(*) FROM llm_usage_logs WHERE application_name <> 'bench'")[0] for c in (ours, other)]
    assert left[0] == left[1], f"rows left: {left}"
    calm, felt, plain_felt = (percentile(w.latencies, 99) * 1000 for w in (idle, during, plain_writer))
    ours.remove(), other.remove()
    return [
        Figure(
            f"retention, {rows:,} rows",
            f"{rows / seconds:,.0f} rows/s",
            f"plain DELETE {rows / plain_seconds:,.0f} rows/s",
            f"{plain_seconds / seconds:.2f}",
            ">= 50,000 rows/s",
            rows / seconds >= 50_000,
        ),
        Figure(
            "p99 of a 50 tps writer during it",
            f"{felt:.1f} ms",
            f"idle {calm:.1f} ms (plain DELETE {plain_felt:.1f} ms)",
            f"{felt / calm:.2f}",
            "<= 1.5 x idle",
            felt <= 1.5 * calm,
        ),
    ]


def vacuum_and_indexes(base: Cluster, scratch: Path, all_due: bool) -> list[Figure]:
    """Time, dead rows and bytes against vacuumdb and reindexdb of the whole database."""
    ours, other = base.copy(scratch / "ours"), base.copy(scratch / "other")
    if all_due:
        for cluster in (ours, other):
            cluster.query(ALL_DUE)
            cluster.query("CHECKPOINT")
    before = ours.state()

    def maintain() -> None:
        for step in ("vacuum", "indexes"):
            with Maintenance(ours.job()) as maintenance:
                result = getattr(maintenance, step)()
                assert {a["result"] for a in result.actions} <= {"done"}, result.actions

    def bare() -> None:
        other.tool("vacuumdb", "-j2", "--analyze")
        other.tool("reindexdb", "--concurrently", "-j2")

    seconds, bare_seconds = timed(maintain), timed(bare)
    after, bare_after = ours.state(), other.state()
    freed, bare_freed = before[0] - after[0], before[0] - bare_after[0]
    ours.remove(), other.remove()
    word, most = ("all of it due", 1.05) if all_due else ("part of it due", 0.5)
    return [
        Figure(
            f"vacuum and reindex, {word}",
            f"{seconds:.1f} s",
            f"vacuumdb, reindexdb {bare_seconds:.1f} s",
            f"{seconds / bare_seconds:.2f}",
            f"<= {most}",
            seconds <= most * bare_seconds,
        ),
        Figure(
            f"bytes freed, {word}",
            f"{freed / 2**20:,.0f} MiB",
            f"{bare_freed / 2**20:,.0f} MiB",
            f"{freed / bare_freed:.3f}",
            ">= 0.95",
            freed >= 0.95 * bare_freed,
        ),
        Figure(
            f"dead rows left, {word}",
            f"{after[1]:,} of {before[1]:,}",
            f"{bare_after[1]:,}",
            "-",
            "below every table's own limit",
            after[1] <= bare_after[1] + 0.2 * before[1],
        ),
    ]


def blocked_writer(base: Cluster, scratch: Path) -> list[Figure]:
    """The longest time a writer waited during a whole run."""
    ours = base.copy(scratch / "ours")
    with Writer(ours.conninfo) as writer:
        for step in ("retention", "redact", "views", "vacuum", "indexes"):
            with Maintenance(ours.job(retention=RETENTION)) as maintenance:
                getattr(maintenance, step)()
    longest = max(writer.latencies)
    with psycopg.connect(ours.conninfo) as connection:
        written = connection.execute("SELECT count(*) FROM llm_usage_logs WHERE application_name = 'bench'").fetchone()
    assert written and written[0] == len(writer.latencies)
    ours.remove()
    return [Figure("longest wait of a writer in a whole run", f"{longest:.2f} s", "-", "-", "< 1.5 s", longest < 1.5)]
