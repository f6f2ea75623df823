"""Errors told apart by what they say, in the formats in which the tracker and what it stands on write them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import logs_summary
from ansible.module_utils.logs_patterns import fold
from ansible.module_utils.logs_scanner import Limits, scan
from ansible.module_utils.logs_summary import (
    JSON_BYTES,
    MOST_KEPT,
    SAMPLE_LENGTH,
    Error,
    Summary,
    error_of,
    fingerprint,
    time_of,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z
AT = "2026-09-21T10:00:00"
AT_SECONDS = 1_789_984_800.0
KEY = "sk-" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8x"
TRACE = """Traceback (most recent call last):
  File "/opt/llm-cost-tracker/app/db.py", line 42, in save
    raise ERROR
psycopg.OperationalError: server closed the connection after 17 s
"""
CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in one
KeyError: 'model'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in two
ValueError: no price for it
"""


def tracker(level: str, message: str, **more: Any) -> str:
    entry = {
        "timestamp": f"{AT}.123+00:00", "level": level, "logger": "tracker.db", "message": message, "module": "db", "function": "save",
        "line": 42, "request_id": str(uuid.UUID(int=5)), "user_id": None,
    }  # fmt: skip
    return json.dumps({**entry, **more}) + "\n"


# a line, then level, source, message and whether its time is known; None: no error
LINES: list[tuple[str, tuple[str, str, str, bool] | None]] = [
    (tracker("ERROR", "insert failed"), ("ERROR", "tracker.db", "insert failed", True)),
    (tracker("CRITICAL", "no database"), ("CRITICAL", "tracker.db", "no database", True)),
    (tracker("ERROR", "insert failed", exception=TRACE), (
        "ERROR", "tracker.db", "insert failed: psycopg.OperationalError: server closed the connection after 17 s", True)),
    (tracker("INFO", "GET /api/costs 503", method="GET", path="/api/costs", status_code=503), ("HTTP 503", "access", "GET /api/costs", True)),
    (tracker("INFO", "GET /api/costs 404", method="GET", path="/api/costs", status_code=404), None),
    (tracker("INFO", "the last ERROR is gone"), None),
    (tracker("WARNING", "CRITICAL is not what this is"), None),
    ('{"level":"error","ts":"2026-09-21T10:00:00Z","caller":"x.go:3","msg":"export failed"}', ("ERROR", "x.go:3", "export failed", True)),
    ('{"timestamp":"2026-09-21 10:00:00.1 UTC","error_severity":"FATAL","message":"too many clients"}', ("FATAL", "", "too many clients", True)),
    ('{"timestamp": "x", "level": "ERROR", "message": "cut off \\"here', ("ERROR", "", 'cut off \\"here', False)),
    ('{"level": "INFO", "message": "cut off ERROR', None),
    ("ERROR:    Exception in ASGI application", ("ERROR", "", "Exception in ASGI application", False)),
    ("INFO:     10.0.0.1:5 - \"GET /x?key=1 HTTP/1.1\" 500 Internal Server Error", ("HTTP 500", "access", "GET /x", False)),
    ("INFO:     10.0.0.1:5 - \"GET /x HTTP/1.1\" 200 OK", None),
    ('1.2.3.4 - - [21/Sep/2026:12:00:00 +0200] "POST /v1/traces HTTP/1.1" 502 157 "-" "curl"', ("HTTP 502", "access", "POST /v1/traces", True)),
    ("2026-09-21 10:00:00,123 - tracker.jobs - ERROR - job 7 failed", ("ERROR", "", "job 7 failed", True)),
    ("ERROR:root:it failed", ("ERROR", "", "root:it failed", False)),
    ("[2026-09-21 10:00:00 +0000] [7] [CRITICAL] WORKER TIMEOUT (pid:9)", ("CRITICAL", "", "WORKER TIMEOUT (pid:9)", True)),
    ('2026-09-21 10:00:00.123 UTC [77] app@llm ERROR:  relation "x" does not exist', ("ERROR", "", 'relation "x" does not exist', True)),
    ("2026-09-21 12:00:00 CEST [77]: [3-1] user=,db= FATAL:  the system is starting up", ("FATAL", "", "the system is starting up", True)),
    ("PANIC:  could not write to file", ("PANIC", "", "could not write to file", False)),
    ("2026-09-21 10:00:00 UTC [77] LOG:  statement: SELECT 'ERROR: no'", None),
    ("2026-09-21 10:00:00 UTC [77] STATEMENT:  SELECT 'FATAL: no'", None),
    ("\tERROR: goes on with the line before", None),
    ("2026/09/21 10:00:00 [error] 77#77: *5 connect() failed (111: refused), client: 1.2.3.4, server: _, request: \"GET / HTTP/1.1\"",
     ("ERROR", "nginx", "connect() failed (111: refused)", True)),
    ("2026/09/21 10:00:00 [warn] 77#77: *5 a response is buffered [error] in it", None),
    ("2026/09/21 10:00:00 [emerg] 1#1: bind() to 0.0.0.0:80 failed", ("EMERG", "nginx", "bind() to 0.0.0.0:80 failed", True)),
    ("logger=x t=2026-09-21T10:00:00Z level=error msg=\"Failed to \\\"query\\\"\" err=no", ("ERROR", "", 'Failed to \\"query\\"', True)),
    ("level=info msg=\"no ERROR here\"", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), LINES, ids=[str(i) for i in range(len(LINES))])
