"""Run all benchmarks, print their figures, and write docs/benchmarks.md."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]
import conftest  # noqa: E402, F401 - makes the roles' module_utils importable
from support.postgres import installations  # noqa: E402

from bench import backups, certificates, database, incident, listener, logs, wrapper  # noqa: E402 - after the path above
from bench.measure import Figure, machine  # noqa: E402

SCALE = 5
BACKUP_SCALE = 25  # about 4 GB


def measure(scratch: Path) -> list[Figure]:
    found = installations(scratch)
    name, bin_dir = next((n, b) for n, b in found.items() if n.startswith("system"))
    figures: list[Figure] = []
    print(f"building a worn database at scale {SCALE} on {name}", file=sys.stderr)
    base = database.build(bin_dir, scratch / "base", SCALE)
    for bench in (
        lambda: database.retention(base, scratch),
        lambda: database.vacuum_and_indexes(base, scratch, all_due=False),
        lambda: database.vacuum_and_indexes(base, scratch, all_due=True),
        lambda: database.blocked_writer(base, scratch),
        lambda: backups.backups(bin_dir, scratch / "backups", BACKUP_SCALE),
        lambda: wrapper.overhead(scratch),
        lambda: incident.incidents(scratch),
        lambda: listener.intake(scratch),
        lambda: logs.scan_throughput(scratch),
        lambda: logs.rotation(scratch),
        lambda: logs.steady(scratch),
        lambda: certificates.unnoticed(scratch),
        lambda: certificates.renewal(scratch),
        lambda: certificates.steady(scratch),
    ):
        for figure in bench():
            figures.append(figure)
            print(
                f"{'met' if figure.met else 'MISSED':7}{figure.what}: {figure.ours} / {figure.other} = {figure.ratio} ({figure.bound})"
            )
    return figures


def page(figures: list[Figure]) -> str:
    rows = "\n".join(
        f"| {f.what} | {f.ours} | {f.other} | {f.ratio} | {f.bound} | {'yes' if f.met else '**no**'} |" for f in figures
    )
    described = "\n".join(f"- {line}" for line in machine())
    return f"""# Benchmarks

Measured by `make bench` on {time.strftime("%Y-%m-%d", time.gmtime())}; all figures of a line come from one run on
one machine. Ratios travel, seconds do not.

{described}
- Backups at scale {BACKUP_SCALE}, and 200 MB of files; both contenders from a warm cache, the best of two rounds
- Database at scale {SCALE}: {SCALE * 200_000:,} usage rows with text, {SCALE * 60_000:,} spans and metrics, 180 days, worn

| What | Ours | Against | Ratio | Bound | Met |
|---|---|---|---|---|---|
{rows}

Vacuum and reindex run as the steps do, against `vacuumdb -j2 --analyze` and `reindexdb --concurrently -j2` of the whole
database on a copy of the same files. The writer inserts one row with text per transaction and commits, 50 times a second.
On two cores a busy neighbour alone doubles its p99; `database_batch_pause_percent` trades speed for calm.
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        figures = measure(Path(folder))
    (ROOT / "docs/benchmarks.md").write_text(page(figures), encoding="utf-8")
    return 0 if all(f.met for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
