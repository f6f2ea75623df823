"""Secrets that were seeded into logs: all are found, none is shown, and what only looks like one is left alone."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import logs_patterns, logs_scanner
from ansible.module_utils.logs_patterns import (
    KINDS,
    PIECE_BYTES,
    excerpt,
    find,
    fold,
    likely,
    mask,
    pieces,
    redact,
    whole_lines,
)
from ansible.module_utils.logs_scanner import Limits, Scan, scan
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_790_000_000.0
# Put together here, so that nothing in this file is what is looked for.
MIXED = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC3dE5fG7hJ9kL2"
UPPER = "Q7W3E5R2T8Y4U6I9"
HEX32 = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
WORD = "Hunter" + "-2-the-Moon!"
PEM_BODY = base64.b64encode(bytes(range(48)) * 8).decode()
PEM_LINES = [PEM_BODY[i : i + 64] for i in range(0, len(PEM_BODY), 64)]
JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"1234567890","name":"J"}', bytes(range(32)))
)
MAIL = "jane.doe" + "@" + "some-firm.org"
PROMPT = "Summarise what my doctor wrote about the biopsy"
INSERT = "INSERT INTO llm_usage_logs (trace_id, model_name, prompt_text, metadata) VALUES "

# kind, what stands around the value, the value
SEEDED = [
    ("openai-key", "key {} was refused", "sk-" + MIXED),
    ("openai-key", '{{"message": "client made", "args": {{"k": "{}"}}}}', "sk-" + "proj-" + MIXED),
    ("anthropic-key", "x-api-key: {}", "sk-" + "ant-api03-" + MIXED),
    ("google-key", "GET /v1beta/models?key={} HTTP/1.1", "AI" + "za" + MIXED[:35]),
    ("aws-key", "credentials from {}", "AK" + "IA" + UPPER),
    ("aws-key", "temporary {} is used", "AS" + "IA" + UPPER),
    ("github-token", "remote: https://x-access-token:{}@github.com/x", "gh" + "p_" + MIXED[:36]),
    ("github-token", "token is {}", "github" + "_pat_" + MIXED + "_" + MIXED[:20]),
    ("gitlab-token", "PRIVATE-TOKEN {}", "gl" + "pat-" + MIXED[:20]),
    ("slack-token", "slack: {}", "xo" + "xb-1234567890-" + MIXED[:24]),
    ("slack-webhook", "POST https://hooks.slack.com/services/{} 200", "T0123ABCD/B0123ABCD/" + MIXED[:24]),
    ("stripe-key", "{}", "sk" + "_live_" + MIXED[:24]),
    ("hugging-face-token", "HfApi({})", "h" + "f_" + MIXED[:34]),
    ("groq-key", "using {}", "gs" + "k_" + MIXED),
    ("xai-key", "using {}", "xa" + "i-" + MIXED),
    ("jwt", "session {} expired", JWT),
    ("url-password", "connecting to postgresql://tracker:{}@db.internal:5432/llm_metrics", WORD),
    ("url-password", "redis://:{}@127.0.0.1:6379/0 refused", "p4ss@w0rd"),
    ("pagerduty-key", '{{"routing_key": "{}", "event_action": "trigger"}}', HEX32),
    ("pagerduty-token", "Authorization: Token token={}", MIXED[:20]),
    ("azure-key", "Ocp-Apim-Subscription-Key: {}", HEX32),
    ("azure-key", "AccountName=x;AccountKey={};EndpointSuffix=y", MIXED + "=="),
    ("authorization", "Authorization: Bearer {}", MIXED[:24]),
    ("authorization", "headers={{'authorization': 'Basic {}'}}", MIXED[:24]),
    ("api-key", "MISTRAL_API_KEY={}", MIXED[:32]),
    ("api-key", "COHERE_API_KEY='{}'", MIXED[:40]),
    ("api-key", "GET /v1/chat?api-key={}&x=1", HEX32),
    ("api-key", "aws_secret_access_key = {}", MIXED[:38] + "/x"),
    ("api-key", "SECRET_KEY={}", MIXED[:32]),
    ("secret", 'client_secret: "{}"', MIXED[:32]),
    ("token", "access_token={}&scope=all", MIXED[:32]),
    ("password", "host=db user=tracker password={} sslmode=require", "hunter"),
    ("password", '{{"user": "x", "password": "{}"}}', "correct horse"),
    ("password", '{{"user": "x", "password": "{}"}}', "123456"),
    ("password", '{{"message": "config {{\\"password\\": \\"{}\\"}}"}}', "it's \\\\\\\"so\\\\\\\" 2"),
    ("password", "DB_PASSWORD: {}", "hunter2"),
    ("password", "{{'passwd': '{}'}}", "hunter 2"),
    ("password", "LOG:  statement: ALTER ROLE tracker PASSWORD '{}'", "hunter2"),
    ("password", '{{"message": "DSN password={}"}}', "h\\u00fcnter2"),
    ("private-key", "-----BEGIN RSA PRIVATE KEY-----{}-----END RSA PRIVATE KEY-----", "\n" + "\n".join(PEM_LINES) + "\n"),
    ("private-key", '{{"key": "-----BEGIN PRIVATE KEY-----{}-----END PRIVATE KEY-----"}}', "\\n" + "\\n".join(PEM_LINES) + "\\n"),
    ("prompt-statement", "2026-03-01 LOG:  statement: " + INSERT.strip() + "{}", f" ('4', 'gpt', '{PROMPT}', '{{\"a\": 1}}');"),
    ("prompt-statement", "LOG:  execute <unnamed>: " + INSERT.strip() + "{}", f" ('4',\n\t'{PROMPT}',\n\tnull)"),
    ("prompt-statement", '{{"message":"statement: ' + INSERT.strip() + '{}","pid":7}}', f" ('4', '{PROMPT}', '{{\\\"a\\\": 1}}')"),
    ("prompt-statement", "LOG:  statement: UPDATE public.llm_usage_logs SET prompt_text = {}", f"'{PROMPT}' WHERE id = 7"),
    ("prompt-parameters", "DETAIL:  parameters: {}", f"$1 = '4', $11 = '{PROMPT}', $12 = NULL"),
    ("prompt-parameters", "DETAIL:  Parameters: {}", f"$1 = '2026-03-01 10:00:00+00', $2 = 'She said \"no\", {PROMPT}'"),
    ("mail-address", "user {} signed in", MAIL),
]  # fmt: skip
each_seeded = pytest.mark.parametrize(
    ("kind", "around", "value"), SEEDED, ids=[f"{i}-{s[0]}" for i, s in enumerate(SEEDED)]
)

HARMLESS = [
    "request_id=" + str(uuid.UUID(int=7)), '{"trace_id": "' + HEX32 + '", "span_id": "' + HEX32[:16] + '"}',
    "sha256:" + HEX32 * 2, "token_count=512 total_tokens: 7777777777", '{"prompt_tokens": 1234567890123456}',
    '"token": "' + str(uuid.UUID(int=2**127 + 99)) + '"', "token=" + HEX32, "password=***", 'password="********"',
    "password=[redacted]", '{"password": "[redacted]"}', "postgresql://tracker:***@db/x", "api_key=sk-a***U7",
    "postgresql://tracker:[redacted]@db/x", "password: required", "Password: incorrect.", 'password authentication failed for user "x"',
    '{"password": null}', '{"password": 12345}', '{"password": 1e5}', '{"password": NaN}', '{"api_key": 1234567890123e5}',
    "password=None", "PASSWORD=$PGPASSWORD", "password={{ vault_x }}", "password=<hidden>",
    '{"api_key": "missing"}', "api_key=%s", "Authorization: Bearer ***", "the api_key: see the manual", "api_key_id=" + MIXED[:20],
    "task-management-and-more-of-the-same-1", "sk-spinner-and-other-names-of-css", "disk-usage-of-0123456789-abcdef-01234567",
    "git clone git@github.com:x/y", "http://localhost:8000/path?x=a@b", "postgresql@15-main.service: started", "icon@2x.png",
    "noreply@some-firm.org", "Created by root@db1.some-firm.org", "user@localhost", "pip install pkg@1.2.3", "@app.route",
    "-----BEGIN CERTIFICATE-----\n" + "\n".join(PEM_LINES), "expected -----BEGIN PRIVATE KEY----- at the start",
    "UPDATE llm_usage_logs SET prompt_text = NULL WHERE timestamp < now()", "SELECT prompt_text FROM llm_usage_logs",
    "DETAIL:  parameters: $1 = '2026-03-01 10:00:00+00', $2 = 'gpt-4o-mini', $3 = '17', $4 = '{\"a\": 1, \"b c\": 2}'",
    "2026-03-01 status installed passwd:amd64 1:4.13+dfsg1-1", "/etc/passwd: 17 lines", "    connect(user=user, password=self.password)",
    "password=password, host=host)", "password=settings.DB_PASSWORD", "password=os.environ['PGPASSWORD']", "password=db_password)",
    "password=getpass()", "password=config['redis']", "token=self.token_provider_1A2b3C4d5E()",
    "AKIAA", "eyJub3QiOiJhIn0", "xoxo love and kisses", "hooks.slack.com is down", "PWD=/opt/app", "secret_rotation_days=90",
]  # fmt: skip


def line_of(around: str, value: str) -> bytes:
    return around.format(value).encode()


def shown_nowhere(value: str, *texts: object) -> None:
    told = json.dumps(texts, default=str)
    for part in re.split(r"\\n|\\|\n\t?|'", value):
        if len(part) > 5:
            assert part not in told


# --- patterns -----------------------------------------------------------------------------------------------------


@each_seeded
def test_what_was_seeded_is_found_and_not_shown(kind: str, around: str, value: str) -> None:
    data = b"first line\n" + line_of(around, value) + b"\nlast line\n"
    hits = find(data)
    assert [hit.kind.id for hit in hits] == [kind]
    assert data[hits[0].value_start : hits[0].value_end].decode() == value
    told = excerpt(data, hits[0], hits)
    assert "***" in told and len(told) <= 80 and told.isprintable()
    shown_nowhere(value, told)


@each_seeded
def test_a_copy_is_redacted_and_stays_what_it_was(kind: str, around: str, value: str) -> None:
    line = line_of(around, value)
    data = b'{"n": 1}\n' + line + b"\n\xff\xfe not text\nlast, without an end"
    copy, count = redact(data)
    assert count == 1 and copy.count(b"\n") == data.count(b"\n")
    shown_nowhere(value, copy.decode("latin-1"))
    before, after = data.split(b"\n"), copy.split(b"\n")
    assert (before[0], before[-2:]) == (after[0], after[-2:])
    if line.startswith(b"{") and b"'" not in line[:2]:
        json.loads(line), json.loads(after[1])
    assert redact(copy) == (copy, 0), "what is redacted is not found again"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    data = text.encode()
    assert [(hit.kind.id, data[hit.value_start : hit.value_end]) for hit in find(data)] == []
    assert redact(data) == (data, 0)


def test_identifiers_by_the_thousand_are_no_hits() -> None:
    numbers = random.Random(7)  # noqa: S311  the same in each run
    names = ("trace_id", "request_id", "etag", "sha256", "id", "digest", "session", "checksum")
    lines = []
    for i in range(20_000):
        bits = numbers.getrandbits(256)
        lines.append(
            json.dumps(
                {names[i % 8]: f"{bits:064x}"[: 16 << i % 3], "uuid": str(uuid.UUID(int=bits % 2**128)), "n": bits}
            )
        )
    assert find("\n".join(lines).encode()) == []


def test_the_outcome_of_more_than_one_in_a_line() -> None:
    key, mail = "sk-" + MIXED, MAIL
    data = f"user {mail} sent {key} to {mail}\n".encode()
    hits = find(data)
    assert [hit.kind.id for hit in hits] == ["mail-address", "openai-key", "mail-address"]
    for hit in hits:
        told = excerpt(data, hit, hits)
        shown_nowhere(key, told), shown_nowhere(mail, told)
    assert redact(data) == (b"user [redacted] sent [redacted] to [redacted]\n", 3)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", "***"),
        ("hunter2", "***"),
        ("x" * 19, "***"),
        ("sk-" + MIXED, "sk-a***L2"),
        ('a"\nb' + MIXED + '\\"', "ab***"),
    ],
)
def test_a_mask_shows_the_ends_of_long_values_alone(value: str, shown: str) -> None:
    assert mask(value.encode()) == shown


def test_severities_by_what_it_is() -> None:
    severities = {kind.id: kind.severity for kind in KINDS}
    assert severities.pop("mail-address") == "info"
    assert {severities.pop("prompt-statement"), severities.pop("prompt-parameters")} == {"warning"}
    assert set(severities.values()) == {"critical"}


@given(before=st.binary(max_size=40), after=st.binary(max_size=40), which=st.sampled_from(SEEDED), data=st.data())
def test_the_quick_look_never_misses_a_needle(
    before: bytes, after: bytes, which: tuple[str, str, str], data: Any
) -> None:
    kind = data.draw(st.sampled_from([each for each in KINDS if each.id == which[0]]))
    sign = data.draw(st.sampled_from(kind.signs or kind.needles))
    # Case, and what is dropped, change nothing where the needle is not looked for as it stands.
    sign = bytes(c ^ 0x20 if chr(c).isalpha() and data.draw(st.booleans()) else c for c in sign)
    whole = before + sign + kind.required + after
    assert kind in likely(whole, fold(whole))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("task-7 is done, 512 tokens", {"anthropic-key", "openai-key"}),
        ("by user@host", {"url-password", "mail-address"}),
        ("costs 7 $", {"prompt-parameters"}),
        ('"token": 7', {"token", "pagerduty-token"}),
        ("nothing of the kind", set()),
    ],
)
def test_a_word_asks_for_no_more_kinds_than_have_it(text: str, ids: set[str]) -> None:
    """Words like these may be in every line, and each kind that is tried costs time."""
    assert {kind.id for kind in likely(text.encode(), fold(text.encode()))} == ids


@given(
    st.lists(
        st.one_of(
            st.sampled_from([line_of(around, value) for _kind, around, value in SEEDED]),
            st.builds(lambda v: json.dumps({"message": v, "password": v}).encode(), st.text(max_size=30)),
            st.binary(max_size=60),
        ),
        max_size=8,
    ),
    st.sampled_from([b"\n", b"\r\n", b" ", b", "]),
)
@settings(deadline=None)
def test_lines_and_json_stay_whatever_is_redacted(parts: list[bytes], between: bytes) -> None:
    data = between.join(parts)
    copy, _count = redact(data)
    before, after = data.split(b"\n"), copy.split(b"\n")
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        try:
            json.loads(old)
        except (ValueError, RecursionError):
            continue
        json.loads(new)


@pytest.mark.parametrize(
    ("line", "broken", "whole"),
    [
        (f'{{"a": ["key sk-{MIXED}", 1], "b": null}}', "{", {"a": ["key [redacted]", 1], "b": None}),
        (f'{{"password": "{WORD}", "n": 1.5}}', "[redacted]", {"password": "[redacted]", "n": 1.5}),
        ('{"a": {"password": "a b"}}', '{"a"', {"a": {"password": "[redacted]"}}),
        (f'[{{"{MAIL}": true}}]', "[", [{"[redacted]": True}]),
    ],
)
def test_json_that_a_mask_would_break_is_made_anew(line: str, broken: str, whole: Any) -> None:
    done = logs_patterns._still_json(f"x\n{line}\n".encode(), f"x\n{broken}\n".encode())
    assert json.loads(done.splitlines()[1]) == whole and done.startswith(b"x\n") and done.endswith(b"\n")
    assert logs_patterns._still_json(b"{no json\n", b"{other\n") == b"{other\n"


def test_a_statement_is_not_cut_from_the_lines_that_it_goes_on_with() -> None:
    statement = f"LOG:  statement: {INSERT}(1,\n\t'{PROMPT}',\n\t'and more')\n".encode()
    for short in range(10):
        data = b"x" * 9 + b"\n" + b"y" * (PIECE_BYTES - 80 - short * 20) + b"\n" + statement + b"z\n" * 999
        copy, count = redact(data)
        assert count == 1 and b"doctor" not in copy and b"and more" not in copy
        assert copy.count(b"\n") == data.count(b"\n")


def test_data_larger_than_a_piece_is_cut_between_lines_and_not_in_a_key() -> None:
    pem = line_of(*SEEDED_PEM)
    filler = b"x" * 99 + b"\n"
    for short in range(0, 2000, 97):
        data = filler * (PIECE_BYTES // 100 - 5) + b"y" * short + b"\n" + pem + b"\n" + filler * 20
        assert b"".join(data[a:b] for a, b in pieces(data)) == data
        assert [hit.kind.id for hit in find(data)] == ["private-key"]
        copy, count = redact(data)
        assert count == 1 and not any(part.encode() in copy for part in PEM_LINES)


SEEDED_PEM = next((around, value) for kind, around, value in SEEDED if kind == "private-key")


def test_whole_lines_leave_a_key_that_goes_on() -> None:
    pem = line_of(*SEEDED_PEM) + b"\n"
    first = b"a line\n"
    lines = pem.splitlines(keepends=True)
    assert whole_lines(first + b"part") == len(first)
    assert whole_lines(first + b"".join(lines[:4]) + lines[4][:9]) == len(first)
    assert whole_lines(first + lines[0]) == len(first)
    assert whole_lines(first + pem) == len(first + pem)
    assert whole_lines(first + lines[0] + b"2026-03-01 something else\n") > len(first) + len(lines[0])
    assert whole_lines(b"no end") == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_in_utf_16_is_found_and_redacted(encoding: str) -> None:
    text = f"first\npassword={WORD} and\nkey sk-{MIXED}\nlast\n"
    copy, count = redact(text.encode(encoding))
    assert count == 2
    assert copy.decode(encoding) == "first\npassword=[redacted] and\nkey [redacted]\nlast\n"


@pytest.mark.parametrize(
    "text",
    [
        "password=",
        "a@",
        "-----BEGIN PRIVATE KEY-----",
        "llm_usage_logs ",
        "eyJ",
        "://:",
        "'\"",
        "\\",
        "arameters: $1 = '",
    ],
)
def test_a_long_text_of_needles_is_looked_through(text: str) -> None:
    data = (text * (200_000 // len(text))).encode()
    copy, _count = redact(data)
    assert copy.count(b"\n") == 0


@pytest.mark.parametrize("value", ["'a long text of words'", "'1'"], ids=["a hit", "none"])
def test_what_was_judged_whole_is_not_judged_again(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement goes to the end of its line; judged anew at each needle in it, a line of a megabyte takes for ever."""
    judged = []
    really = logs_patterns._at

    def counted(kind: Any, data: bytes, place: int) -> Any:
        judged.append(kind.id)
        return really(kind, data, place)

    monkeypatch.setattr(logs_patterns, "_at", counted)
    find(f"parameters: $1 = {value}, ".encode() * 500)
    assert judged == ["prompt-parameters"]


