"""The sandbox end to end: worn, healed, repaired and worn again, backed up and restored, removed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.sandbox import outside_dir

REPOSITORY = Path(__file__).parents[2]
SCALE = "0.02"

# In one worker: they share a sandbox, and look at it in this order.
pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("sandbox")]


@dataclass
class Run:
    code: int
    changed: int
    output: str


class Sandbox:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder.with_name("records")
        self.first_rows = ""

    def run(self, state: str, *arguments: str, code: int = 0) -> Run:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "playbooks/sandbox.yml",
                "--inventory=inventories/sandbox",
                f"--extra-vars=sandbox_state={state}",
                *arguments,
            ],
            cwd=REPOSITORY,
            env={**os.environ, "RUNBOOK_SANDBOX_DIR": str(self.folder), "ANSIBLE_FORCE_COLOR": "0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        changed = re.search(r"changed=(\d+)", done.stdout)
        return Run(done.returncode, int(changed.group(1)) if changed else 0, done.stdout + done.stderr)

    def command(self, *arguments: str, code: int = 0) -> str:
        """Return what the command `runbook` prints on stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "runbook", *arguments],
            cwd="/",
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY / "wrapper"),
                "RUNBOOK_PROJECT": str(REPOSITORY),
                "RUNBOOK_SANDBOX_DIR": str(self.folder),
                "RUNBOOK_STATE_DIR": str(self.records),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def runbook(self, slug: str, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Carry out a runbook and return its record."""
        inventory = str(REPOSITORY / "inventories" / "sandbox")
        return json.loads(self.command("run", slug, "-i", inventory, "--json", *arguments, code=code))

    @property
    def record(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "sandbox.yml").read_text())

    def query(self, statement: str) -> str:
        record = self.record
        return subprocess.run(
            [
                f"{record['postgres_bin_dir']}/psql",
                f"--host={record['database_socket_dir']}",
                f"--port={record['database_port']}",
                "--username=postgres",
                f"--dbname={record['database']}",
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                f"--command={statement}",
            ],
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def ask(self, path: str, body: Any = None) -> Any:
        trust = ssl.create_default_context(cafile=self.record["app_ca_file"])
        data = None if body is None else json.dumps(body).encode()
        url = self.record["app_url"] + path
        with urllib.request.urlopen(url, data, timeout=10, context=trust) as answer:  # noqa: S310 - always https
            return json.load(answer)

    def processes(self) -> list[int]:
        """Return what has one of the sandbox's folders in its command line: not how the role finds them."""
        folders = [str(self.folder)] + ([self.record["data_dir"]] if self.folder.exists() else [])
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it ended in the meantime
                command = entry.read_text(errors="replace")
                if any(folder in command for folder in folders):
                    found.append(int(entry.parts[2]))
        return found

    def count(self, table: str) -> int:
        return int(self.query(f"SELECT count(*) FROM {table}"))

    def fingerprint(self) -> str:
        """Return a checksum over all rows, but for the few rules, which say when they were written."""
        tables = ["spans", "llm_metrics", "llm_usage_logs", "budget_usage", "user_sessions"]
        rows = "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} AS t"
        return "".join(self.query(rows.format(table)) for table in tables)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox") / "made")
    try:
        sandbox.run("worn", f"--extra-vars=sandbox_scale={SCALE}")
        sandbox.first_rows = sandbox.fingerprint()
        yield sandbox
    finally:
        sandbox.run("absent")


def test_app_is_ready_and_reads_the_database(sandbox: Sandbox) -> None:
    assert sandbox.ask("/health/ready") == {"status": "ready"}
    assert sandbox.ask("/health/detailed")["components"]["database"]["status"] == "healthy"


def test_volume_follows_the_scale(sandbox: Sandbox) -> None:
    assert 4000 <= sandbox.count("llm_usage_logs") < 4100
    assert 1200 <= sandbox.count("spans") < 1220
    assert sandbox.count("llm_metrics") == sandbox.count("spans")


@pytest.mark.parametrize(
    ("wear", "evidence"),
    [
        (
            "expired rows",
            "SELECT count(*) > 1000 FROM llm_usage_logs WHERE timestamp < now() - interval '90 d'",
        ),
        (
            "dead rows in some tables, not in all",
            "SELECT array_agg(relname::text ORDER BY relname) = '{spans,user_sessions}'"
            " FROM pg_stat_user_tables WHERE n_dead_tup > 50 + 0.2 * n_live_tup",
        ),
        (
            "stale statistics",
            "SELECT count(*) = 2 FROM pg_stat_user_tables"
            " WHERE relname IN ('spans', 'llm_metrics') AND n_mod_since_analyze > 50 + 0.1 * n_live_tup",
        ),
        (
            "an index three times its size",
            "SELECT pg_relation_size('ix_llm_usage_logs_trace_span') > 3 * 75 *"
            " (SELECT count(*) FROM llm_usage_logs)",
        ),
        (
            "an invalid leftover",
            "SELECT count(*) = 1 FROM pg_index"
            " WHERE NOT indisvalid AND indexrelid::regclass::text LIKE '%\\_ccnew'",
        ),
        (
            "a duplicate index",
            "SELECT count(*) = 1 FROM (SELECT indkey::text FROM pg_index"
            " WHERE indrelid = 'llm_usage_logs'::regclass AND indisvalid"
            " GROUP BY 1 HAVING count(*) > 1) AS twins",
        ),
        (
            "a foreign key without index",
            "SELECT count(*) = 1 FROM pg_constraint AS c WHERE contype = 'f' AND NOT EXISTS"
            " (SELECT FROM pg_index AS i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])",
        ),
        (
            "views older than their source",
            "SELECT (SELECT sum(request_count) FROM daily_usage_summary)"
            " < (SELECT count(*) FROM llm_usage_logs)"
            " AND (SELECT sum(request_count) FROM daily_cost_summary) < (SELECT count(*) FROM llm_metrics)",
        ),
        (
            "a sequence near its end",
            "SELECT nextval('llm_usage_logs_id_seq') BETWEEN 0.9 * 2147483647 AND 0.95 * 2147483647",
        ),
    ],
)
def test_it_is_worn(sandbox: Sandbox, wear: str, evidence: str) -> None:
    assert sandbox.query(evidence) == "t", wear


def test_other_users_have_no_access(sandbox: Sandbox) -> None:
    data_dir = Path(sandbox.record["data_dir"])
    assert data_dir.stat().st_mode & 0o077 == 0
    assert (data_dir / "pgpass").stat().st_mode & 0o077 == 0
    psql = [f"{sandbox.record['postgres_bin_dir']}/psql", "--no-password", "--command=SELECT 1"]
    address = f"host=127.0.0.1 port={sandbox.record['database_port']} user=postgres dbname=postgres"
    without = subprocess.run([*psql, address], capture_output=True, text=True, check=False, cwd="/")
    assert "password" in without.stderr
    environment = {**os.environ, "PGPASSFILE": str(data_dir / "pgpass")}
    subprocess.run([*psql, address], env=environment, capture_output=True, check=True, cwd="/")


def test_a_trace_becomes_rows(sandbox: Sandbox) -> None:
    span = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
        "name": "llm.chat.completion",
        "startTimeUnixNano": str(time.time_ns() - 250_000_000),
        "endTimeUnixNano": str(time.time_ns()),
        "attributes": [
            {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}},
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "1000"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "100"}},
        ],
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    for _ in range(2):  # exporters send again what they saw no answer to
        assert sandbox.ask("/v1/traces", body) == {"partialSuccess": {}}
    row = sandbox.query(
        "SELECT total_tokens, total_cost_usd FROM llm_metrics WHERE span_id = 'b7ad6b7169203331'"
    )
    assert row == "1100|0.003500"


