"""The incident file: one story from several runs, and a lesson that stays."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from runbook.catalog import Lesson, load_runbook
from runbook.cli import cli
from runbook.errors import BadInput
from runbook.postmortem import add_lesson, incident, render
from runbook.project import Project
from runbook.record import Action, AlertRef, Escalated, Finding, OperatorNote, Record, Source, Store
from support.repository import ROOT

START = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "state")
    made.prepare()
    return made


def run(store: Store, begin: float, end: float, events: list[dict[str, Any]] = (), **more: Any) -> Record:  # type: ignore[assignment]
    record = Record(
        runbook="service-down", title="Service down", project=Source("/p"), state="succeeded", exit_code=0, **more
    )
    record.started, record.ended = after(begin), after(end)
    store.create(record)
    lines = [json.dumps({"at": after(at).isoformat(), "host": "app1", "runbook": payload}) for at, payload in events]
    (store.folder(record.id) / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return record


def found(id: str, state: str = "open", cause: str = "") -> Finding:
    return Finding(id=id, host="app1", title=f"{id} broke", severity="critical", state=state, cause=cause, rank=1)  # type: ignore[arg-type]


ALERT = AlertRef("ServiceDown", "f1", after(0).isoformat(), {}, {"summary": "It is <b>down</b> | really"})
SEEN = {
    "findings": [
        {"id": "process", "subject": "", "title": "The app does not run", "severity": "critical", "observed": "exited"}
    ]
}
DID = {"actions": [{"step": "restart-app", "subject": "app", "result": "done", "detail": "app restarted"}]}


def two_runs(store: Store) -> list[Record]:
    first = run(
        store, 60, 70, [(65, SEEN)], alerts=[ALERT], findings=[found("process"), found("ready", cause="app1/process")]
    )
    second = run(store, 120, 180, [(125, SEEN), (150, DID)], alerts=[ALERT], findings=[found("process", "fixed")], fix="change",
                 actions=[Action(step="restart-app", subject="app", host="app1", detail="app restarted")])  # fmt: skip
    second.said.append(OperatorNote(after(200), "ops@laptop", "killed by hand"))
    second.escalated.append(Escalated(after(130), "oncall", "trigger", "k", True))
    return [second, first]


def test_times_are_counted_from_the_alert(store: Store) -> None:
    told = incident(two_runs(store), store)
    assert (told.began, told.recovered) == (after(0), after(180))
    assert (told.detect_seconds, told.recover_seconds) == (60, 180)


def test_the_timeline_tells_each_thing_once_and_in_order(store: Store) -> None:
    told = incident(two_runs(store), store)
    assert [item.what for item in told.timeline] == [
        "alert", "run", "finding", "end", "run", "escalation", "action", "end", "note",
    ]  # fmt: skip
    assert [item.at for item in told.timeline] == sorted(item.at for item in told.timeline)


def test_roots_alone_are_named_causes(store: Store) -> None:
    assert {f.id for f in incident(two_runs(store), store).roots} == {"process"}


def test_an_incident_that_goes_on_has_no_end(store: Store) -> None:
    told = incident([run(store, 60, 70, findings=[found("process")])], store)
    assert told.recovered is None and told.recover_seconds is None and told.detect_seconds is None
    assert [f.id for f in told.open_findings] == ["process"]


def test_a_relapse_moves_the_recovery(store: Store) -> None:
    runs = [run(store, 0, 10), run(store, 20, 30, findings=[found("x")]), run(store, 40, 50), run(store, 60, 70)]
    assert incident(runs, store).recovered == after(50)


def test_a_check_recovers_nothing(store: Store) -> None:
    assert incident([run(store, 0, 10, check=True)], store).recovered is None


@pytest.mark.parametrize("html", [False, True])
def test_what_others_wrote_breaks_neither_page(store: Store, html: bool) -> None:
    text = render(incident(two_runs(store), store), html)
    assert "killed by hand" in text and "app restarted" in text and "oncall" in text
    if html:
        assert "<b>down</b>" not in text and "&lt;b&gt;down&lt;/b&gt;" in text
    else:
        row = next(line for line in text.splitlines() if "fires" in line)
        assert row.count("|") - row.count("\\|") == 4


def test_secrets_are_masked(store: Store) -> None:
    record = run(store, 0, 10)
    record.said.append(OperatorNote(after(1), "me", "password=hunter2-Zx was in the log"))
    assert "hunter2-Zx" not in render(incident([record], store), html=False)


def project(tmp_path: Path, lessons: str = "lessons: []\n") -> Project:
    for name in ("playbooks", "roles", "docs"):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "roles" / "service_down" / "meta", tmp_path / "roles" / "service_down" / "meta")
    shutil.copytree(ROOT / "roles" / "runbook" / "meta", tmp_path / "roles" / "runbook" / "meta")
    path = tmp_path / "roles" / "service_down" / "meta" / "runbook.yml"
    text = path.read_text()
    assert "lessons: []\n" in text
    path.write_text(text.replace("lessons: []\n", lessons))
    return Project(tmp_path)


def test_lessons_are_added_and_all_else_stays_as_it_was(tmp_path: Path) -> None:
    here = project(tmp_path)
    path = here.roles / "service_down" / "meta" / "runbook.yml"
    before = path.read_text()
    for text in ("Look: at the 'log' first # really", "Größe {{ matters }}\nand\tmore " * 12):
        add_lesson(here, load_runbook(path), Lesson("2026-11-25", text, "RUN"))
    lessons = load_runbook(path).lessons
    assert [lesson.text for lesson in lessons] == [
        "Look: at the 'log' first # really",
        "Größe {{ matters }}\nand\tmore " * 12,
    ]
    kept = [line for line in before.splitlines() if not line.startswith("lessons")]
    assert [line for line in path.read_text().splitlines() if line in kept] == kept


def test_a_file_without_the_key_is_left_alone(tmp_path: Path) -> None:
    here = project(tmp_path, "")
    path = here.roles / "service_down" / "meta" / "runbook.yml"
    before = path.read_text()
    with pytest.raises(BadInput, match="no key `lessons`"):
        add_lesson(here, load_runbook(path), Lesson("2026-11-25", "x"))
    assert path.read_text() == before


def call(state: Path, *arguments: str) -> Any:
    return CliRunner(env={"RUNBOOK_STATE_DIR": str(state)}).invoke(cli, arguments, standalone_mode=False)


def test_a_note_is_kept_beside_its_run(store: Store) -> None:
    record = run(store, 0, 10)
    result = call(store.root, "note", "killed", "by \x1b[31mhand,", "token=abcdef123456", "--run", record.id[:20])
    assert result.return_value == 0
    (note,) = store.load(record.id).said
    assert note.text.startswith("killed by hand,") and "abcdef123456" not in note.text and "@" in note.who


def test_an_empty_or_endless_note_is_refused(store: Store) -> None:
    run(store, 0, 10)
    for words in (" ", "x" * 10_001):
        assert isinstance(call(store.root, "note", words).exception, BadInput)
    assert isinstance(call(store.root, "note", "x", "--run", "NONE").exception, BadInput)


def test_a_run_at_work_is_not_written_to(store: Store) -> None:
    record = Record(runbook="x", title="X", project=Source("/p"), state="running")
    record.who.pid, record.who.host = 1, "another-machine"
    store.create(record)
    with pytest.raises(BadInput, match="still at work"):
        store.amend(record.id, lambda r: None)


def test_the_command_writes_page_and_lesson(store: Store, tmp_path: Path) -> None:
    here = project(tmp_path)
    record, output = run(store, 0, 10), tmp_path / "incident.md"
    result = call(
        store.root,
        "--project",
        str(here.root),
        "runs",
        "postmortem",
        record.id,
        "-o",
        str(output),
        "--lesson",
        "Watch the disk",
    )
    assert result.return_value == 0, result.exception
    assert "Incident of" in output.read_text()
    assert "Watch the disk" in (here.pages / "service-down.md").read_text()
