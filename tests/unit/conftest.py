"""Fixtures of the unit tests: real servers, a fresh database per test."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import Server, installations

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    # Not pytest's tmp_path: a socket's path is limited to 107 bytes, and the server's user must get there.
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def bin_dirs(scratch: Path) -> dict[str, Path]:
    found = installations(scratch)
    assert {"system15", "wheel16", "wheel18"} <= set(found), f"servers found: {sorted(found)}"
    return found


@pytest.fixture(scope="session", params=["system15", "wheel16", "wheel18"])
def server(request: pytest.FixtureRequest, scratch: Path, bin_dirs: dict[str, Path]) -> Iterator[Server]:
    """Each of the three major versions in turn."""
    # With one file after the other, each version is set up anew for the next file.
    made = Server(bin_dirs[request.param], scratch / f"{request.param}-{next(_numbers)}")
    made.create()
    yield made
    made.stop()


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """A new, empty database on the server."""
    name = f"t{next(_numbers)}"
    server.sql(f"CREATE DATABASE {name}")
    yield name
    server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