def test_second_run_changes_nothing(sandbox: Sandbox) -> None:
    assert sandbox.run("worn").changed == 0
    assert sandbox.run("present", f"--extra-vars=sandbox_scale={SCALE}").changed == 0


def test_check_mode_only_tells(sandbox: Sandbox) -> None:
    before = sandbox.processes()
    assert sandbox.run("absent", "--check").changed > 0
    assert sandbox.run("present", "--check", "--extra-vars=sandbox_scale=0.03").changed > 0
    assert sandbox.processes() == before
    assert sandbox.query("SELECT count(*) < 5000 FROM llm_usage_logs") == "t"


def test_wear_that_was_repaired_comes_back_the_same(sandbox: Sandbox) -> None:
    sandbox.query("VACUUM ANALYZE spans")
    run = sandbox.run("worn")
    assert run.changed == 1
    assert "not worn: dead rows, stale statistics" in run.output
    assert sandbox.fingerprint() == sandbox.first_rows


@pytest.mark.parametrize("victims", ["supervisord", "all"])
def test_heals_after_a_kill(sandbox: Sandbox, victims: str) -> None:
    pid_file = sandbox.folder / "supervisor" / "supervisord.pid"
    for pid in [int(pid_file.read_text())] if victims == "supervisord" else sandbox.processes():
        os.kill(pid, signal.SIGKILL)
    run = sandbox.run("present")
    assert run.changed == 1
    assert len(sandbox.processes()) == 3
    assert sandbox.ask("/health/ready") == {"status": "ready"}


