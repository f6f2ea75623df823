"""Limits of journal, containers, PostgreSQL's log and temporary files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.logs_limits import MARK, Docker, Journal, Limiter, LimitRefused, Limits, Postgresql, TmpFiles
from ansible.module_utils.runbook_psql import Connection
from ansible.module_utils.runbook_tools import Tools
from support.postgres import Server

JOURNAL = {"storage": "persistent", "max_use_bytes": 1 << 30, "keep_free_bytes": None, "max_days": 30}
FAKE = """#!/usr/bin/env python3
import json, os, sys
place = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(place, "calls"), "a") as calls:
    calls.write(" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
name = f"{os.path.basename(sys.argv[0])}-{sys.argv[1] if len(sys.argv) > 1 else ''}"
answer = os.path.join(place, name)
if os.path.exists(answer):
    given = json.load(open(answer))
    sys.stdout.write(given.get("out", ""))
    sys.stderr.write(given.get("err", ""))
    sys.exit(given.get("rc", 0))
"""


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("journalctl", "systemctl", "docker", "dockerd", "systemd-tmpfiles"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    return folder


def answer(bin_dir: Path, name: str, **given: Any) -> None:
    (bin_dir / name).write_text(json.dumps(given))


def calls(bin_dir: Path) -> list[str]:
    path = bin_dir / "calls"
    return path.read_text().splitlines() if path.exists() else []


# --- journal ------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("run/systemd/journal", "etc/systemd", "var/log/journal"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return tmp_path / "root"


def journal(root: Path, bin_dir: Path, confirm: tuple[str, ...] = (), **changes: Any) -> Journal:
    limits = Limits(journal={**JOURNAL, **changes}, confirm=confirm, host="log1", root=f"{root}/")
    return Journal(limits, Tools(bin_dir=str(bin_dir)))


def test_the_journal_gets_its_caps_once(root: Path, bin_dir: Path) -> None:
    part = journal(root, bin_dir)
    due, told = part.look()
    assert [c.part for c in due] == ["journal"] and told == [] and "SystemMaxUse=1073741824" in due[0].after
    part.apply()
    assert calls(bin_dir) == ["systemctl restart systemd-journald.service", "journalctl --flush"]
    assert part.look() == ([], [])
    assert journal(root, bin_dir, max_days=None).look()[0], "other limits are due again"


def test_the_journal_becomes_volatile_only_when_that_is_confirmed(root: Path, bin_dir: Path) -> None:
    due, told = journal(root, bin_dir, storage="volatile").look()
    assert due == [] and "--confirm log1/journal-volatile" in told[0]["remedy"]
    assert journal(root, bin_dir, ("other/journal-volatile",), storage="volatile").look()[0] == []
    assert journal(root, bin_dir, ("log1/journal-volatile",), storage="volatile").look()[0]


def test_what_others_set_later_is_told(root: Path, bin_dir: Path) -> None:
    part = journal(root, bin_dir)
    part.apply()
    (root / "etc/systemd/journald.conf.d/90-other.conf").write_text("[Journal]\nStorage=volatile\n")
    due, told = part.look()
    assert due == [] and [f["id"] for f in told] == ["journal-overruled"] and "volatile" in told[0]["observed"]


def test_etc_comes_before_usr_and_later_names_before_earlier(root: Path, bin_dir: Path) -> None:
    for folder, name, value in [("usr/lib", "50-a", "1G"), ("etc", "50-a", "2G"), ("run", "40-b", "3G")]:
        place = root / folder / "systemd/journald.conf.d"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.conf").write_text(f"[Journal]\nSystemMaxUse={value}\n")
    assert journal(root, bin_dir).effective()["SystemMaxUse"] == "2G"


def test_without_journald_nothing_is_due(tmp_path: Path, bin_dir: Path) -> None:
    assert journal(tmp_path / "empty", bin_dir).look() == ([], [])


# --- containers -----------------------------------------------------------------------------------------------------


def container(name: str, driver: str = "json-file", **options: str) -> dict[str, Any]:
    return {"Name": f"/{name}", "HostConfig": {"LogConfig": {"Type": driver, "Config": options}}, "LogPath": ""}


@pytest.fixture
def docker(tmp_path: Path, bin_dir: Path) -> Docker:
    answer(bin_dir, "docker-version", out="24.0.0\n")
    wanted = {"driver": "json-file", "max_size": "10m", "max_file": 5, "daemon_json": str(tmp_path / "docker/daemon.json"),
              "containers": ["tracker-*"]}  # fmt: skip
    return Docker(Limits(docker=wanted), Tools(bin_dir=str(bin_dir)))


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (container("tracker-app"), ["container-log-unbounded"]),
        (container("tracker-app", **{"max-size": "-1"}), ["container-log-unbounded"]),
        (container("tracker-app", **{"max-size": "10m", "max-file": "3"}), []),
        (container("tracker-app", **{"max-size": "10m"}), ["container-log-one-file"]),
        (container("tracker-app", **{"max-size": "1g", "max-file": "3"}), ["container-log-large"]),
        (container("tracker-app", "local"), []),
        (container("tracker-app", "journald"), []),
        (container("other"), []),
    ],
)
def test_what_counts_is_what_docker_inspect_says(docker: Docker, seen: dict[str, Any], told: list[str]) -> None:
    assert [f["id"] for f in docker.judge(seen)] == told


def test_daemon_json_keeps_what_else_is_in_it(docker: Docker, bin_dir: Path) -> None:
    path = Path(docker.wanted["daemon_json"])  # type: ignore[index]
    path.parent.mkdir()
    path.write_text('{"live-restore": true, "log-driver": "json-file", "log-opts": {"labels": "x"}}')
    answer(bin_dir, "docker-ps", out="")
    assert [c.part for c in docker.look()[0]] == ["docker"]
    docker.apply()
    assert json.loads(path.read_text()) == {
        "live-restore": True, "log-driver": "json-file", "log-opts": {"labels": "x", "max-file": "5", "max-size": "10m"},
    }  # fmt: skip
    assert docker.look() == ([], [])


def test_a_damaged_daemon_json_is_left_alone(docker: Docker, bin_dir: Path) -> None:
    path = Path(docker.wanted["daemon_json"])  # type: ignore[index]
    path.parent.mkdir()
    path.write_text('{"live-restore": ')
    answer(bin_dir, "docker-ps", out="")
    due, told = docker.look()
    assert due == [] and told[0]["id"] == "docker-configuration"
    with pytest.raises(LimitRefused, match="cannot be read as JSON"):
        docker.apply()
    assert path.read_text() == '{"live-restore": '


def test_what_docker_refuses_is_taken_back(docker: Docker, bin_dir: Path) -> None:
    answer(bin_dir, "dockerd---validate", err="unable to configure: bad\n", rc=1)
    path = Path(docker.wanted["daemon_json"])  # type: ignore[index]
    path.parent.mkdir()
    path.write_text('{"x": 1}')
    with pytest.raises(LimitRefused, match="unable to configure"):
        docker.apply()
    assert path.read_text() == '{"x": 1}'


def test_containers_are_asked_in_one_call(docker: Docker, bin_dir: Path) -> None:
    answer(bin_dir, "docker-ps", out="a1\nb2\n")
    answer(bin_dir, "docker-inspect", out=json.dumps([container("tracker-app"), container("tracker-db", "local")]))
    _, told = docker.look()
    assert [(f["id"], f["subject"]) for f in told] == [("container-log-unbounded", "tracker-app")]
    assert [c for c in calls(bin_dir) if "inspect" in c] == ["docker inspect a1 b2"]


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(server: Server) -> Connection:
    server.sql("ALTER SYSTEM RESET ALL")
    server.sql("SELECT pg_reload_conf()")
    return server.connection("postgres")


def test_settings_are_set_once_and_in_postgresqls_own_units(connection: Connection) -> None:
    limits = Limits(postgresql={"log_rotation_size": "100MB", "log_min_duration_statement": "500", "log_statement": "ddl"}, connection=connection)
    part = Postgresql(limits)
    assert {c.subject for c in part.look()[0]} == {"log_rotation_size", "log_min_duration_statement", "log_statement"}
    part.apply()
    assert part.look() == ([], [])
    Postgresql(replace(limits, postgresql={"log_statement": "all"})).apply()
    due, told = Postgresql(replace(limits, postgresql={})).look()
    assert due == [] and [f["id"] for f in told] == ["statements-logged"]


def test_a_setting_that_there_is_not(connection: Connection) -> None:
    due, told = Postgresql(Limits(postgresql={"log_nothing": "x"}, connection=connection)).look()
    assert due == [] and [f["id"] for f in told] == ["server-setting-unknown"]


def test_a_value_that_the_server_refuses_is_an_error(connection: Connection) -> None:
    part = Postgresql(Limits(postgresql={"log_statement": "everything"}, connection=connection))
    with pytest.raises(Exception, match="everything"):
        part.apply()


def test_a_server_that_is_down_is_told() -> None:
    nowhere = Connection("postgres", host="/nonexistent", port=1)
    due, told = Postgresql(Limits(postgresql={"log_statement": "none"}, connection=nowhere)).look()
    assert due == [] and [f["id"] for f in told] == ["server-unreachable"]


# --- temporary files ----------------------------------------------------------------------------------------------------


def test_folders_of_temporary_files_come_and_go(tmp_path: Path, bin_dir: Path) -> None:
    limits = Limits(tmpfiles=({"path": "/var/tmp/exports", "max_days": 7},), root=f"{tmp_path}/")
    part = TmpFiles(limits, Tools(bin_dir=str(bin_dir)))
    assert part.look()[0]
    part.apply()
    assert part.path.read_text() == f"{MARK}e /var/tmp/exports - - - 7d\n" and part.look() == ([], [])
    gone = TmpFiles(replace(limits, tmpfiles=()), Tools(bin_dir=str(bin_dir)))
    assert gone.look()[0]
    gone.apply()
    assert not part.path.exists() and gone.look() == ([], [])


@pytest.mark.parametrize("path", ["/", "/var/log", "/tmp", "relative/x", "/var/../etc/x", "/srv/a b", "/srv/%h/x", "/srv/*/x"])
def test_folders_that_a_typo_must_not_empty(path: str) -> None:
    assert Limits(tmpfiles=({"path": path, "max_days": 7},)).faults()


def test_only_settings_of_logging_are_set() -> None:
    assert "only settings of logging" in Limits(postgresql={"shared_buffers": "1GB"}).faults()[0]
    assert Limits(postgresql={"logging_collector": "on"}).faults() == []


def test_a_host_without_any_of_it_has_nothing_due(tmp_path: Path) -> None:
    limits = Limits(journal=JOURNAL, docker={"driver": "json-file", "max_size": "1m", "max_file": 2, "daemon_json": "/x", "containers": ["*"]},
                    root=f"{tmp_path}/")  # fmt: skip

    class Bare(Tools):
        def has(self, program: str) -> bool:
            return False

    assert Limiter(limits, Bare()).look() == ([], [])
