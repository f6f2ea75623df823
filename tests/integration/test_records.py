"""Looking back: list, show, replay, report, doctor, docs, and working from anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from runbook.record import Store

from .conftest import SMALL, Runbook


def test_list_tells_the_last_run_and_what_is_overdue(runbook: Runbook) -> None:
    def row() -> dict[str, object]:
        return next(row for row in runbook("list", "--json").document if row["slug"] == "healthy")

    assert (row()["overdue"], row()["last_run"]) == (True, None)
    runbook.run("healthy", "--check")
    assert row()["overdue"] is True
    runbook.run("healthy")
    assert row()["overdue"] is False
    assert row()["last_run"]["state"] == "succeeded"
    assert row()["alerts"] == ["DiskSpaceRunningLow"]


def test_runs_can_be_filtered_shown_replayed_and_reported(runbook: Runbook) -> None:
    runbook.run("healthy", "--reason", "first")
    runbook.run("broken")
    assert [r["runbook"] for r in runbook("runs", "list", "--json").document] == ["broken", "healthy"]
    assert [r["runbook"] for r in runbook("runs", "list", "--failed", "--json").document] == ["broken"]
    assert [r["runbook"] for r in runbook("runs", "list", "--runbook", "healthy", "--json").document] == [
        "healthy"
    ]
    assert runbook("runs", "list", "--host", "nobody", "--json").document == []
    first = runbook.records()[0]["id"]
    assert "first" in runbook("runs", "show", first.lower()).out
    assert "Vacuum the tables" in runbook("runs", "replay", first).out
    assert "no such luck" in runbook("runs", "report", "last").out
    ambiguous = runbook("runs", "show", first[:3])
    assert (ambiguous.code, "fits 2 runs" in ambiguous.err) == (5, True)
    assert runbook("runs", "show", "ZZZ").code == 5


def test_the_html_report_is_one_escaped_page(runbook: Runbook) -> None:
    runbook.run("healthy", "--reason", "<b>bold</b>")
    page = runbook("runs", "report", "last", "--html").out
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "4.0 MiB → 1.0 MiB" in page
    assert "public.usage" in page
    assert "-75 %" in page
    assert not any(word in page for word in ("http://", "https://", "src=", "<script", "@import"))
    runbook.run("untidy")
    page = runbook("runs", "report", "last", "--html").out
    assert "<script" not in page
    assert "line 2 &lt;script&gt;" in page


def test_reports_need_nothing_but_the_record(runbook: Runbook) -> None:
    runbook.run("healthy")
    elsewhere = runbook.root / "elsewhere"
    shutil.copytree(runbook.state, elsewhere)
    shutil.rmtree(runbook.state)
    done = runbook("runs", "report", "last", RUNBOOK_STATE_DIR=str(elsewhere), RUNBOOK_PROJECT="/nowhere")
    assert done.code == 0, done.err
    assert "40 percent dead" in done.out


def test_the_second_run_knows_how_long_steps_usually_take(runbook: Runbook) -> None:
    runbook.run("healthy")
    assert set(Store(runbook.state).usual_seconds("healthy")) == {"plan", "vacuum", "close"}


def test_help_of_a_run_lists_the_inputs(runbook: Runbook) -> None:
    for arguments in (["run", "healthy", "--help"], ["run", "--help", "healthy"]):
        done = runbook(*arguments)
        assert done.code == 0
        assert "healthy_keep_days  How many days are kept [int, default 90]" in done.out
    assert "healthy_keep_days" not in runbook("run", "--help").out


def test_doctor_names_a_remedy_for_what_fails(runbook: Runbook) -> None:
    good = runbook("doctor", "-i", "two.yml", "--json")
    by_name = {row["name"]: row for row in good.document}
    assert by_name["host here"]["ok"] and by_name["host there"]["ok"]
    bad = runbook("doctor", "-i", "gone.ini")
    assert bad.code == 1
    assert "ansible gone" in bad.out
    assert runbook("doctor", "-i", "malformed.ini").code == 1
    assert runbook.private() == []


def test_docs_are_written_checked_and_found_stale(runbook: Runbook) -> None:
    project = runbook.root / "project"
    shutil.copytree(SMALL, project)
    runbook.env["RUNBOOK_PROJECT"] = str(project)
    assert runbook("docs", "--check").code == 1
    assert not (project / "docs").exists()
    assert runbook("docs").code == 0
    assert runbook("docs", "--check").code == 0
    page = project / "docs" / "runbooks" / "healthy.md"
    page.write_text(page.read_text() + "by hand\n")
    stale = runbook("docs", "--check")
    assert (stale.code, str(page) in stale.err) == (1, True)


def test_works_from_another_folder_with_paths_relative_to_it(runbook: Runbook) -> None:
    shutil.copy(SMALL / "inventories" / "one.yml", runbook.root / "work" / "mine.yml")
    done = runbook.run("healthy", inventory="mine.yml")
    assert done.code == 0, done.err
    assert list(Path(runbook.root / "work").iterdir()) == [runbook.root / "work" / "mine.yml"]


def test_slugs_are_completed(runbook: Runbook) -> None:
    done = runbook(_RUNBOOK_COMPLETE="bash_complete", COMP_WORDS="runbook run he", COMP_CWORD="2")
    assert done.out.split() == ["plain,healthy"]
