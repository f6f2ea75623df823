from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from runbook import environments
from runbook.catalog import Catalog, Expect, load_runbook
from runbook.docs import pages
from runbook.errors import BadInput
from runbook.inputs import Option, convert, parse_inputs
from runbook.project import Project
from runbook.schema import build

CHECK = {
    "id": "answers",
    "part": "database",
    "section": "immediate",
    "question": "Does it answer?",
    "command": "pg_isready | cat",
    "expect": {"rc": 0},
    "shows": "accepting",
    "otherwise": {"finding": "It does not", "severity": "critical", "remedy": "mend"},
}
BOOK: dict[str, Any] = {
    "slug": "a-book",
    "title": "A book",
    "category": "maintenance",
    "checks": [CHECK],
    "steps": [{"id": "mend", "kind": "change", "does": "Mend it.", "verify": ["answers"]}],
}


def project(tmp_path: Path, book: dict[str, Any], **options: Any) -> Project:
    meta = tmp_path / "roles" / "book" / "meta"
    meta.mkdir(parents=True)
    (meta / "runbook.yml").write_text(yaml.safe_dump(book, sort_keys=False))
    (meta / "argument_specs.yml").write_text(
        yaml.safe_dump({"argument_specs": {"main": {"options": options}}})
    )
    return Project(tmp_path)


FAULTS = [
    ({"category": "other"}, "category: 'other' is none of incident"),
    ({"colour": "red"}, "colour: there is no such key"),
    ({"title": 5}, "title: 5 is not text"),
    ({"slug": "A_b"}, "'A_b' is not of the form"),
    ({"checks": [CHECK | {"part": "kitchen"}]}, "checks.0.part: 'kitchen'"),
    ({"checks": [CHECK, CHECK]}, "check ids occur twice: answers"),
    ({"checks": []}, "names checks that do not exist: answers"),
    ({"checks": [{**CHECK, "expect": {"rc": "0"}}]}, "checks.0.expect.rc: '0' is not a whole number"),
    ({"checks": [{k: v for k, v in CHECK.items() if k != "command"}]}, "checks.0.command: it is missing"),
    ({"time_limit_seconds": 0}, "time_limit_seconds is 0"),
    ({"environment": {"A-B": "x"}}, "'A-B' is not of the form"),
    ({"schedule": {"on_calendar": "daily"}}, "schedule.max_age_hours: it is missing"),
]


@pytest.mark.parametrize(("change", "words"), FAULTS)
def test_a_fault_is_told_with_file_and_place(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    place = project(tmp_path, BOOK | change).roles / "book" / "meta" / "runbook.yml"
    with pytest.raises(BadInput) as caught:
        load_runbook(place)
    assert words in str(caught.value)
    assert str(place) in str(caught.value)


def test_the_nearest_runbook_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match='Did you mean "a-book"'):
        Catalog(project(tmp_path, BOOK)).get("a-bok")


def test_tools_are_hidden(tmp_path: Path) -> None:
    catalog = Catalog(project(tmp_path, BOOK | {"category": "tool"}))
    assert (catalog.runbooks(), len(catalog.runbooks(tools=True))) == ([], 1)


WORDS = [
    ({"rc": 0}, "exit status 0"),
    ({"json": "a.b", "equals": "ready"}, "JSON whose `a.b` is `ready`"),
    ({"equals": "ok", "rc": 0}, "exit status 0 and exactly `ok`"),
    ({"number": {"at_most": 5}}, "a number of at most 5"),
    ({"number": {"between": [1, 2.5]}}, "a number between 1 and 2.5"),
    ({"empty": True}, "no output"),
    ({"matches": "^a"}, "output that matches `^a`"),
]


@pytest.mark.parametrize(("expect", "words"), WORDS)
def test_expectations_in_words(expect: dict[str, Any], words: str) -> None:
    assert build(Expect, expect).words() == words