def test_what_a_line_says(line: str, said: tuple[str, str, str, bool] | None) -> None:
    told = error_of(line.rstrip("\n").encode())
    if said is None:
        assert told is None
    else:
        assert told is not None and (told.level, told.source, told.message) == said[:3]
        assert (told.at is not None) == said[3]


@pytest.mark.parametrize(("line", "said"), LINES, ids=[str(i) for i in range(len(LINES))])
def test_no_line_of_an_error_is_passed_over(line: str, said: tuple[str, str, str, bool] | None) -> None:
    """The quick look at a block must lead to each line that says an error."""
    told, _memory = summed(("x", "before\n" + line.rstrip("\n") + "\nafter\n"))
    assert sum(one["count"] for one in told) == (said is not None)


def summed(
    *fed: tuple[str, str], memory: dict[str, Any] | None = None, now: float = NOW
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    summary = Summary(memory or {}, now)
    for path, text in fed:
        summary.feed(path, text.encode(), fold(text.encode()))
    told, kept = summary.done()
    return told, json.loads(json.dumps(kept))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-09-21T10:00:00.123+00:00", AT_SECONDS), ("2026-09-21T12:00:00+0200", AT_SECONDS), ("2026-09-21 08:30:00-01:30", AT_SECONDS),
        ("2026/09/21 10:00:00 [error]", AT_SECONDS), ("[21/Sep/2026:12:00:00 +0200]", AT_SECONDS), ("2026-09-21 10:00:00,5", AT_SECONDS),
        ("no time", None), ("2026-13-41 10:00:00", None), ("[21/Foo/2026:12:00:00 +0200]", None), ("0000-00-00T00:00:00", None),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float | None) -> None:
    assert time_of(text) == seconds


