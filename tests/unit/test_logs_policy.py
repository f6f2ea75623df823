"""Policies: what is refused, what overlaps, and the configuration that follows from them."""

from __future__ import annotations

import glob
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.logs_policy import (
    MARK,
    Policy,
    Rendering,
    Server,
    config_text,
    covers,
    is_ours,
    overlap,
    policies_from,
    replaced_by,
    size_of,
)
from hypothesis import given
from hypothesis import strategies as st

ROOT = Rendering(root=True, su="www-data adm", owner="www-data", group="adm", compressor="/usr/bin/zstd", hold_file="/etc/hold")


def one(**changes: Any) -> dict[str, Any]:
    return {"name": "nginx", "paths": ["/var/log/nginx/*.log"], **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Nginx"}, "lower case letters"),
        ({"name": "../x"}, "lower case letters"),
        ({"paths": []}, "paths is empty"),
        ({"paths": ["var/log/x.log"]}, "must be absolute"),
        ({"paths": ["/var/log/../x.log"]}, "must be absolute"),
        ({"paths": ["/var/log/a b.log"]}, "spaces"),
        ({"paths": ["/var/log/x{y}.log"]}, "braces"),
        ({"paths": ["//var/log/x.log"]}, "must be absolute"),
        ({"paths": ["/*/x/*.log"]}, "any file of the system"),
        ({"paths": ["/var/log/nginx/*"]}, "matches rotated files"),
        ({"paths": ["/usr/local/app/x.log"]}, "ProtectSystem"),
        ({"paths": ["/etc/app/x.log"]}, "ProtectSystem"),
        ({"max_size": "100MB"}, "no size"),
        ({"max_size": "0"}, "no size"),
        ({"mode": "0666"}, "others than the owner write"),
        ({"mode": "rw"}, "octal"),
        ({"mode": "0999"}, "octal"),
        ({"owner": "www-data"}, "belong together"),
        ({"replaces": ["/etc/logrotate.d/nginx"]}, "without a path"),
        ({"reopen": "signal"}, "needs signal and either pid_file or unit"),
        ({"reopen": "signal", "signal": "HUP"}, "needs signal and either"),
        ({"reopen": "signal", "signal": "HUP", "pid_file": "/run/x.pid", "unit": "x"}, "needs signal and either"),
        ({"reopen": "signal", "signal": "KILL", "unit": "x"}, "none by which programs open"),
        ({"reopen": "signal", "signal": "HUP", "unit": "x; rm -rf /"}, "no name of a unit"),
        ({"reopen": "command"}, "needs command"),
        ({"reopen": "command", "command": "true\nendscript\nrm -rf /"}, "endscript"),
        ({"reopen": "copytruncate", "archive": True}, "never whole"),
        ({"keep": 0}, "a rotation is a deletion"),
        ({"keep_days": 0}, "at least 1"),
        ({"keep_days": 30, "max_days": 7}, "is more than max_days"),
        ({"keep_days": 30, "keep": 7}, "reaches 7 days back"),
        ({"options": ["daily\n}"]}, "not one line"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_seen(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("(", r"\(")) as refused:
        policies_from([one(**changes)])
    assert "policy" in str(refused.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValueError) as refused:
        policies_from([one(mode="0666"), one(mode="0644", keep=0), one(max_size="1TB")])
    text = str(refused.value)
    assert all(word in text for word in ("0666", "keep is 0", "1TB", "nginx is there twice"))


def test_a_file_has_one_policy() -> None:
    other = {"name": "all", "paths": ["/srv/x.log", "/var/log/*/access.log"]}
    with pytest.raises(ValueError, match=r"policies nginx \(/var/log/nginx/\*.log\) and all \(/var/log/\*/access.log\) may match one file"):
        policies_from([one(), other])
    assert len(policies_from([one(), {**other, "paths": ["/var/log/app/*.log"]}])) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"keep_days": 30, "keep": 7, "archive": True},
        {"rotated_by": "application", "paths": ["/opt/app/logs/*"]},
        {"reopen": "signal", "signal": "HUP", "unit": "prometheus.service"},
        {"paths": ["/srv/*/logs/*.log"]},
        {"frequency": "weekly", "keep": 4, "keep_days": 28},
    ],
)
def test_what_makes_sense_is_taken(changes: dict[str, Any]) -> None:
    assert policies_from([one(**changes)])[0].name == "nginx"


@pytest.mark.parametrize(("text", "size"), [("500", 500), ("10k", 10240), ("100M", 100 << 20), ("2G", 2 << 30)])
def test_sizes_are_those_of_logrotate(text: str, size: int) -> None:
    assert size_of(text) == size