CONVERTED = [
    ("int", "7", 7),
    ("int", "-1", -1),
    ("float", "1.5", 1.5),
    ("bool", "yes", True),
    ("bool", "False", False),
    ("str", "1", "1"),
    ("str", "null", "null"),
    ("int", "null", None),
    ("list", "a, b", ["a", "b"]),
    ("list", "[1, 2]", [1, 2]),
    ("list", '["a"]', ["a"]),
    ("dict", "{a: 1}", {"a": 1}),
    ("path", "/x", "/x"),
]


@pytest.mark.parametrize(("kind", "text", "value"), CONVERTED)
def test_conversion(kind: Any, text: str, value: Any) -> None:
    assert convert(text, Option(type=kind)) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int", "1.5"), ("int", "x"), ("bool", "maybe"), ("dict", "[1]"), ("list", "{a: 1}"), ("dict", "a: [")],
)
def test_conversion_refuses_and_shows_the_value(kind: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text[0])):
        convert(text, Option(type=kind))


def test_all_faults_are_told_at_once_and_no_secret_is_quoted() -> None:
    options = {"keep": Option(type="int"), "x_password": Option(type="int")}
    with pytest.raises(BadInput) as caught:
        parse_inputs(("keep=soon", "kep=1", "x_password=hunter22"), options)
    assert "soon" in str(caught.value) and 'Did you mean "keep"' in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_exports_are_quoted_and_secrets_left_out() -> None:
    values = {"A": "it's $HOME `x`", "PGPASSWORD": "hunter22", "EMPTY": "", "RUNBOOK_PATH": "/x y"}
    values |= {"A_TOKEN": "", "RUNBOOK_PRELUDE": 'psql() { in-container psql "$@"; };'}
    assert environments.exports(values, secrets=False).splitlines() == [
        "export A='it'\"'\"'s $HOME `x`'",
        "# PGPASSWORD is secret and left out; --secrets prints it.",
        "unset EMPTY",
        "export PATH='/x y':\"$PATH\"",
        'psql() { in-container psql "$@"; };',
    ]
    assert "export PGPASSWORD=hunter22" in environments.exports(values, secrets=True)


def test_a_page_has_the_sections_in_order_and_the_command_as_it_is(tmp_path: Path) -> None:
    book = BOOK | {
        "environment": {"PGDATABASE": "{{ x }}"},
        "alerts": [{"name": "Full", "labels": {"category": "storage"}, "why": "It grows"}],
        "escalation": [{"after": "30 minutes", "to": "Infra | Ops", "how": "Slack"}],
    }
    rules = {"type": "list", "elements": "dict", "options": {"keep": {"type": "int", "required": True}}}
    made = pages(
        project(tmp_path, book, book_rules=rules, book_n={"type": "int", "default": 0, "description": "a|b"})
    )
    page = made[tmp_path / "docs" / "runbooks" / "a-book.md"]
    heads = [line for line in page.splitlines() if line.startswith(("# ", "## "))]
    assert heads == [
        "# A book",
        "## Overview",
        "## Symptoms",
        "## Immediate Actions",
        "## Investigation Steps",
        "## Resolution Steps",
        "## Prevention",
        "## Escalation",
        "## Inputs",
        "## Exit codes",
        "## Lessons learned",
    ]
    assert (
        "```sh\npg_isready | cat\n```\n\nExpected: exit status 0, for example:\n\n```text\naccepting\n```"
        in page
    )
    assert "If not: **It does not** (critical). Remedy: step `mend`: mend it." in page
    assert 'eval "$(runbook env a-book -i INVENTORY -l HOST)"' in page
    assert "| `book_rules[].keep` | int | required |" in page
    assert "| `book_n` | int | `0` | a\\|b |" in page
    assert "Infra \\| Ops" in page
    assert 'step_mend["mend: Mend it."]' in page
    assert "| 124 | The time limit was reached" in page
    assert "\n\n\n" not in page
    index = made[tmp_path / "docs" / "runbooks" / "index.md"]
    assert "- **Full** `category=storage`: [A book](a-book.md). It grows" in index
