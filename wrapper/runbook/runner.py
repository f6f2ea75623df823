"""The only file that imports ansible-runner, and the only one that knows its traps."""

from __future__ import annotations

import json
import os
import queue
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runbook import processes
from runbook.project import Project, state_dir

GRACE_SECONDS = 10.0  # for ansible-playbook to end its workers after SIGINT; measured: well below one second
# The callback replaces a larger result by an empty one; the default of 700,000 cuts off a big catalogue.
MAX_EVENT_BYTES = 8_000_000
_PREFIX = "runbook-"
_INPUTS = "inputs.yml"
_PASSED = (
    "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "SSH_AUTH_SOCK", "KRB5CCNAME",
    "RUNBOOK_SANDBOX_DIR", "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST",
    "ANSIBLE_PRIVATE_KEY_FILE", "ANSIBLE_REMOTE_USER", "ANSIBLE_COLLECTIONS_PATH",
)  # fmt: skip


class _AsWritten(yaml.SafeDumper):
    """Writes text as !unsafe: a reason or an input may come from an alert, and braces in it are no template to run."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            key.tag = "tag:yaml.org,2002:str"
        return node


_AsWritten.add_representer(str, lambda dumper, text: dumper.represent_scalar("!unsafe", text, style='"'))


@dataclass
class Job:
    """One call of ansible-playbook. Paths are absolute."""

    run_id: str
    project: Project
    playbook: Path
    inventory: list[Path]
    extra_vars: dict[str, Any] = field(default_factory=dict)
    limit: str | None = None
    check: bool = False
    diff: bool = False
    verbosity: int = 0


def environment(project: Project, run_id: str, private: Path) -> dict[str, str]:
    """Return the whole environment of ansible-playbook: an allow-list, and what the run decides itself."""
    names = [*_PASSED, *os.environ.get("RUNBOOK_PASS_ENV", "").replace(",", " ").split()]
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.startswith("LC_")}
    if password_file := env.get("ANSIBLE_VAULT_PASSWORD_FILE"):
        env["ANSIBLE_VAULT_PASSWORD_FILE"] = str(Path(password_file).expanduser().absolute())
    if project.packaged:
        env.setdefault("RUNBOOK_SANDBOX_DIR", str(state_dir() / "sandbox"))
    # A virtual environment need not be activated for its ansible-playbook to be found.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return env | {
        "PATH": path,
        processes.MARKER: run_id,
        "ANSIBLE_CONFIG": str(project.root / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(project.roles),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_NOCOWS": "True",
        "MAX_EVENT_RES": str(MAX_EVENT_BYTES),
    }


def private_root() -> Path:
    """Return the folder for what must never reach a disk: memory where there is some."""
    for place in (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):  # noqa: S108  entries are 0700 and made by mkdtemp
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    return Path(tempfile.gettempdir())


def make_private(run_id: str) -> Path:
    """Make a run's folder; its name tells who owns it, so that a later start knows whether it is stale."""
    me = processes.process(os.getpid())
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{me.pid}-{me.started}-{run_id}-", dir=private_root()))


def sweep_private() -> None:
    """Remove the private folders of runs that were killed, unless their ansible-playbook is still at work."""
    for path in private_root().glob(f"{_PREFIX}*-*-*-*"):
        pid, started, run_id, _ = path.name.removeprefix(_PREFIX).split("-", 3)
        if not (pid.isdigit() and started.isdigit()) or path.lstat().st_uid != os.getuid():
            continue
        if not processes.Process(int(pid), int(started)).alive() and not processes.of_run(run_id):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _only(env: dict[str, str]) -> Iterator[None]:
    """Lend os.environ to ansible-runner, which copies all of it into the play's environment and a file."""
    saved = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(env)
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