SAME = [
    ("trace 0af7651916cd43dd8448eb211c80319c not found", "trace b9c7c989f97918e1a2b3c4d5e6f70819 not found"),
    (f"request {uuid.UUID(int=3)} failed", f"request {uuid.UUID(int=2**100)} failed"),
    ("took 17 ms", "took 1234.5 ms"),
    ("user jane@some-firm.org is unknown", "user j.doe@else.example is unknown"),
    ('column "a" does not exist at character 15', 'column "b c" does not exist at character 9'),
    ("cannot parse 'it'", "cannot parse 'that, too'"),
    ("connection to 10.0.0.1:5432 refused", "connection to 192.168.7.8:6432 refused"),
    ("connection to [fe80::1]:5432 refused", "connection to [2001:db8::ff:3]:6432 refused"),
    ("GET /api/v1/users/42/costs", "GET /api/v1/users/17/costs"),
    ("no /tmp/tmp8x3k_q/file", "no /tmp/tmpa0b1c2/file"),
    ("at 0xdeadbeef", "at 0x7f00aa11"),
    ("a\n  b", "a b"),
]  # fmt: skip
DIFFERENT = [
    ("connection refused", "connection reset"),
    ("GET /api/costs", "GET /api/budgets"),
    ("can't connect and won't retry", "can't listen and won't retry"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_varies_makes_no_difference(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_is_said_makes_one(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


@given(st.text(max_size=300))
def test_a_fingerprint_of_anything_is_short(text: str) -> None:
    assert len(fingerprint(text)) <= 300


def test_errors_are_counted_by_fingerprint_most_frequent_first() -> None:
    text = "".join(tracker("ERROR", f"insert {i} failed") for i in range(5)) + tracker("ERROR", "other")
    told, memory = summed(("a.log", text), ("b.log", tracker("ERROR", "insert 9 failed")))
    assert [(one["sample"], one["count"], one["new"], one["paths"]) for one in told] == [
        ("insert 0 failed", 6, True, ["a.log", "b.log"]),
        ("other", 1, True, ["a.log"]),
    ]
    assert told[0]["first_seen"] == told[0]["last_seen"] == AT_SECONDS
    assert set(memory["fingerprints"]) == {one["fingerprint"] for one in told}


def test_only_what_was_never_seen_is_new() -> None:
    _told, memory = summed(("x", tracker("ERROR", "old 1")))
    told, memory = summed(("x", tracker("ERROR", "old 2") + tracker("ERROR", "fresh")), memory=memory)
    assert {one["sample"]: one["new"] for one in told} == {"old 2": False, "fresh": True}
    told, memory = summed(("x", ""), memory=memory)
    assert told == [] and len(memory["fingerprints"]) == 2
    assert sorted(one["count"] for one in memory["fingerprints"].values()) == [1, 2]


@pytest.mark.parametrize("text", [TRACE, "\n" + TRACE, "ERROR:    Exception in ASGI application\n" + TRACE])
def test_a_traceback_is_one_error_named_by_its_last_line(text: str) -> None:
    told, _memory = summed(("x", "before\n" + text + "INFO:     after\n" + text))
    assert [one["count"] for one in told] == [2]
    assert told[0]["sample"].endswith("psycopg.OperationalError: server closed the connection after 17 s")


def test_of_chained_exceptions_the_last_one_counts() -> None:
    told, _memory = summed(("x", CHAINED + CHAINED + TRACE))
    assert [(one["sample"], one["count"]) for one in told] == [
        ("ValueError: no price for it", 2),
        ("psycopg.OperationalError: server closed the connection after 17 s", 1),
    ]


def test_a_traceback_over_the_end_of_a_block_is_one_error() -> None:
    text = "INFO: x\nERROR:    Exception in ASGI application\n" + TRACE + "INFO: y\n" + TRACE
    whole, _memory = summed(("x", text))
    lines = text.splitlines(keepends=True)
    for cut in range(1, len(lines)):
        told, _memory = summed(("x", "".join(lines[:cut])), ("other", "INFO: z\n"), ("x", "".join(lines[cut:])))
        if lines[cut] != TRACE.splitlines(keepends=True)[0] or not lines[cut - 1].startswith("ERROR"):
            assert [(one["sample"], one["count"]) for one in told] == [
                (one["sample"], one["count"]) for one in whole
            ], cut


def test_a_traceback_that_never_ends_is_told_too() -> None:
    told, _memory = summed(("x", TRACE[: TRACE.index("psycopg")]))
    assert [one["sample"] for one in told] == ["Traceback"]


def test_lines_that_a_traceback_goes_on_with_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    really = logs_summary._traceback

    def counted(data: bytes, at: int) -> tuple[str, int]:
        begun.append(at)
        return really(data, at)

    monkeypatch.setattr(logs_summary, "_traceback", counted)
    summed(("x", "Traceback (most recent call last):\n  x\n" * 3000))
    assert begun == [0]


def spread(moments: list[float], message: str = "failed") -> str:
    def stamp(at: float) -> str:
        day, rest = divmod(at - AT_SECONDS, 86400)
        return f"2026-09-{21 + int(day):02d} {10 + int(rest // 3600):02d}:{int(rest % 3600 // 60):02d}:{int(rest % 60):02d}"

    return "".join(f"{stamp(AT_SECONDS + at)} UTC ERROR:  {message} {i}\n" for i, at in enumerate(moments))


def test_the_rate_is_over_the_time_that_the_lines_span() -> None:
    told, _memory = summed(("x", spread([i * 60.0 for i in range(181)])))
    assert told[0]["per_hour"] == pytest.approx(181 / 3, abs=0.1)
    told, _memory = summed(("x", spread([0.0, 1.0, 2.0])))
    assert told[0]["per_hour"] == 3, "what spans seconds says nothing about an hour"


def test_without_times_the_rate_is_over_the_time_since_the_last_run() -> None:
    text = "ERROR:    Exception in ASGI application\n" * 60
    assert summed(("x", text))[0][0]["per_hour"] is None
    assert summed(("x", text), memory={"last_run": NOW - 2 * 3600})[0][0]["per_hour"] == 30


def test_clocks_that_jump_spoil_neither_rate_nor_times() -> None:
    lines = spread([i * 60.0 for i in range(181)]).splitlines(keepends=True)
    for odd in (
        "2031-01-01 00:00:00 UTC ERROR:  failed 1\n",
        "1970-01-01 00:00:00 UTC ERROR:  failed 1\n",
        "2026-09-14 00:00:00 UTC ERROR:  failed 1\n",
    ):
        told, _memory = summed(("x", "".join(lines[:90])), ("x", odd), ("x", "".join(lines[90:])), ("x", odd))
        assert told[0]["count"] == 183
        assert 181 / 28 < told[0]["per_hour"] <= 62
        assert told[0]["last_seen"] <= NOW
    future, _memory = summed(("x", tracker("ERROR", "x", timestamp="2031-01-01T00:00:00+00:00")))
    assert future[0]["first_seen"] == future[0]["last_seen"] == NOW
    ahead, _memory = summed(("x", tracker("ERROR", "x", timestamp="2026-09-21T14:15:00+00:00")))
    assert ahead[0]["last_seen"] == NOW, "a clock that is not quite ours"


def test_no_more_is_kept_than_the_bound() -> None:
    words = [f"{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}{chr(97 + i // 676)}" for i in range(MOST_KEPT + 100)]
    frequent = tracker("ERROR", "the frequent one") * 5
    text = frequent + "".join(tracker("ERROR", f"message {word}") for word in words)
    told, memory = summed(("x", text))
    assert len(told) == MOST_KEPT == len(memory["fingerprints"])
    assert told[0]["sample"] == "the frequent one"
    told, memory = summed(("x", tracker("ERROR", "newest", timestamp="2026-09-21T14:00:00+00:00")), memory=memory)
    assert len(memory["fingerprints"]) == MOST_KEPT and told[0]["fingerprint"] in memory["fingerprints"]


def test_samples_hold_no_secret_and_are_short() -> None:
    text = tracker("ERROR", f"key {KEY} refused\x1b[31m " + "x" * 500) + f"ERROR: password=hunter2 {KEY[:9]}\n"
    text += f"ERROR:    x\nTraceback (most recent call last):\n  y\nValueError: {KEY}\n"
    told, memory = summed(("x", text))
    assert len(told) == 3
    everything = json.dumps([told, memory])
    assert KEY[4:] not in everything and "hunter2" not in everything
    assert max(len(one["sample"]) for one in told) == SAMPLE_LENGTH
    assert all(one["sample"].isprintable() for one in told)


def test_two_keys_make_no_two_errors() -> None:
    told, _memory = summed(
        ("x", f"ERROR: key {KEY} refused\nERROR: key {KEY[::-1][:20]} x\nERROR: key sk-{KEY[9:] * 2} refused\n")
    )
    assert sorted(one["count"] for one in told) == [1, 2]


@pytest.mark.parametrize(
    "junk",
    [b"\xff\xfeERROR\x00\n" * 50, b'{"level": "ERROR", "message": "' + b"x" * (JSON_BYTES * 2) + b'"}\n', b"ERROR" * 50_000 + b"\n",
     b'{"level": "ERROR", "message": {"a": [1]}}\n', b'[{"level": "ERROR"}]\n', b'{"level": ["ERROR"]}\n' + b"[" * 5000 + b"ERROR\n",
     b"{" * 5000 + b'"level": "ERROR"\n', b"Traceback (most recent call last):\n" * 500],
    ids=["binary", "long json", "long line", "nested", "list", "odd level", "deep", "tracebacks"],
)  # fmt: skip
def test_whatever_a_line_holds_the_next_is_read(junk: bytes) -> None:
    summary = Summary({}, NOW)
    data = junk + b"\nERROR: known\n"
    summary.feed("x", data, fold(data))
    told, _memory = summary.done()
    assert "known" in " ".join(one["sample"] for one in told)


@given(st.binary(max_size=200), st.integers(0, 9))
def test_no_line_breaks_it(data: bytes, which: int) -> None:
    told = error_of(
        [b"ERROR: ", b"{", b'{"level": "ERROR", ', b"[error] ", b"level=error ", b"", b" FATAL ", b"2026", b"T", b"\t"][
            which
        ]
        + data
    )
    assert told is None or isinstance(told, Error)


def test_errors_come_out_of_the_same_scan(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text(tracker("INFO", "fine") * 50 + tracker("ERROR", f"key {KEY} refused") + tracker("ERROR", "x"))
    summary = Summary({}, NOW)
    result = scan([str(log)], {}, Limits(block_bytes=4096), lambda: 0.0, NOW, summary)
    told, _memory = summary.done()
    assert [one["count"] for one in told] == [1, 1] and result.files[0].found[0].kind == "openai-key"
    again = Summary({}, NOW)
    scan([str(log)], result.memory, Limits(), lambda: 0.0, NOW, again)
    assert again.done()[0] == []
