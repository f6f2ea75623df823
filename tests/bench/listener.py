"""How many alerts a second the listener takes, how long a sender waits, and whether its memory stays flat."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import Figure, percentile

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "integration" / "projects" / "small"
TOKEN = "a-token-for-the-bench"
SENDERS = 8
PER_BODY = 5  # alerts in a body: Alertmanager groups
SECONDS = 15.0
RATE, P99_MS, GROWTH_MIB = 500, 100, 16


def body(number: int) -> bytes:
    """Return a body of alerts of which every second one was never seen before."""
    alerts = [
        {
            "status": "firing", "labels": {"alertname": "HighLatency", "severity": "warning", "instance": f"app{index}:8000"},
            "annotations": {"summary": "Requests take long", "description": "x" * 200}, "startsAt": "2026-03-01T10:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z", "fingerprint": f"{index - index % 2:016x}", "generatorURL": "http://prometheus:9090/graph",
        }
        for index in range(number * PER_BODY, number * PER_BODY + PER_BODY)
    ]  # fmt: skip
    return json.dumps({"version": "4", "status": "firing", "truncatedAlerts": 0, "alerts": alerts}).encode()


async def sender(port: int, numbers: range, until: float, pause: float) -> tuple[list[float], int]:
    """Send bodies over one connection until a time; return the seconds of each and how many were not taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took, refused = [], 0
    for number in numbers:
        raw = body(number)
        head = (
            f"POST /alerts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        began = time.perf_counter()
        if began > until:
            break
        writer.write(head.encode() + raw)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        await reader.readexactly(int(length[1]) if length else 0)
        took.append(time.perf_counter() - began)
        refused += b" 202 " not in answer
        if pause:
            await asyncio.sleep(max(0.0, pause - took[-1]))
    writer.close()
    return took, refused


async def load(port: int, seconds: float, first: int, pause: float = 0) -> tuple[list[float], float, int]:
    began = time.perf_counter()
    step = 1_000_000
    ranges = [range(first + step * n, first + step * (n + 1)) for n in range(SENDERS)]
    results = await asyncio.gather(*(sender(port, numbers, began + seconds, pause) for numbers in ranges))
    return [t for took, _ in results for t in took], time.perf_counter() - began, sum(refused for _, refused in results)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def start(scratch: Path) -> tuple[subprocess.Popen[bytes], int]:
    config = {
        "inventory": [str(SMALL / "inventories" / "one.yml")], "port": 0, "tokens": [{"env": "LISTEN_TOKEN"}], "stop_seconds": 10,
        "routes": [{"match": {"alertname": "HighLatency"}, "runbook": "healthy", "max_runs_per_hour": 1}],
    }  # fmt: skip
    (scratch / "listen.yml").write_text(json.dumps(config))
    env = os.environ | {
        "LISTEN_TOKEN": TOKEN, "RUNBOOK_PROJECT": str(SMALL), "RUNBOOK_STATE_DIR": str(scratch / "listen-state"),
        "PYTHONPATH": str(ROOT / "wrapper"),
    }  # fmt: skip
    log = scratch / "listen.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "runbook", "listen", "--config", str(scratch / "listen.yml")]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    limit = time.monotonic() + 30
    while time.monotonic() < limit and process.poll() is None:
        if told := re.search(r"Listening on \S+ port (\d+)", log.read_text()):
            return process, int(told[1])
        time.sleep(0.02)
    raise RuntimeError(log.read_text())


def intake(scratch: Path) -> list[Figure]:
    process, port = start(scratch)
    try:
        # Until as many are remembered as ever are: what grows after that is a leak.
        asyncio.run(load(port, SECONDS, 0))
        before = resident(process.pid)
        full, seconds, refused = asyncio.run(load(port, SECONDS, 10_000_000))
        after = resident(process.pid)
        pause = SENDERS * PER_BODY / RATE
        steady, _, refused_too = asyncio.run(load(port, SECONDS, 20_000_000, pause))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    rate = len(full) * PER_BODY / seconds
    p99 = percentile(steady, 99) * 1000
    grown = (after - before) / 2**20
    lost = refused + refused_too
    return [
        Figure("Listener: alerts taken a second, half of them new", f"{rate:,.0f}", "-", "-", f">= {RATE}, none refused",
               rate >= RATE and not lost),
        Figure(f"Listener: p99 of an answer at {RATE} alerts a second", f"{p99:.1f} ms", "-", "-", f"< {P99_MS} ms", p99 < P99_MS),
        Figure(f"Listener: memory after {len(full) * PER_BODY:,} more alerts", f"{after / 2**20:.0f} MiB",
               f"{before / 2**20:.0f} MiB", f"{grown:+.1f} MiB", f"<= {GROWTH_MIB} MiB", grown <= GROWTH_MIB),
    ]  # fmt: skip


def main() -> int:
    """Measure the listener alone: `python -m bench.listener`, from tests/."""
    import tempfile  # noqa: PLC0415  only when it is called on its own

    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        figures = intake(Path(folder))
    for figure in figures:
        print(
            f"{'met' if figure.met else 'MISSED':7}{figure.what}: {figure.ours} / {figure.other} = {figure.ratio} ({figure.bound})"
        )
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
