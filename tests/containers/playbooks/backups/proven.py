"""Prove the newest set with the tools of others: what it says of itself is compared with what is there.

RESTIC_PASSWORD is the passphrase, RESTIC_REPOSITORY the repository of files.
"""

import grp
import hashlib
import json
import os
import pwd
import subprocess
from pathlib import Path

CONFIG = "/etc/pgbackrest/llm-cost-tracker.conf"
ROOT = Path("/var/backups/llm-cost-tracker")
REPOSITORY = ROOT / "postgresql"
FILES = ["/etc/llm-cost-tracker/app.env", "/etc/nginx/nginx.conf", "/etc/systemd/system/llm-cost-tracker.service",
         "/etc/ssl/certs/tracker.crt", "/etc/ssl/private/tracker.key"]  # fmt: skip
COUNTS = "SELECT format('SELECT %L, count(*) FROM %s', relname, oid::regclass) FROM pg_class" \
         " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"  # fmt: skip


def out(*argv, **how):
    return subprocess.run(argv, capture_output=True, check=True, cwd="/", **how).stdout


def postgres(*argv):
    return out("runuser", "-u", "postgres", "--", *argv).decode()


def psql(query):
    return [line.split("|") for line in postgres("psql", "-XAt", "-d", "llm_metrics", "-c", query).splitlines()]


def manifest():
    newest = json.loads(out("restic", "snapshots", "--json", "--no-lock", "--tag=runbooks-manifest"))[-1]
    text = json.loads(out("restic", "dump", "--no-lock", newest["id"], "/manifest.json"))
    bare = {name: value for name, value in text.items() if name != "sha256"}
    seal = hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert seal == text["sha256"], "the seal of the manifest in the repository is broken"
    copy = json.loads(Path(f"/var/lib/runbooks/backups/sets/{text['set']}/manifest.json").read_text())
    assert copy == text, "the copy of the manifest is another one"
    return text


def prove_backup(said):
    info = json.loads(postgres("pgbackrest", f"--config={CONFIG}", "--stanza=llm_metrics", "--output=json", "info"))[0]
    newest = info["backup"][-1]
    assert info["status"]["code"] == 0 and info["cipher"] == "aes-256-cbc", info["status"]
    assert (newest["label"], newest["type"]) == (said["database"]["label"], said["kind"]), newest
    assert not newest["error"], newest


def prove_figures(said):
    figures = said["database"]["figures"]
    for (query,) in psql(COUNTS):
        ((name, count),) = psql(query)
        assert figures["tables"][f"public.{name}"] == int(count), (name, count, figures["tables"])
    for name, value in psql("SELECT schemaname || '.' || sequencename, coalesce(last_value, 0) FROM pg_sequences"):
        assert name in str(figures["sequences"]) and value in str(figures["sequences"]), (name, value)


def prove_files(said):
    rows = [json.loads(line) for line in out("restic", "ls", "--json", "--no-lock", said["snapshot"]).splitlines()]
    found = {row["path"]: row for row in rows[1:]}
    for path in FILES:
        real, saved = os.stat(path), found[path]
        assert (saved["uid"], saved["gid"]) == (real.st_uid, real.st_gid), (path, saved)
        assert saved["mode"] & 0o7777 == real.st_mode & 0o7777, (path, saved)
        # restic has no way round its encryption, so what it gives back is what it kept.
        assert out("restic", "dump", "--no-lock", said["snapshot"], path) == Path(path).read_bytes(), path
    owner = os.stat("/etc/llm-cost-tracker/app.env")
    assert (pwd.getpwuid(owner.st_uid).pw_name, grp.getgrgid(owner.st_gid).gr_name) == ("tracker", "root")
    assert {"redis.rdb", "grafana.db"} <= {os.path.basename(path) for path in found}, sorted(found)


def prove_encryption():
    plain = [path for path in REPOSITORY.rglob("*") if path.is_file() and path.read_bytes()[:8] != b"Salted__"]
    assert not plain and any(REPOSITORY.rglob("backup.manifest")), plain
    # Whoever has the passphrase reads it without pgbackrest; whoever has another one does not.
    head = next(REPOSITORY.rglob("backup.info"))
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-md", "sha1", "-pass", "env:PASS", "-in", str(head)]
    opened = out(*command, env={**os.environ, "PASS": os.environ["RESTIC_PASSWORD"]})
    assert opened.startswith(b"[backrest]"), opened[:80]
    wrong = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PASS": "another-passphrase"}).stdout
    assert b"backrest" not in wrong, "any passphrase opens it"
    for path in filter(Path.is_file, ROOT.rglob("*")):
        content = path.read_bytes()
        assert not [word for word in (b"DATABASE_URL", b"PRIVATE KEY", b"SQLite format", b"gpt-4o") if word in content], path
    denied = subprocess.run(["restic", "snapshots", "--no-lock"], capture_output=True, text=True, check=False,
                            env={**os.environ, "RESTIC_PASSWORD": "another-passphrase"})  # fmt: skip
    assert denied.returncode != 0 and "wrong password" in denied.stderr, denied


set_of_now = manifest()
if os.path.exists(REPOSITORY):
    prove_encryption()
prove_backup(set_of_now)
prove_figures(set_of_now)
prove_files(set_of_now)