# --- scans --------------------------------------------------------------------------------------------------------


def seconds_that_stand_still() -> float:
    return 0.0


def scanned(paths: Sequence[Path], memory: dict[str, Any] | None = None, **limits: Any) -> Scan:
    result = scan([str(p) for p in paths], memory or {}, Limits(**limits), seconds_that_stand_still, NOW)
    json.dumps(result.memory)
    return Scan(result.files, json.loads(json.dumps(result.memory)))


def kinds(result: Scan) -> dict[str, tuple[int, int]]:
    """Return how many lines and the first line of each kind, of the only file."""
    return {found.kind: (found.count, found.line) for found in result.files[0].found}


SECRET_LINE = f"key sk-{MIXED} was used\n".encode()
PLAIN_LINE = b'{"level": "INFO", "message": "all is well", "request_id": "00000000-0000-0000-0000-000000000007"}\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def test_hits_are_told_by_file_kind_count_and_first_line(log: Path) -> None:
    log.write_bytes(PLAIN_LINE * 3 + SECRET_LINE + PLAIN_LINE + SECRET_LINE + f"from {MAIL} and {MAIL}\n".encode())
    result = scanned([log])
    assert kinds(result) == {"openai-key": (2, 4), "mail-address": (1, 7)}
    assert result.files[0].found[0].excerpt == "key sk-a***L2 was used"
    assert result.scanned_bytes == log.stat().st_size and result.unscanned_bytes == 0
    assert kinds(scanned([log], personal_data=False)) == {"openai-key": (2, 4)}