def changes(record: dict[str, Any]) -> int:
    return sum(host["changed"] for host in record["stats"].values())


def presented(sandbox: Sandbox) -> dict[str, tuple[str, str]]:
    """Return serial and issuer of what app and PostgreSQL present, as OpenSSL sees them."""
    record = sandbox.record
    asked = {"app": ["-connect", f"127.0.0.1:{record['app_port']}"]}
    if record["database_tls"]:
        asked["postgresql"] = ["-connect", f"127.0.0.1:{record['database_port']}", "-starttls", "postgres"]
    found = {}
    for name, words in asked.items():
        line = ["openssl", "s_client", *words, "-CAfile", record["app_ca_file"]]
        said = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20).stdout
        told = subprocess.run(["openssl", "x509", "-noout", "-serial", "-issuer"], input=said, capture_output=True, text=True, check=True).stdout
        serial, issuer = told.splitlines()
        found[name] = (serial.removeprefix("serial="), issuer)
        assert name != "app" or "Verify return code: 0 (ok)" in said, "clients trust what is served"
    return found


def test_worn_certificates_are_renewed(sandbox: Sandbox) -> None:
    before = presented(sandbox)
    sandbox.runbook("certificate-management", "--check", code=6)
    assert presented(sandbox) == before and not Path(sandbox.record["authority_dir"]).exists()
    record = sandbox.runbook("certificate-management")
    assert {(action["step"], action["result"]) for action in record["actions"]} == {(step, "done") for step in ("authority", "issue", "deploy")}
    after = presented(sandbox)
    assert set(after) == {"app", "postgresql"} if sandbox.record["database_tls"] else {"app"}
    for name, (serial, issuer) in after.items():
        assert serial != before[name][0] and "LLM Cost Tracker sandbox issuing 1" in issuer
    rows = {row["name"]: row for row in record["facts"]["sandbox"]["certificates"]}
    assert {name: row["serial_after"] for name, row in rows.items()} == {name: serial for name, (serial, _) in after.items()}
    assert all(row["lifetime_left_percent_before"] < 1 and row["served_matches_after"] == row["served_after"] == 1 for row in rows.values())
    assert sandbox.ask("/health/ready") == {"status": "ready"}
    page = sandbox.command("runs", "report", "last", "--html")
    picture = page[page.index('<svg class="certificates"') :].partition("</svg>")[0]
    assert picture.count('class="earlier"') == picture.count('class="renew"') == len(after) and "due → good" in page


def test_a_second_run_of_certificate_management_has_nothing_to_do(sandbox: Sandbox) -> None:
    record = sandbox.runbook("certificate-management")
    assert (changes(record), record["actions"]) == (0, [])


