"""Log management against the bare tools."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from ansible.module_utils.logs_leaks import LogFile, look
from ansible.module_utils.logs_limits import Limits as HostLimits
from ansible.module_utils.logs_planner import Thresholds, fingerprint
from ansible.module_utils.logs_policy import Server, policies_from
from ansible.module_utils.logs_scanner import Limits
from ansible.module_utils.logs_survey import Given, Surveyor
from ansible.module_utils.logs_work import Logs

from bench import wrapper
from bench.measure import Figure, in_turn, timed

SCAN_BYTES = 300_000_000
SCAN_BLOCK_BYTES = 1024 * 1024
LEAST_MB_PER_SECOND = 150
MB = 1e6
ROTATED_BYTES = 1_000_000_000
PLAYBOOK = wrapper.ROOT / "playbooks/log-management.yml"
PING = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.ping:
"""
MESSAGES = (
    "Cost recorded for model gpt-4o-mini: 0.{n:06d} USD", "Budget check passed for application chat-{n}", "Span {h} stored with {n} tokens",
    "GET /api/v1/costs/summary 200", "Refreshed materialized view daily_cost_summary in {n} ms", "Cache hit for pricing of claude-{n}",
)  # fmt: skip


def write_lines(path: Path, size: int) -> None:
    """Write JSON lines such as the tracker's, without a secret or an error in them."""
    numbers = random.Random(3)  # noqa: S311  the same in each run
    lines = []
    for n in range(20_000):
        bits = f"{numbers.getrandbits(128):032x}"
        entry = {
            "timestamp": f"2026-03-01T{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}.{n % 1000:03d}+00:00", "level": "INFO",
            "logger": "tracker.costs", "message": MESSAGES[n % len(MESSAGES)].format(n=n, h=bits), "module": "costs", "function": "record",
            "line": n % 500, "request_id": f"{bits[:8]}-{bits[8:12]}-{bits[12:16]}-{bits[16:20]}-{bits[20:]}", "user_id": f"user-{n % 999}",
        }  # fmt: skip
        lines.append(json.dumps(entry) + "\n")
    part = "".join(lines).encode()
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(part)


def processor_seconds(act: Callable[[], object]) -> float:
    """Return how long the processor worked for it, the best of three rounds: other processes share the machine."""
    rounds = []
    for _ in range(3):
        started = time.process_time()
        act()
        rounds.append(time.process_time() - started)
    return min(rounds)


def scan_throughput(scratch: Path) -> list[Figure]:
    """How fast lines without hits are looked through for secrets and errors, against reading them and counting lines."""
    log = scratch / "llm-cost-tracker.log"
    write_lines(log, SCAN_BYTES)
    size = log.stat().st_size

    def ours() -> None:
        seen = look(
            [LogFile(str(log))], {}, Limits(max_bytes=2 * size, max_seconds=600), 60, time.process_time, 1_772_500_000.0
        )
        assert seen.findings == [] and seen.facts["unscanned_bytes"] == 0, seen.findings

    def plain() -> None:
        with log.open("rb", buffering=0) as file:
            while block := file.read(SCAN_BLOCK_BYTES):
                block.count(b"\n")

    try:
        plain()
        mine, other = processor_seconds(ours), processor_seconds(plain)
    finally:
        log.unlink()
    speed = size / mine / MB
    told = f"{speed:.0f} MB/s per core"
    return [
        Figure("scan of 300 MB of JSON lines for secrets and errors, against reading them and counting lines", told,
               f"{size / other / MB:.0f} MB/s", f"{mine / other:.1f} x", f">= {LEAST_MB_PER_SECOND} MB/s", speed >= LEAST_MB_PER_SECOND)
    ]  # fmt: skip


def rotation(scratch: Path) -> list[Figure]:
    """A log of 1 GB is rotated and the one before it compressed, by the step and by bare logrotate with the same configuration."""
    root = scratch / "rotation"
    times = {"ours": [], "bare": []}
    for _ in range(2):
        for kind, taken in times.items():
            given = _host(root)
            logs = Logs(Surveyor(given), Thresholds())
            logs.policies()
            _proven(logs)
            argv = ["logrotate", "--force", "--state", given.state_file, f"{given.config_dir}/llm-cost-tracker-app"]
            taken.append(timed(logs.rotate if kind == "ours" else lambda a=argv: subprocess.run(a, check=True)))
            assert len(list((root / "logs").glob("app.log-*.zst"))) == 1, kind
            shutil.rmtree(root)
    ours, bare = min(times["ours"]), min(times["bare"])
    return [Figure("rotation of a log of 1 GB, zstd, against bare logrotate", f"{ours:.1f} s", f"{bare:.1f} s", f"{ours / bare:.2f}", "<= 1.05",
                   ours / bare <= 1.05)]  # fmt: skip