@each_seeded
def test_neither_result_nor_memory_hold_a_value(log: Path, kind: str, around: str, value: str) -> None:
    log.write_bytes(PLAIN_LINE + line_of(around, value) + b"\n" + PLAIN_LINE)
    result = scanned([log])
    assert kinds(result) == {kind: (1, 2)}
    shown_nowhere(value, result.memory, result.files)


def test_the_next_run_reads_what_is_new_and_still_knows_what_it_found(log: Path) -> None:
    log.write_bytes(PLAIN_LINE + SECRET_LINE)
    first = scanned([log])
    again = scanned([log], first.memory)
    assert (kinds(again), again.scanned_bytes) == ({"openai-key": (1, 2)}, 0)
    with log.open("ab") as file:
        file.write(PLAIN_LINE + SECRET_LINE + b"password=hunter2\n")
    third = scanned([log], again.memory)
    assert kinds(third) == {"openai-key": (2, 2), "password": (1, 5)}
    assert third.scanned_bytes == len(PLAIN_LINE + SECRET_LINE) + 17


def test_what_was_found_is_forgotten_with_its_file(log: Path) -> None:
    log.write_bytes(SECRET_LINE)
    memory = scanned([log]).memory
    log.unlink()
    result = scanned([log], memory)
    assert [(f.vanished, f.problem, f.found) for f in result.files] == [(True, "it is gone", [])]
    assert result.memory["files"] == {}


