"""From an alert to a run: `run --alert`, `identify`, and the listener with what can happen to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .conftest import Runbook


def entry(name: str = "DiskSpaceRunningLow", number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "status": "firing", "labels": {"alertname": name, "category": "storage", "instance": f"app{number}"},
        "annotations": {"summary": "It is so"}, "startsAt": "2026-03-01T10:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": f"{number:016x}", "generatorURL": "http://prometheus:9090/graph",
    } | changes  # fmt: skip


def body(*entries: dict[str, Any], status: str = "firing") -> bytes:
    return json.dumps({"version": "4", "status": status, "truncatedAlerts": 0, "alerts": list(entries)}).encode()


def written(folder: Path, *entries: dict[str, Any]) -> str:
    (folder / "alert.json").write_bytes(body(*entries))
    return str(folder / "alert.json")


def test_the_record_of_a_run_names_its_alert(runbook: Runbook, tmp_path: Path) -> None:
    hostile = entry(labels={"alertname": "DiskSpaceRunningLow", "x": "$(touch owned) {{ 1 + 1 }}\x1b[2J"})
    done = runbook.run("healthy", "--alert", written(tmp_path, hostile))
    assert done.code == 0, done.err
    (alert,) = runbook.record["alerts"]
    assert (alert["name"], alert["fingerprint"]) == ("DiskSpaceRunningLow", f"{0:016x}")
    assert alert["starts_at"] == "2026-03-01T10:00:00+00:00"
    assert alert["labels"]["x"] == "$(touch owned) {{ 1 + 1 }}"


def test_a_run_for_an_alert_that_is_none_is_refused(runbook: Runbook, tmp_path: Path) -> None:
    (tmp_path / "alert.json").write_text("{}")
    done = runbook.run("healthy", "--alert", str(tmp_path / "alert.json"))
    assert (done.code, runbook.records()) == (5, [])
    assert "has no version" in done.err