def test_the_sandbox_leaves_what_is_managed(sandbox: Sandbox) -> None:
    before = presented(sandbox)
    assert sandbox.run("present", f"--extra-vars=sandbox_scale={SCALE}").changed == 0
    assert presented(sandbox) == before
    assert (Path(sandbox.record["tls_dir"]) / "tls.crt").is_symlink()


def test_no_key_and_no_passphrase_is_told(sandbox: Sandbox) -> None:
    passphrase = Path(sandbox.record["certificates_passphrase_file"])
    keys = [path for folder in ("authority_dir", "certificates_dir") for path in Path(sandbox.record[folder]).rglob("*key*") if path.is_file()]
    assert len(keys) >= 4 and all(path.stat().st_mode & 0o077 == 0 for path in [passphrase, *keys])
    # The first two lines after the heading; what follows is, of some keys, the public part alone.
    secrets = {line for path in keys for line in path.read_bytes().splitlines()[1:3]} | {passphrase.read_bytes().strip()}
    assert len(secrets) == 2 * len(keys) + 1 and all(len(secret) > 40 for secret in secrets)
    for folder in (sandbox.records, sandbox.folder / "state"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and [path for path in files if any(secret in path.read_bytes() for secret in secrets)] == []
    page = sandbox.command("runs", "report", "last", "--html").encode()
    assert not [secret for secret in secrets if secret in page]


def test_backups_are_taken_and_proven(sandbox: Sandbox) -> None:
    record = sandbox.runbook("backup-recovery")
    assert [action["result"] for action in record["actions"]] == ["done"] * len(record["actions"])
    assert {action["step"] for action in record["actions"]} == {"repositories", "set", "drill"}
    facts = record["facts"]["sandbox"]
    assert facts["drill"]["result"] == "passed" and facts["drill"]["set"] == facts["sets"][0]["set"]
    manifest = sandbox.folder / "state" / "backups" / "sets" / facts["drill"]["set"] / "manifest.json"
    counted = json.loads(manifest.read_text())["database"]["figures"]["tables"]
    tables = sandbox.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").splitlines()
    assert {table: counted[f"public.{table}"] for table in tables} == {table: sandbox.count(table) for table in tables}
    assert f"{sum(counted.values()):,} rows in {len(counted)} tables" in " ".join(facts["drill"]["proved"])
    page = sandbox.command("runs", "report", "last", "--html")
    assert facts["sets"][0]["set"] in page and "Sets that are kept" in page
    assert re.search(r"<b>[\d.]+ (ms|s)</b><span>RTO, limit 1 h 00 min</span>", page)


def test_a_second_backup_run_has_nothing_to_do(sandbox: Sandbox) -> None:
    record = sandbox.runbook("backup-recovery")
    assert (changes(record), record["actions"]) == (0, [])
    assert len(record["facts"]["sandbox"]["sets"]) == 1


def test_the_passphrase_is_in_no_record(sandbox: Sandbox) -> None:
    file = Path(sandbox.record["backups_passphrase_file"])
    assert file.stat().st_mode & 0o077 == 0
    passphrase = file.read_bytes().strip()
    assert len(passphrase) == 48
    for folder in (sandbox.records, sandbox.folder / "state", Path(sandbox.record["backups_dir"])):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and [path for path in files if passphrase in path.read_bytes()] == []


def newest_set(sandbox: Sandbox) -> str:
    """Return the input that names the newest set: the newest WAL may have in it already what a test is about to drop."""
    sets = sorted(path.name for path in (sandbox.folder / "state" / "backups" / "sets").iterdir())
    return f"restore_target={sets[-1]}"


def test_a_table_that_was_dropped_comes_back(sandbox: Sandbox) -> None:
    rows = "SELECT count(*), md5(string_agg(u::text, '|' ORDER BY id)) FROM budget_usage AS u"
    around = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'budget_usage'::regclass ORDER BY 1;"
        " SELECT indexdef FROM pg_indexes WHERE tablename = 'budget_usage' ORDER BY 1;"
        " SELECT tableowner FROM pg_tables WHERE tablename = 'budget_usage'"
    )
    before = [sandbox.query(rows), sandbox.query(around)]
    sandbox.query("DROP TABLE budget_usage")
    named = ("restore_scope=table", "restore_table=public.budget_usage", newest_set(sandbox))
    wanted = ("backup-restore", *(word for value in named for word in ("--set", value)))
    assert "--confirm sandbox/llm_metrics" in sandbox.runbook(*wanted, code=3)["message"]
    assert sandbox.query("SELECT to_regclass('budget_usage') IS NULL") == "t", "nobody confirmed it"
    record = sandbox.runbook(*wanted, "--confirm", "sandbox/llm_metrics")
    assert [(action["subject"], action["result"]) for action in record["actions"]] == [("public.budget_usage", "done")]
    assert [sandbox.query(rows), sandbox.query(around)] == before
    assert "FOREIGN KEY" in before[1] and "tracker" in before[1]