# --- globs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        ("/var/log/*.log", "/var/log/app.log", True),
        ("/var/log/*.log", "/var/log/app/x.log", False),
        ("/var/log/*/*.log", "/var/log/app/*.log", True),
        ("/var/log/a*.log", "/var/log/*b.log", True),
        ("/var/log/a*.log", "/var/log/b*.log", False),
        ("/var/log/app.log", "/var/log/app.log", True),
        ("/var/log/app-?.log", "/var/log/app-10.log", False),
        ("/var/log/app[0-9].log", "/var/log/app1.log", True),
        ("/var/log/app[0-4].log", "/var/log/app[5-9].log", False),
        ("/var/log/app[0-5].log", "/var/log/app[5-9].log", True),
        ("/var/log/app[!a].log", "/var/log/app[!b].log", True),
        ("/var/log/app[!a].log", "/var/log/appa.log", False),
        ("/var/log/app[]x].log", "/var/log/app].log", True),
        ("/var/log/*", "/var/log/x.err", True),
        ("/var/log/x.log", "/srv/log/x.log", False),
    ],
)
def test_globs_overlap_where_one_file_may_match_both(first: str, second: str, common: bool) -> None:
    assert overlap(first, second) is common
    assert overlap(second, first) is common


@given(st.text("ab*?", max_size=6), st.text("ab*?", max_size=6), st.text("ab", max_size=6))
def test_globs_that_match_one_name_overlap(first: str, second: str, name: str) -> None:
    if covers([f"/x/{first}"], f"/x/{name}") and covers([f"/x/{second}"], f"/x/{name}"):
        assert overlap(f"/x/{first}", f"/x/{second}")


def test_globs_are_those_of_the_shell(tmp_path: Path) -> None:
    for name in ("a.log", ".hidden.log", "b.txt", "sub/c.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for pattern in ("*.log", "*/*.log", "?.log", ".*.log", "*"):
        there = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
        matched = {path for path in glob.glob(str(tmp_path / pattern)) if Path(path).is_file()}
        assert {path for path in there if covers([str(tmp_path / pattern)], path)} == matched


# --- configuration ----------------------------------------------------------------------------------------------


def test_a_time_and_a_size_both_count() -> None:
    text = config_text(policies_from([one(max_size="1M", max_days=30)])[0], ROOT, Server())
    lines = [line.strip() for line in text.splitlines()]
    assert text.startswith(MARK) and is_ours(text)
    assert "daily" in lines and "maxsize 1048576" in lines and not any(line.startswith("size") for line in lines)
    assert {"rotate 14", "maxage 30", "su www-data adm", "create 0640 www-data adm", "compresscmd /usr/bin/zstd", "delaycompress"} <= set(lines)
    assert "test ! -e /etc/hold" in lines


@pytest.mark.parametrize(
    ("policy", "rendering"),
    [(one(archive=True, max_days=30), ROOT), (one(max_days=30), Rendering(held="court", hold_file="/x"))],
)
def test_logrotate_deletes_nothing_that_has_to_be_archived_or_is_held(policy: dict[str, Any], rendering: Rendering) -> None:
    lines = [line.strip() for line in config_text(policies_from([policy])[0], rendering, Server()).splitlines()]
    assert "rotate -1" in lines and not any(line.startswith("maxage") for line in lines)
    assert not any(line.startswith("test ! -e") for line in lines), "a hold that is known does not stop rotations"


def test_what_was_replaced_is_in_the_file_itself() -> None:
    text = config_text(policies_from([one(replaces=["nginx", "other"])])[0], ROOT, Server())
    assert replaced_by(text) == ["nginx", "other"]


@pytest.mark.parametrize(
    ("changes", "script"),
    [
        ({"reopen": "nginx"}, """[ ! -s /run/nginx.pid ] || kill -USR1 "$(cat /run/nginx.pid)\""""),
        ({"reopen": "signal", "signal": "SIGHUP", "pid_file": "/run/x.pid"}, """[ ! -s /run/x.pid ] || kill -HUP "$(cat /run/x.pid)\""""),
        ({"reopen": "signal", "signal": "HUP", "unit": "x.service"}, "systemctl kill --signal=HUP --kill-whom=main x.service"),
        ({"reopen": "postgresql"}, "SELECT pg_rotate_logfile()"),
        ({"reopen": "command", "command": "touch /tmp/x"}, "touch /tmp/x"),
    ],
)
def test_the_writer_is_told_in_its_own_way(changes: dict[str, Any], script: str) -> None:
    text = config_text(policies_from([one(**changes)])[0], ROOT, Server())
    assert script in text and "sharedscripts" in text and text.count("endscript") == 2


@pytest.mark.parametrize("reopen", ["watched", "copytruncate"])
def test_who_opens_by_itself_is_told_nothing(reopen: str) -> None:
    text = config_text(policies_from([one(reopen=reopen)])[0], ROOT, Server())
    assert "postrotate" not in text
    assert ("copytruncate" in text) is (reopen == "copytruncate") and ("create" in text) is (reopen != "copytruncate")


def test_nothing_of_the_inventory_becomes_shell() -> None:
    policy = Policy("x", ("/var/log/x.log",), reopen="nginx", pid_file="/run/$(touch owned).pid")
    server = Server(host="/run/'; touch owned; '", user="a'b", os_user="")
    asked = config_text(Policy("y", ("/var/log/y.log",), reopen="postgresql"), ROOT, server)
    for text in (config_text(policy, ROOT, server), asked):
        script = "\n".join(line.strip() for line in text.split("postrotate\n")[1].split("endscript")[0].splitlines())
        subprocess.run(["sh", "-c", f"cd /nonexistent 2>/dev/null; {script}"], capture_output=True, check=False, timeout=20)
    assert not Path("owned").exists()
