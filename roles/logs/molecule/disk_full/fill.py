# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Fills the small disk: numbered lines in logs, a deleted log that a unit holds, a ballast file, a cache, data, the rest."""

import base64
import contextlib
import gzip
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

MIB = 1 << 20
SMALL = Path("/srv/small")
NGINX = Path("/var/log/nginx")
NOW = time.time()
DAY = 86400


def numbered(first: int, count: int, payload: int = 0) -> bytes:
    """Return lines with numbers; a random payload keeps them from becoming small."""
    more = [base64.b64encode(os.urandom(payload)).decode() if payload else "-" * 60 for _ in range(count)]
    return "".join(f"number {first + n} {more[n]}\n" for n in range(count)).encode()


def aged(path: Path, data: bytes, days: int) -> None:
    path.write_bytes(data)
    subprocess.run(["chown", "www-data:adm", str(path)], check=True)
    path.chmod(0o640)
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))


# 60 days old and past its retention, two rotated and uncompressed, and what the live file says.
aged(NGINX / "access.log-20260901-1788220800.gz", gzip.compress(numbered(0, 8_000, 300)), 60)
aged(NGINX / "access.log-20261101-1793491200", numbered(8_000, 42_000), 3)
aged(NGINX / "access.log-20261102-1793577600", numbered(50_000, 42_000), 2)
with (NGINX / "access.log").open("ab") as file:
    file.write(numbered(92_000, 100))

held = Path("/var/log/llm-cost-tracker/held.log")
held.parent.mkdir(exist_ok=True)
held.write_bytes(numbered(100_000, 80_000, 60))
subprocess.run(
    ["systemd-run", "--unit=holder", "sh", "-c", f"exec 3>>{held}; echo ready >/run/holder; exec sleep infinity"],
    check=True,
)
while not Path("/run/holder").exists():
    time.sleep(0.1)
held.unlink()

(SMALL / "tracker" / "ballast").write_bytes(b"\0" * 4 * MIB)
(SMALL / "cache" / "apt" / "package.deb").write_bytes(os.urandom(4 * MIB))
data = [SMALL / "pg" / "main" / "PG_VERSION", SMALL / "pg" / "main" / "pg_wal" / "000000010000000000000001",
        SMALL / "pg" / "main" / "old.log.1", SMALL / "redis" / "dump.rdb", SMALL / "grafana" / "grafana.db"]  # fmt: skip
for path in data:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(MIB))
    os.utime(path, (NOW - 400 * DAY, NOW - 400 * DAY))
sums = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in data}
Path("/root/protected.json").write_text(json.dumps(sums))

for size in (MIB, 4096, 1):
    with (SMALL / "rest").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(size))