def test_a_file_is_followed_when_it_is_rotated(log: Path) -> None:
    log.write_bytes(PLAIN_LINE + SECRET_LINE)
    memory = scanned([log]).memory
    with log.open("ab") as file:
        file.write(b"password=hunter2\n")  # after the last run, before the rotation
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(PLAIN_LINE * 9)
    result = scanned([log], memory)
    assert {Path(f.path).name: {x.kind: x.line for x in f.found} for f in result.files} == {
        "app.log": {}, "app.log.1": {"openai-key": 2, "password": 3}
    }  # fmt: skip
    assert result.scanned_bytes == len(PLAIN_LINE) * 9 + 17
    both = scanned([log, log.with_name("app.log.1")], result.memory)
    assert both.scanned_bytes == 0 and len(both.files) == 2


def test_what_was_found_stays_found_when_its_file_is_compressed(log: Path) -> None:
    log.write_bytes(PLAIN_LINE + SECRET_LINE)
    log.with_name("clean.log").write_bytes(PLAIN_LINE)
    result = scanned([log, log.with_name("clean.log")])
    for path in (log, log.with_name("clean.log")):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    compressed, name = [], "app.log.gz"
    for _run in range(2):
        result = scanned([], result.memory)
        compressed.append(
            [(Path(f.path).name, [(x.kind, x.line) for x in f.found], f.scanned_bytes) for f in result.files]
        )
    assert compressed == [[(name, [("openai-key", 2)], 0)]] * 2
    log.with_name(name).rename(log.with_name("app.log.2.gz"))
    result = scanned([], result.memory)
    assert [(Path(f.path).name, kinds(result)) for f in result.files] == [("app.log.2.gz", {"openai-key": (1, 2)})]
    log.with_name("app.log.2.gz").unlink()
    result = scanned([], result.memory)
    assert (result.files, result.memory["files"]) == ([], {})


