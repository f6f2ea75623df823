from __future__ import annotations

import json
import shlex
import time
import urllib.parse

import pytest
from runbook.redact import MASK, Redactor, is_secret_name

SECRET_NAMES = [
    "PGPASSWORD",
    "database_password",
    "OPENAI_API_KEY",
    "vault_db_pass",
    "token",
    "GITHUB_TOKEN",
    "client_secret",
    "AWS_SECRET_ACCESS_KEY",
    "ssh_private_key",
    "auth-token",
    "PASSPHRASE",
    "smtp_credentials",
]
HARMLESS_NAMES = [
    "total_tokens",
    "prompt_tokens",
    "token_count",
    "token_usage",
    "ANSIBLE_VAULT_PASSWORD_FILE",
    "bypass",
    "password_encryption",
    "token_limit",
    "compass",
    "passed",
    "secret_rotation_days",
    "no_log",
    "key",
    "PATH",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_that_hold_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_names_that_only_sound_like_it(name: str) -> None:
    assert not is_secret_name(name)


SECRET = "s3cr3t 'quoted\" ünd/so"
FORMS = [SECRET, json.dumps(SECRET)[1:-1], urllib.parse.quote(SECRET, safe=""), shlex.quote(SECRET)]


@pytest.mark.parametrize("form", FORMS)
def test_a_known_value_is_masked_in_the_forms_it_takes(form: str) -> None:
    redactor = Redactor()
    redactor.learn(SECRET)
    assert redactor.text(f"before {form} after") == f"before {MASK} after"


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    redactor = Redactor()
    redactor.learn(["hunter2", "hunter2-and-more"])
    assert redactor.text("hunter2-and-more hunter2") == f"{MASK} {MASK}"


def test_short_values_and_templates_are_not_learned() -> None:
    redactor = Redactor()
    redactor.learn_named(
        {"password": "usage", "db_password": "{{ vault_db_password }}", "x_token": None, "y_token": True}
    )
    assert (
        redactor.text("usage {{ vault_db_password }} None True") == "usage {{ vault_db_password }} None True"
    )


PATTERNS = [
    ("host=x password=hunter2 user=y", "host=x password=******** user=y"),
    ("password: 'two words' next", "password: ******** next"),
    ('{"api_key": "abcdef"}', '{"api_key": ********}'),
    ("--db-password=abc,x", "--db-password=********,x"),
    ("Authorization: Bearer abcdefghijk", "Authorization: Bearer ********"),
    (
        "postgresql://me:pw@db/x and https://me:pw@h",
        "postgresql://me:********@db/x and https://me:********@h",
    ),
    ("key sk-abcdefgh1234 used", "key ******** used"),
    ("AKIAABCDEFGHIJKLMNOP", "********"),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest", "********\nrest"),
]


@pytest.mark.parametrize(("text", "masked"), PATTERNS)
def test_patterns(text: str, masked: str) -> None:
    assert Redactor().text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "tokens=512 total_tokens: 7",
        'psql "password=$PGPASSWORD"',
        "password: null",
        "the token bucket is full",
        "password={{ vault_x }}",
        "https://host:8080/path",
        "password=********",
    ],
)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert Redactor().text(text) == text


def test_data_is_masked_by_key_and_a_value_learned_there_is_masked_elsewhere() -> None:
    data = {
        "said": "hunter22 again",
        "nested": [{"db_password": "hunter22", "total_tokens": 123456789, "n": None}],
    }
    masked = {
        "said": f"{MASK} again",
        "nested": [{"db_password": MASK, "total_tokens": 123456789, "n": None}],
    }
    assert Redactor().data(data) == masked


def test_clean_takes_control_sequences_out_even_of_the_middle_of_a_secret() -> None:
    redactor = Redactor()
    redactor.learn("hunter22")
    assert redactor.clean("a\x1b[31mb\x1b]0;title\x07c hun\x1b[1mter22 \x00\td\n") == f"abc {MASK} \td\n"


@pytest.mark.parametrize("text", ["x", "a-b_", "password", "a.b+", "://", "token_", "bearer ", "-----BEGIN PRIVATE KEY"])
def test_a_long_text_costs_no_time_to_speak_of(text: str) -> None:
    started = time.monotonic()
    Redactor().text(text * (400_000 // len(text)))
    assert time.monotonic() - started < 5