def _host(root: Path) -> Given:
    """Make a host in a folder, with a log of 1 GB and another one that was rotated."""
    for name in ("logs", "conf.d", "state"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o755)
    write_lines(root / "logs/app.log", ROTATED_BYTES)
    os.utime(root / "logs/app.log")
    shutil.copy(root / "logs/app.log", root / "logs/app.log-20260101-1767225600")
    for path in (root / "logs").iterdir():
        path.chmod(0o640)
    policy = {"name": "app", "paths": [f"{root}/logs/app.log"], "max_size": "100M", "compress": "zstd", "reopen": "command", "command": "true"}
    return Given(
        policies=tuple(policies_from([policy])), state_dir=root / "state", config=f"{root}/logrotate.conf", config_dir=f"{root}/conf.d",
        state_file=f"{root}/status", schedule="run", dirs=(f"{root}/logs",), ignored_paths=(), filesystems=(), server=Server(os_user=""),
        limits=HostLimits(), archive=None, archive_after_days=7, archive_max_days=None, hold=False, hold_file="", manage_packages=False,
    )  # fmt: skip


def _proven(logs: Logs) -> None:
    """Have the policy count as proven: the proof is made once, and not with each rotation."""
    service = logs.surveyor.look().services[0]
    logs.surveyor.memory["proofs"] = {"app": {"config": fingerprint(service)}}
    logs.surveyor.remember()


def _plain_inventory(scratch: Path) -> Path:
    """Write the sandbox's addresses down, as an inventory of a deployment has them, instead of looking them up."""
    record = yaml.safe_load((scratch / "sandbox/sandbox.yml").read_text())
    data = record["data_dir"]
    server = {"name": "postgresql", "paths": [f"{data}/postgresql-logs/postgresql.log"], "reopen": "postgresql", "max_size": "10M",
              "mode": "0600", "keep": 3, "max_days": 30, "archive": True}  # fmt: skip
    host = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "tracker_become": False, "tracker_parts": ["app", "database"],
        "tracker_log_dir": f"{data}/logs", "runbook_state_dir": str(scratch / "state"), "logs_schedule": "run",
        "logs_logrotate_config": f"{data}/logrotate/logrotate.conf", "logs_logrotate_config_dir": f"{data}/logrotate/conf.d",
        "logs_logrotate_state": f"{data}/logrotate/status", "logs_hold_file": f"{data}/hold", "logs_archive_location": f"{data}/log-archive",
        "logs_policies": [{"name": "app", "paths": [f"{data}/logs/*.log"], "rotated_by": "application", "keep": 5}, server],
        "logs_dirs": [f"{data}/logs", f"{data}/postgresql-logs"], "logs_journal_enabled": False, "logs_docker_enabled": False,
        "logs_database_name": record["database"], "logs_database_host": record["database_socket_dir"],
        "logs_database_port": record["database_port"], "logs_database_os_user": record["os_user"],
        "logs_database_bin_dir": record["postgres_bin_dir"],
    }  # fmt: skip
    file = scratch / "logs-inventory.yml"
    file.write_text(yaml.safe_dump({"app": {"hosts": {"app1": host}}}))
    return file


def steady(scratch: Path) -> list[Figure]:
    """A second run, with a policy, a scan and an archive, against one ping."""
    sandbox = [str(wrapper.BIN / "runbook"), "run", "sandbox", "-i", str(wrapper.INVENTORY), "--set"]
    ping_file = scratch / "ping.yml"
    ping_file.write_text(PING)
    wrapper.run([*sandbox, "sandbox_state=worn", "--set", "sandbox_scale=0.1"], scratch)
    inventory = str(_plain_inventory(scratch))
    bare = [str(wrapper.BIN / "ansible-playbook"), str(PLAYBOOK), "-i", inventory]
    ping = [str(wrapper.BIN / "ansible-playbook"), str(ping_file), "-i", inventory]
    try:
        wrapper.run(bare, scratch)
        seconds, floor, ratio = in_turn(lambda: wrapper.run(bare, scratch), lambda: wrapper.run(ping, scratch), 5)
        calls, changed = wrapper.module_calls(wrapper.run(bare, scratch, ANSIBLE_STDOUT_CALLBACK="json"))
    finally:
        wrapper.run([*sandbox, "sandbox_state=absent"], scratch)
    return [
        Figure("second run of log management", f"{seconds:.2f} s", f"one ping {floor:.2f} s", f"{ratio:.2f}", "<= 3", ratio <= 3),
        Figure("module calls of a second run of log management", f"{calls}, changed={changed}", "-", "-", "<= 4, changed=0",
               calls <= 4 and changed == 0),
    ]  # fmt: skip
