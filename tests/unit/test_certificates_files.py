# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Certificates and keys are found by what is in them, and nothing that lies about on a host stops the search."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.certificates_files import Found, FoundFile, Limits, scan
from ansible.module_utils.certificates_keys import read_key
from ansible.module_utils.runbook_tools import Tools

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A certificate and its key, in PEM."""
    folder = tmp_path_factory.mktemp("pair")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a.example.org", "-keyout", folder / "key",
                    "-out", folder / "cert"], check=True, capture_output=True)  # fmt: skip
    return (folder / "cert").read_bytes(), (folder / "key").read_bytes()


def put(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def by_name(found: Found) -> dict[str, FoundFile]:
    return {os.path.basename(row.path): row for row in found}


def der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))


def test_what_is_found_and_what_it_is(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    certificate, key = pair
    put(tmp_path / "a" / "server.pem", certificate, 0o644)
    put(tmp_path / "a" / "server.key", key, 0o640)
    put(tmp_path / "b" / "without-suffix", certificate)
    put(tmp_path / "b" / "in-der", der(certificate))
    put(tmp_path / "b" / "key-in-der", der(key))
    put(tmp_path / "both.txt", key + certificate)
    put(tmp_path / "with text.conf", b"# " + b"x" * 5000 + b"\n<ca>\n" + certificate + b"</ca>\n")
    put(tmp_path / "note.txt", b"how to make a -----BEGIN CERTIFICATE----- block\n")
    put(tmp_path / "script.sh", b"sed -n '/-----BEGIN CERTIFICATE-----/,/-----END/p'\n")
    put(tmp_path / "public.pem", b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n")
    put(tmp_path / "dh.pem", b"-----BEGIN DH PARAMETERS-----\nMAA=\n-----END DH PARAMETERS-----\n")
    put(tmp_path / "rndc.key", b'key "rndc-key" { algorithm hmac-sha256; };\n')
    put(tmp_path / "root.crt", b"# put trusted certificates here\n\n#\n")
    put(tmp_path / "ssh", b"-----BEGIN OPENSSH PRIVATE KEY-----\nMAA=\n-----END OPENSSH PRIVATE KEY-----\n")
    put(tmp_path / "zero", b"")
    put(tmp_path / "0", b"0")
    put(tmp_path / ("odd\nname\udce9.pem".encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")), certificate)
    found = scan([str(tmp_path)], read_keys=True)
    kinds = {name: row.kind for name, row in by_name(found).items()}
    assert kinds == {"server.pem": "certificate", "server.key": "key", "without-suffix": "certificate", "in-der": "certificate",
                     "key-in-der": "key", "both.txt": "both", "with text.conf": "certificate", "odd\nname\udce9.pem": "certificate"}  # fmt: skip
    assert not found.stopped
    assert found.looked_at == 17
    expected = read_key(key)
    rows = by_name(found)
    assert rows["server.key"].key == expected
    assert (rows["server.key"].mode, rows["server.key"].uid, rows["server.key"].gid) == (0o640, 0, 0)
    assert rows["server.pem"].certificates[0].spki_sha256 == expected.spki_sha256
    assert all(row.faults == () for row in found)


def test_broken_ones_are_told(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    certificate, key = pair
    cases = {
        "empty.pem": b"", "blank.key": b"\n\n", "cut.pem": certificate[:500], "cut.der": der(certificate)[:200], "cut-der.key": der(key)[:200],
        "cut.key": key[:500], "head.pem": b"-----BEGIN CERT", "text.crt": b"hello\n", "damaged.crt": certificate.replace(b"M", b"\xff", 1),
        "cut-without-suffix": certificate[:500], "second-cut.pem": certificate + certificate[:90],
    }  # fmt: skip
    for name, data in cases.items():
        put(tmp_path / name, data)
    (tmp_path / "loop.pem").symlink_to("loop.pem")
    (tmp_path / "gone.key").symlink_to("nowhere")
    (tmp_path / "loop-of-nothing").symlink_to("loop-of-nothing")
    faults = {name: row.faults for name, row in by_name(scan([str(tmp_path)])).items()}
    assert faults == {
        "empty.pem": ("empty",), "blank.key": ("empty",), "cut.pem": ("truncated",), "cut.der": ("truncated",), "cut-der.key": ("truncated",),
        "cut.key": ("truncated",), "head.pem": ("truncated",), "text.crt": ("not-pem",), "damaged.crt": ("base64",),
        "cut-without-suffix": ("truncated",), "second-cut.pem": ("truncated",), "loop.pem": ("symlink-loop",), "gone.key": ("dangling",),
    }  # fmt: skip


def test_what_is_wrong_with_the_file(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    certificate, key = pair
    put(tmp_path / "all.key", key, 0o644)
    put(tmp_path / "group.key", key, 0o660)
    put(tmp_path / "fine.key", key, 0o640)
    put(tmp_path / "bom.pem", b"\xef\xbb\xbf" + certificate, 0o644)
    put(tmp_path / "bom-within.pem", certificate + b"\xef\xbb\xbf" + certificate, 0o644)
    put(tmp_path / "crlf.pem", certificate.replace(b"\n", b"\r\n"), 0o644)
    argv = ["openssl", "pkcs8", "-topk8", "-passout", "pass:x"]
    put(tmp_path / "encrypted.key", subprocess.run(argv, input=key, check=True, capture_output=True).stdout)
    argv = ["openssl", "pkcs12", "-export", "-passout", "pass:x", "-in", str(put(tmp_path / "both.pem", certificate + key))]
    put(tmp_path / "store.p12", subprocess.run(argv, check=True, capture_output=True).stdout)
    rows = by_name(scan([str(tmp_path)], read_keys=True))
    assert {name: row.faults for name, row in rows.items()} == {
        "all.key": ("key-readable",), "group.key": ("key-writable",), "fine.key": (), "bom.pem": ("bom",), "bom-within.pem": ("bom",), "crlf.pem": (),
        "encrypted.key": ("encrypted",), "both.pem": (), "store.p12": ("pkcs12",),
    }  # fmt: skip
    assert rows["encrypted.key"].key is not None
    assert rows["encrypted.key"].key.encrypted


def test_pipes_sockets_and_devices_are_passed_over(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    os.mkfifo(tmp_path / "pipe.pem")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.pem"))
        os.mknod(tmp_path / "null.pem", 0o600 | 0o020000, os.makedev(1, 3))
        put(tmp_path / "real.pem", pair[0])
        (tmp_path / "to-pipe.pem").symlink_to("pipe.pem")
        assert list(by_name(scan([str(tmp_path)]))) == ["real.pem"]


def test_links_lead_to_one_row_and_loops_end(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    real = put(tmp_path / "archive" / "cert1.pem", pair[0])
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "cert.pem").symlink_to("../archive/cert1.pem")
    os.link(real, tmp_path / "live" / "hard.pem")
    (tmp_path / "archive" / "up").symlink_to("..")
    (tmp_path / "archive" / "root").symlink_to("/")
    (tmp_path / "archive" / "usr").symlink_to("/usr")
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere / "other.pem", pair[0])
    (tmp_path / "live" / "folder").symlink_to(elsewhere)
    found = scan([str(tmp_path / "archive"), str(tmp_path / "live"), str(tmp_path / "archive")])
    paths = [row.path for row in found]
    assert len(paths) == 2, paths
    row = by_name(found)["cert1.pem"]
    assert sorted(os.path.basename(link) for link in row.links) == ["cert.pem", "hard.pem"]
    # Found on the way round (archive/up/...) or by the link: once in any case.
    assert os.path.realpath(next(path for path in paths if path.endswith("other.pem"))) == str(elsewhere / "other.pem")
    assert found.looked_at < 10


def test_a_link_alone_shows_where_it_leads(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    put(tmp_path / "archive" / "cert1.pem", pair[0])
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "cert.pem").symlink_to("../archive/cert1.pem")
    (row,) = scan([str(tmp_path / "live")])
    assert (row.path, row.real_path) == (str(tmp_path / "live" / "cert.pem"), str(tmp_path / "archive" / "cert1.pem"))
    (row,) = scan([str(tmp_path / "live" / "cert.pem")])
    assert row.kind == "certificate"


def test_ignored_and_missing_paths(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    for name in ("kept/a.pem", "old/b.pem", "kept/c.bak.pem"):
        put(tmp_path / name, pair[0])
    found = scan([str(tmp_path), str(tmp_path / "nothing")], ["*/old", "*.bak.pem"])
    assert list(by_name(found)) == ["a.pem"]
    assert scan([str(tmp_path)], [str(tmp_path)]) == []


def test_bundles_are_noted_and_not_read(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    put(tmp_path / "twenty.pem", pair[0] * 20)
    put(tmp_path / "bundle.pem", pair[0] * 21)
    put(tmp_path / "huge.crt", pair[0] * 1100)
    put(tmp_path / "huge.log", b"x" * (2 << 20))
    rows = by_name(scan([str(tmp_path)]))
    assert {name: (row.kind, row.blocks, len(row.certificates)) for name, row in rows.items()} == {
        "twenty.pem": ("certificate", 20, 20), "bundle.pem": ("bundle", 21, 0), "huge.crt": ("bundle", 0, 0)}  # fmt: skip


def test_the_roots_of_this_system_are_one_row() -> None:
    rows = scan(["/etc/ssl/certs"])
    folder = next(row for row in rows if row.path == "/etc/ssl/certs")
    assert folder.kind == "bundle"
    assert folder.blocks > 100
    assert by_name(rows)["ca-certificates.crt"].kind == "bundle"
    assert len(rows) < 20


def test_the_kernels_own_files_are_passed_over() -> None:
    found = scan(["/proc", "/sys"], limits=Limits(seconds=5))
    assert (list(found), found.looked_at, found.stopped) == ([], 0, "")


def test_a_search_that_ends_early_says_so(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    for number in range(30):
        put(tmp_path / f"{number:02}.pem", pair[0])
    found = scan([str(tmp_path)], limits=Limits(files=10))
    assert (len(found) + sum(len(row.links) for row in found), found.looked_at) == (10, 10)
    assert "ended after 10 files" in found.stopped
    ticks = itertools.count()
    found = scan([str(tmp_path)], limits=Limits(seconds=5), clock=lambda: float(next(ticks)))
    assert 0 < found.looked_at < 30
    assert "ended after 5 s" in found.stopped


SCAN_AS_NOBODY = """
import json, os, sys
import ansible.module_utils
ansible.module_utils.__path__ += sys.argv[2:]
from ansible.module_utils.certificates_files import scan
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(json.dumps([[row.path, row.kind, row.faults] for row in scan([sys.argv[1]])]))
"""


def test_what_may_not_be_read_is_told(scratch: Path, pair: tuple[bytes, bytes]) -> None:
    folder = scratch / "unreadable"
    put(folder / "secret.key", pair[1])
    put(folder / "secret.txt", pair[1])
    put(folder / "open.pem", pair[0], 0o644)
    (folder / "closed").mkdir(mode=0o700)
    folder.chmod(0o755)
    utils = [str(path) for path in ROOT.glob("roles/*/module_utils")]
    argv = [sys.executable, "-c", SCAN_AS_NOBODY, str(folder), *utils]
    said = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    assert said == [
        [f"{folder}/closed", "broken", ["unreadable"]],
        [f"{folder}/open.pem", "certificate", []],
        [f"{folder}/secret.key", "broken", ["unreadable"]],
    ]


def test_keys_need_no_openssl_unless_asked_for(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    put(tmp_path / "a.key", pair[1])
    put(tmp_path / "openssl", b"#!/bin/sh\ntouch $0.ran\nexit 1\n", 0o755)
    tools = Tools(bin_dir=str(tmp_path))
    (row,) = scan([str(tmp_path)], tools=tools)
    assert (row.kind, row.key and row.key.format, row.faults) == ("key", "pkcs8", ())
    assert not (tmp_path / "openssl.ran").exists()
    (row,) = scan([str(tmp_path)], tools=tools, read_keys=True)
    assert (row.kind, row.faults) == ("broken", ("unsupported",))


def test_two_thousand_files_take_less_than_a_second(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    for number in range(2000):
        data = pair[0] if number % 50 == 0 else pair[1] if number % 50 == 1 else b"key = value\n" * (number % 700)
        put(tmp_path / f"d{number % 40}" / f"f{number}", data)
    took = []
    for _ in range(3):
        began = time.process_time()
        found = scan([str(tmp_path)])
        took.append(time.process_time() - began)
    assert len(found) == 80
    assert min(took) < 1
    shutil.rmtree(tmp_path)