def test_an_inode_that_a_compressed_file_had_is_another_file(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(SECRET_LINE)
    memory = scanned([log]).memory
    log.with_name("app.log.gz").write_bytes(gzip.compress(SECRET_LINE))
    log.unlink()
    memory = scanned([], memory).memory
    assert [entry["path"] for entry in memory["files"].values()] == [str(log) + ".gz"]
    log.with_name("app.log.gz").rename(log)
    log.write_bytes(PLAIN_LINE * 3)
    result = scanned([log], memory)
    assert kinds(result) == {} and result.scanned_bytes == len(PLAIN_LINE) * 3


@pytest.mark.parametrize("again", [b"", PLAIN_LINE, b"other " + PLAIN_LINE * 30], ids=["empty", "shorter", "longer"])
def test_a_truncated_file_is_read_from_its_start(log: Path, again: bytes) -> None:
    log.write_bytes(PLAIN_LINE * 3 + SECRET_LINE * 3)
    memory = scanned([log]).memory
    with log.open("r+b") as file:  # the same inode, as copytruncate leaves it
        file.truncate()
        file.write(again + b"password=hunter2\n")
    result = scanned([log], memory)
    assert kinds(result) == {"password": (1, again.count(b"\n") + 1)}
    assert result.scanned_bytes == len(again) + 17


def test_a_reused_inode_is_another_file(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_scanner, "_key", lambda status: "one:inode")
    log.write_bytes(PLAIN_LINE + SECRET_LINE)
    memory = scanned([log]).memory
    log.unlink()
    log.write_bytes(b"another beginning\n" + PLAIN_LINE * 9)
    result = scanned([log], memory)
    assert kinds(result) == {} and result.scanned_bytes == log.stat().st_size


def test_a_hole_at_the_start_is_stepped_over(log: Path) -> None:
    """A writer that does not append goes on where it was in a truncated file."""
    with log.open("wb") as file:
        file.seek(3 * 2**30)
        file.write(PLAIN_LINE + SECRET_LINE)
    result = scanned([log])
    assert kinds(result) == {"openai-key": (1, 2)} and result.unscanned_bytes == 0
    assert result.scanned_bytes < 2**20, "three gigabytes of nothing are not read"
    with log.open("ab") as file:
        file.truncate(4 * 2**30)
    later = scanned([log], result.memory)
    assert later.unscanned_bytes == 0 and later.scanned_bytes < 2**20


def test_nuls_among_lines_hide_nothing(log: Path) -> None:
    log.write_bytes(PLAIN_LINE + b"\0" * 5000 + SECRET_LINE + b"\0\0\n" + "password=hunter2\n".encode("utf-16-le"))
    assert kinds(scanned([log])) == {"openai-key": (1, 2), "password": (1, 4)}


@pytest.mark.parametrize(
    "junk",
    [
        os.urandom(300_000), bytes(range(256)) * 2000, b"\xff" * 200_000, "Grüße\n".encode("latin-1") * 999, b"{" * 100_000,
        b'{"message": "broken\n' * 99, b"\n" * 5000, "日本\n".encode() * 999, b"\r\n" * 999,
    ],
    ids=["random", "all bytes", "0xff", "latin-1", "braces", "broken JSON", "empty lines", "utf-8", "crlf"],
)  # fmt: skip
def test_whatever_a_log_holds_the_rest_of_it_is_read(log: Path, junk: bytes) -> None:
    log.write_bytes(junk + b"\n" + SECRET_LINE + b"last\n")
    result = scanned([log])
    assert kinds(result)["openai-key"] == (1, junk.count(b"\n") + 2)
    assert result.unscanned_bytes == 0


def test_an_unfinished_last_line_is_looked_at_and_read_again(log: Path) -> None:
    log.write_bytes(PLAIN_LINE + b"password=hunt")
    first = scanned([log])
    assert (kinds(first), first.unscanned_bytes) == ({"password": (1, 2)}, 0)
    unchanged = scanned([log], first.memory)
    assert (kinds(unchanged), unchanged.scanned_bytes) == ({"password": (1, 2)}, 0)
    with log.open("ab") as file:
        file.write(b"er2 and\n" + SECRET_LINE)
    result = scanned([log], unchanged.memory)
    assert kinds(result) == {"password": (1, 2), "openai-key": (1, 3)}


SMALL = {"block_bytes": 512, "long_line_bytes": 400, "overlap_bytes": 150, "turn_bytes": 2048}


@pytest.mark.parametrize("place", range(300, 1400, 37))
def test_a_hit_over_the_end_of_a_block_is_found_once(log: Path, place: int) -> None:
    """In lines, and in one line that is longer than what is kept in memory."""
    log.write_bytes(b"x\n" * (place // 2) + SECRET_LINE + b"y\n" * 500)
    assert kinds(scanned([log], **SMALL)) == {"openai-key": (1, place // 2 + 1)}
    log.unlink()
    log.write_bytes(
        PLAIN_LINE + b"word " * (place // 5) + SECRET_LINE.strip() + b" word" * 500 + b"\n" + PLAIN_LINE + SECRET_LINE
    )
    assert kinds(scanned([log], **SMALL)) == {"openai-key": (2, 2)}


def test_lines_of_megabytes_are_read_in_parts(log: Path) -> None:
    value = "and a long passphrase "
    parts = [
        b"x" * 1_000_000,
        SECRET_LINE.strip(),
        b" ",
        b"y z" * 700_000,
        f'"password": "{value * 20}" {MAIL}'.encode(),
        b"z" * 900_000,
    ]
    log.write_bytes(PLAIN_LINE + b" ".join(parts) + b"\n" + SECRET_LINE)
    result = scanned([log])
    assert kinds(result) == {"openai-key": (2, 2), "password": (1, 2), "mail-address": (1, 2)}
    shown_nowhere(value, result.files, result.memory)
    assert result.unscanned_bytes == 0


def test_the_end_of_a_cut_value_is_not_shown_with_the_next_hit(log: Path) -> None:
    """A prompt has no bound, so a part of a long line may begin in the middle of one."""
    for place in range(0, 600, 23):
        log.unlink(missing_ok=True)
        log.write_text(
            f"{'word ' * 60}{'x' * place} {INSERT}(1, '{PROMPT * 9} {MAIL} {PROMPT * 9}')\n{PLAIN_LINE.decode()}"
        )
        result = scanned([log], **SMALL)
        assert kinds(result)["prompt-statement"] == (1, 1)
        shown_nowhere("biopsy", result.files, result.memory), shown_nowhere(MAIL, result.files, result.memory)


@given(
    lines=st.lists(
        st.one_of(
            st.sampled_from([b"", b"x" * 700, PLAIN_LINE.strip(), SECRET_LINE.strip(), b"password=hunter2", b"a " * 600 + SECRET_LINE.strip()]),
            st.binary(max_size=50).map(lambda b: b.replace(b"\n", b"").replace(b"\0", b"")),
        ),
        max_size=25,
    ),
    block=st.integers(200, 3000),
    budget=st.integers(1, 4000),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_neither_blocks_nor_budgets_change_what_is_found(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int, budget: int
) -> None:
    log = tmp_path_factory.mktemp("scan") / "app.log"
    log.write_bytes(b"".join(line + b"\n" for line in lines))
    whole = kinds(scanned([log]))
    memory: dict[str, Any] = {}
    for _run in range(500):
        result = scanned([log], memory, **{**SMALL, "block_bytes": block, "max_bytes": budget})
        memory = result.memory
        if not result.unscanned_bytes:
            break
    assert result.unscanned_bytes == 0
    assert {k: v for k, v in kinds(result).items() if k in ("openai-key", "password")} == {
        k: v for k, v in whole.items() if k in ("openai-key", "password")
    }


def test_a_key_over_blocks_is_found_with_its_first_line(log: Path) -> None:
    pem = line_of(*SEEDED_PEM) + b"\n"
    for filler in range(0, 600, 41):
        log.unlink(missing_ok=True)
        log.write_bytes(b"x\n" * filler + pem + b"y\n" * 300)
        result = scanned([log], block_bytes=512, long_line_bytes=4096)
        assert {k: count for k, (count, _line) in kinds(result).items()} == {"private-key": 1}


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_run_ends_at_its_bytes_and_the_next_goes_on(tmp_path: Path) -> None:
    logs = [tmp_path / f"{i}.log" for i in range(5)]
    for each in logs:
        each.write_bytes(PLAIN_LINE * 200 + SECRET_LINE)
    size = logs[0].stat().st_size
    memory: dict[str, Any] = {}
    left = []
    for _run in range(40):
        result = scanned(logs, memory, max_bytes=4000, **SMALL)
        assert result.scanned_bytes <= 4000 + SMALL["block_bytes"]
        memory = result.memory
        left.append(result.unscanned_bytes)
        if not left[-1]:
            break
    assert left == sorted(left, reverse=True) and 4 * size < left[0] < 5 * size and left[-1] == 0
    assert [[(x.kind, x.line) for x in f.found] for f in result.files] == [[("openai-key", 201)]] * 5


def test_no_file_waits_for_a_larger_one(tmp_path: Path) -> None:
    large, small = tmp_path / "a.log", tmp_path / "b.log"
    large.write_bytes(PLAIN_LINE * 2000)
    small.write_bytes(SECRET_LINE)
    result = scanned([large, small], max_bytes=10_000, **SMALL)
    assert [f.unscanned_bytes > 0 for f in result.files] == [True, False]
    assert [x.kind for x in result.files[1].found] == ["openai-key"]


def test_a_budget_for_one_turn_reaches_every_file_in_the_end(tmp_path: Path) -> None:
    logs = [tmp_path / f"{i}.log" for i in range(3)]
    memory: dict[str, Any] = {}
    reached: set[str] = set()
    for _run in range(6):
        for each in logs:  # all go on growing faster than they are read
            with each.open("ab") as file:
                file.write(PLAIN_LINE * 100)
        result = scanned(logs, memory, max_bytes=1, **SMALL)
        memory = result.memory
        reached |= {Path(f.path).name for f in result.files if f.scanned_bytes}
    assert reached == {"0.log", "1.log", "2.log"}


def test_a_run_ends_at_its_seconds(tmp_path: Path) -> None:
    logs = [tmp_path / f"{i}.log" for i in range(3)]
    for each in logs:
        each.write_bytes(PLAIN_LINE * 2000)
    spent = iter(range(10_000))
    result = scan([str(p) for p in logs], {}, Limits(max_seconds=30, **SMALL), lambda: float(next(spent)), NOW)
    assert 512 < result.scanned_bytes <= 40 * 512 and result.unscanned_bytes > 0
    spent = iter(range(0, 10_000, 99))
    late = scan([str(p) for p in logs], {}, Limits(max_seconds=30, **SMALL), lambda: float(next(spent)), NOW)
    assert late.scanned_bytes == 0 and late.unscanned_bytes == 3 * logs[0].stat().st_size


# --- what is no log -----------------------------------------------------------------------------------------------


def link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(SECRET_LINE)
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (link, "it is a symbolic link"),
        (lambda path: path.mkdir(), "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: None, "it is gone"),
    ],
    ids=["link", "folder", "pipe", "gone"],
)  # fmt: skip
def test_what_cannot_be_read_is_told_and_the_others_are_read(
    log: Path, make: Callable[[Path], None], problem: str
) -> None:
    other = log.with_name("other.log")
    make(log)
    other.write_bytes(SECRET_LINE)
    result = scanned([log, other])
    told = {Path(f.path).name: (f.problem, [x.kind for x in f.found]) for f in result.files}
    assert told == {"app.log": (problem, []), "other.log": ("", ["openai-key"])}


def test_what_cannot_be_opened_keeps_what_was_found_in_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(SECRET_LINE)
    memory = scanned([log]).memory
    really = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if str(path) == str(log):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    refused = scanned([log], memory)
    assert (refused.files[0].problem, kinds(refused)) == ("Permission denied", {"openai-key": (1, 1)})
    monkeypatch.undo()
    assert scanned([log], refused.memory).scanned_bytes == 0


def test_compressed_files_and_second_names_are_not_read(log: Path) -> None:
    log.write_bytes(SECRET_LINE)
    os.link(log, log.with_name("again.log"))
    log.with_name("app.log.2.gz").write_bytes(gzip.compress(SECRET_LINE))
    result = scanned([log, log.with_name("again.log"), log.with_name("app.log.2.gz")])
    assert [(Path(f.path).name, f.scanned_bytes) for f in result.files] == [("app.log", len(SECRET_LINE))]


def test_a_file_rotated_during_the_run_is_left_to_the_next(log: Path) -> None:
    log.write_bytes(PLAIN_LINE * 100 + SECRET_LINE)
    turns = []

    def cpu() -> float:
        turns.append(1)
        if len(turns) == 4:
            log.rename(log.with_name("app.log.1"))
            log.write_bytes(PLAIN_LINE)
        return 0.0

    first = scan([str(log)], {}, Limits(**SMALL), cpu, NOW)
    second = scanned([log], first.memory)
    assert {Path(f.path).name: [x.kind for x in f.found] for f in second.files} == {
        "app.log": [],
        "app.log.1": ["openai-key"],
    }
    assert first.scanned_bytes + second.scanned_bytes < len(PLAIN_LINE) * 120


@pytest.mark.parametrize("left", [0, 700, 1300])
def test_a_file_truncated_during_the_run_ends_there(log: Path, left: int) -> None:
    log.write_bytes(PLAIN_LINE * 100 + SECRET_LINE)
    turns = []

    def cpu() -> float:
        turns.append(1)
        if len(turns) == 4:
            os.truncate(log, left)
        return 0.0

    first = scan([str(log)], {}, Limits(**{**SMALL, "long_line_bytes": 5000}), cpu, NOW)
    log.write_bytes(SECRET_LINE)
    assert kinds(scanned([log], first.memory)) == {"openai-key": (1, 1)}
    assert first.scanned_bytes < 5000


def test_memory_of_another_version_is_begun_anew(log: Path) -> None:
    log.write_bytes(SECRET_LINE)
    assert scanned([log], {"version": 0, "files": {"x": 1}}).scanned_bytes == len(SECRET_LINE)


def test_a_watcher_gets_each_whole_line_once(log: Path) -> None:
    lines = [f"line {i} {'x' * (i * 7 % 600)}\n".encode() for i in range(300)]
    log.write_bytes(b"".join(lines))
    seen: list[bytes] = []

    class Watcher:
        def feed(self, path: str, data: bytes, folded: bytes) -> None:
            assert path == str(log) and folded == fold(data)
            seen.append(data)

    limits = Limits(**{**SMALL, "long_line_bytes": 700, "block_bytes": 800})
    scan([str(log)], {}, limits, seconds_that_stand_still, NOW, Watcher())
    assert b"".join(seen) == b"".join(lines)