def test_what_went_with_a_dropped_table_is_told(sandbox: Sandbox) -> None:
    wanted = ("backup-restore", "--set", "restore_scope=table", "--set", newest_set(sandbox), "--confirm", "sandbox/llm_metrics")
    sandbox.query("DROP TABLE llm_metrics CASCADE")
    record = sandbox.runbook(*wanted, "--set", "restore_table=public.llm_metrics", code=1)
    (view,) = [finding for finding in record["findings"] if finding["id"] == "gone-with-the-table"]
    assert view["subject"] == "public.daily_cost_summary"
    sandbox.runbook(*wanted, "--set", view["remedy"].rpartition("--set ")[2])
    assert sandbox.count("daily_cost_summary") > 0

    sandbox.query("DROP TABLE budget_rules CASCADE")
    record = sandbox.runbook(*wanted, "--set", "restore_table=public.budget_rules", code=1)
    (key,) = [finding for finding in record["findings"] if finding["id"] == "gone-with-the-table"]
    sandbox.query(key["remedy"])
    keys = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'budget_usage'::regclass AND contype = 'f'"
    assert sandbox.query(keys) == "1"


def test_where_a_table_is_gone_already_the_run_says_what_to_name(sandbox: Sandbox) -> None:
    sandbox.query("DROP TABLE user_sessions")
    wal = sandbox.query("SELECT pg_walfile_name(pg_switch_wal())")
    limit = time.monotonic() + 30
    while sandbox.query(f"SELECT last_archived_wal >= '{wal}' FROM pg_stat_archiver") != "t":
        assert time.monotonic() < limit, f"{wal} is not archived"
    wanted = ("--set", "restore_scope=table", "--set", "restore_table=public.user_sessions", "--confirm", "sandbox/llm_metrics")
    record = sandbox.runbook("backup-restore", *wanted, code=3)
    assert "there was no table public.user_sessions: name a moment before it was dropped" in record["message"]


def test_logs_are_put_in_order(sandbox: Sandbox) -> None:
    logs = Path(sandbox.record["postgres_log_dir"])
    before = {path.name: path.stat().st_ino for path in logs.iterdir()}
    live = before["postgresql.log"]
    assert len(before) == 6, "one log and five that were rotated"
    sandbox.runbook("log-management", "--check", code=6)
    assert {path.name: path.stat().st_ino for path in logs.iterdir()} == before
    record = sandbox.runbook("log-management", code=1)
    assert [action["result"] for action in record["actions"]] == ["done"] * len(record["actions"])
    assert {action["step"] for action in record["actions"]} == {"policies", "rotate", "archive"}
    rotated = next(path for path in logs.iterdir() if path.stat().st_ino == live)
    assert rotated.name.startswith("postgresql.log-") and (logs / "postgresql.log").stat().st_ino != live
    sandbox.query("DO $$ BEGIN RAISE LOG 'after the rotation'; END $$")
    assert "after the rotation" in (logs / "postgresql.log").read_text()
    archive = Path(sandbox.record["data_dir"]) / "log-archive" / "sandbox"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=archive, check=True)
    assert len((archive / "SHA256SUMS").read_text().splitlines()) == 3, "of four that are old enough one is past its end"
    page = sandbox.command("runs", "report", "last", "--html")
    assert all(title in page for title in ("Growth", "Retention", "Errors in logs"))


