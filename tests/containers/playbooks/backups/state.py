"""Print what a check may not change, a line each: files of repositories and memory, settings, the server and its rows."""

import hashlib
import os
import subprocess
import sys

ROOTS = ["/var/backups/llm-cost-tracker", "/etc/pgbackrest", "/var/lib/runbooks", "/var/lib/grafana", "/etc/llm-cost-tracker"]
# What every run writes of itself, and what the server archives whenever it likes.
OWN = tuple(f"/var/lib/runbooks/{name}" for name in ("evidence", "leases", "last", "cache", "scratch"))
WAL = ("/postgresql/archive/", "/postgresql/wal/")
SERVER = """
SELECT pg_postmaster_start_time(), timeline_id, redo_wal_file IS NOT NULL FROM pg_control_checkpoint();
SELECT name, setting FROM pg_settings WHERE name ~ '^(archive|wal_level|summarize_wal)' ORDER BY name;
SELECT name, setting FROM pg_file_settings ORDER BY sourcefile, name;
SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname;
SELECT slot_name FROM pg_replication_slots;
"""


def lines():
    for root in ROOTS:
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if path.startswith(OWN) or any(part in path for part in WAL) or "/locks/" in path:
                    continue
                seen = os.lstat(path)
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                # Memory is written anew by each run that is no check, with the same content.
                written = 0 if path.startswith("/var/lib/runbooks") else seen.st_mtime_ns
                yield f"{path} {seen.st_size} {written} {seen.st_uid} {oct(seen.st_mode)} {digest}"
    yield subprocess.run(["redis-cli", "KEYS", "*"], capture_output=True, text=True, check=True).stdout.replace("\n", " ")
    for name in ("llm_metrics", "postgres"):
        command = ["runuser", "-u", "postgres", "--", "psql", "-XAt", "-v", "ON_ERROR_STOP=1", "-d", name, "-c", SERVER]
        yield subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout


sys.stdout.write("\n".join(sorted(lines())))