class Play:
    """One ansible-playbook at work in a thread; `events` yields what it reports until it ends."""

    def __init__(self, job: Job, private: Path) -> None:
        self.job, self.private = job, private
        self.rc: int | None = None
        self.error = ""
        self._pid: int | None = None
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._kill = self._interrupted = False
        self._stopping: float | None = None
        self._seen: set[processes.Process] = set()
        self._runner = self._prepare()
        self._thread = threading.Thread(target=self._work, name="ansible-runner", daemon=True)

    def _prepare(self) -> Any:
        from ansible_runner.interface import init_runner  # noqa: PLC0415  0.1 s

        job = self.job
        for name in ("env", "tmp"):
            (self.private / name).mkdir(mode=0o700)
        # With suppress_env_files ansible-runner forgets settings it was handed, unless they are in this file.
        settings = {"pexpect_timeout": 1, "suppress_ansible_output": True, "suppress_output_file": True}
        (self.private / "env" / "settings").write_text(json.dumps(settings))
        env = environment(job.project, job.run_id, self.private)
        with _only(env):
            return init_runner(
                private_data_dir=str(self.private),
                project_dir=str(job.project.root),
                ident=job.run_id,
                playbook=str(job.playbook),
                inventory=[str(path) for path in job.inventory],
                limit=job.limit,
                verbosity=job.verbosity or None,
                cmdline=self._arguments(),
                envvars=env,
                quiet=True,
                fact_cache_type="memory",
                suppress_env_files=True,
                event_handler=self._on_event,
                cancel_callback=lambda: self._kill,
            )

    def _arguments(self) -> str:
        parts = [flag for flag, wanted in (("--check", self.job.check), ("--diff", self.job.diff)) if wanted]
        if self.job.extra_vars:
            # Values on a command line are visible to everybody.
            path = self.private / _INPUTS
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                yaml.dump(self.job.extra_vars, file, _AsWritten)
            parts += ["--extra-vars", f"@{path}"]
        return shlex.join(parts)

    def start(self) -> None:
        self._thread.start()

    def _on_event(self, event: dict[str, Any]) -> bool:
        # An exception here would end the run without a status, an OSError lose the event: only hand over.
        self._events.put(event)
        return False

    def _work(self) -> None:
        try:
            self._runner.run()
            self.rc = self._runner.rc
        except BaseException as error:  # the library calls sys.exit on some faults
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self._events.put(None)

    def events(self, tick_seconds: float = 0.2) -> Iterator[dict[str, Any] | None]:
        """Yield events until the play has ended, and None when nothing happened for a tick."""
        while True:
            self._watch()
            try:
                event = self._events.get(timeout=tick_seconds)
            except queue.Empty:
                yield None
                continue
            if event is None:
                self._thread.join()
                return
            self._pid = self._pid or event.get("pid")
            if event.get("event") == "playbook_on_play_start":
                self._forget()
            yield event

    def _forget(self) -> None:
        """Ansible has read the inputs by now, and the library's `command` file holds the environment."""
        for path in (self.private / _INPUTS, self.private / "artifacts" / self.job.run_id / "command"):
            path.unlink(missing_ok=True)

    def stop(self, at_once: bool = False) -> None:
        """Ask the play to end: SIGINT lets it end its workers, the library's own cancel would orphan them."""
        self._stopping = self._stopping or time.monotonic()
        self._kill = self._kill or at_once
        self._watch()

    def _watch(self) -> None:
        """While stopping: remember what must not outlive the play, and run out of patience in the end."""
        if self._stopping is None:
            return
        roots = {processes.process(self._pid)} if self._pid else processes.of_run(self.job.run_id)
        for root in roots:
            self._seen |= processes.descendants(root.pid)
            if not self._interrupted:
                root.send(signal.SIGINT)
                self._interrupted = True
        if time.monotonic() - self._stopping > GRACE_SECONDS:
            self._kill = True

    def sweep(self) -> int:
        """After a stop, end what is left of the play's processes. Return how many there were."""
        return processes.end(self._seen | processes.of_run(self.job.run_id))