def test_a_second_run_of_log_management_has_nothing_to_do(sandbox: Sandbox) -> None:
    record = sandbox.runbook("log-management", code=1)
    assert (changes(record), record["actions"]) == (0, [])
    open_ones = {finding["id"] for finding in record["findings"] if finding["state"] == "open" and finding["severity"] != "info"}
    assert open_ones == {"secret-in-log", "uncovered"}, "what a person has to do stays open"


def test_an_emergency_stops_when_there_is_enough(sandbox: Sandbox) -> None:
    ballast = Path(sandbox.record["data_dir"]) / "ballast"
    size = ballast.stat().st_size
    found = os.statvfs(ballast)
    usable = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    # Half of the ballast more than there is.
    target = 100 * (found.f_bavail * found.f_frsize + size // 2) / usable
    record = sandbox.runbook("log-management", "--set", f"logs_reclaim_target_percent={target:.6f}", code=1)
    steps = [action["step"] for action in record["actions"]]
    assert steps[0] == "ballast" and not ballast.exists()
    assert record["facts"]["sandbox"]["reclaimed"][0]["rung"] == "ballast"


def test_what_was_found_in_logs_is_in_no_record(sandbox: Sandbox) -> None:
    leaky = (Path(sandbox.record["app_log_dir"]) / "llm-cost-tracker.log.1").read_text()
    values = re.findall(r"Bearer (sk-[\w-]+)|tracker:([^@*]+)@|to (\S+@customer\.example)", leaky)
    found = [value.encode() for groups in values for value in groups if value]
    assert len(found) == 3
    for folder in (sandbox.records, sandbox.folder / "state"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and [path for path in files for value in found if value in path.read_bytes()] == []


def test_certificates_are_worn_out_again(sandbox: Sandbox) -> None:
    before = presented(sandbox)
    sandbox.run("worn")
    after = presented(sandbox)
    assert all(after[name][0] != before[name][0] and "llm-cost-tracker sandbox" in after[name][1] for name in before)
    assert not Path(sandbox.record["authority_dir"]).exists() and not Path(sandbox.record["certificates_dir"]).exists()
    sandbox.runbook("certificate-management", "--check", code=6)
    assert sandbox.run("worn").changed == 0


def test_a_new_cluster_has_nothing_of_the_backups_of_the_old_one(sandbox: Sandbox) -> None:
    for pid in sandbox.processes():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(Path(sandbox.record["data_dir"]) / "postgresql")
    sandbox.run("present", f"--extra-vars=sandbox_scale={SCALE}")
    record = sandbox.runbook("backup-recovery")
    assert {action["step"] for action in record["actions"]} == {"repositories", "set", "drill"}
    assert len(record["facts"]["sandbox"]["sets"]) == 1


def test_absent_leaves_nothing(sandbox: Sandbox) -> None:
    data_dir = Path(sandbox.record["data_dir"])
    sandbox.run("absent")
    assert not sandbox.folder.exists()
    assert not data_dir.exists()
    assert sandbox.processes() == []
    assert sandbox.run("absent").changed == 0


def test_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    treasure = tmp_path / "thesis.tex"
    treasure.write_text("years of work")
    for state in ("present", "absent"):
        assert "not of a sandbox (thesis.tex)" in Sandbox(tmp_path).run(state, code=2).output
    assert treasure.exists()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("runuser") is None, reason="root becomes somebody else")
def test_refuses_what_somebody_else_put_in_its_place(tmp_path: Path) -> None:
    """Data that cannot be in a closed folder goes to a folder for all users, by a name one can foresee."""
    tmp_path.chmod(0o700)
    sandbox = Sandbox(tmp_path / "made")
    place = outside_dir(str(sandbox.folder))
    subprocess.run(["runuser", "-u", "daemon", "--", "mkdir", place], check=True)
    try:
        assert f"{place} belongs to somebody else" in sandbox.run("present", code=2).output
    finally:
        Path(place).rmdir()
