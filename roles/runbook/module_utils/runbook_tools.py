# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Programs of others, run as somebody else and with little of the machine; what fails says which and why."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible.module_utils.runbook_psql import PsqlUnreachable, child_identity

LAST_WORDS = 1200


class ToolError(Exception):
    """A program failed. `rc` is its exit status (None: it did not start, or was ended), `output` all it wrote."""

    def __init__(self, message: str, rc: int | None = None, output: str = "") -> None:
        super().__init__(message)
        self.rc = rc
        self.output = output


class ToolMissing(ToolError):
    """A program is not on this host; the text says which and how to get it."""


@dataclass(frozen=True)
class Done:
    """A program that ended: exit status, what it wrote, and how long it took in seconds."""

    rc: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Tools:
    """How programs are run on this host.

    `os_user` owns the data (None: as who we are), `bin_dir` is looked into first, `nice` is 0 to 19 (0: as ours);
    above 0 the disk is asked for politely too.
    """

    os_user: str | None = None
    bin_dir: str | None = None
    nice: int = 0

    def path(self, program: str) -> str:
        """Return the full name of a program. Raise ToolMissing where there is none."""
        folders = os.pathsep.join(
            filter(None, [self.bin_dir, os.environ.get("PATH"), "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"])
        )
        found = shutil.which(program, path=folders)
        if found is None:
            raise ToolMissing(f"{program} is not on this host: install it, or set the role's input ..._manage_packages")
        return found

    def has(self, program: str) -> bool:
        """Return whether the program is on this host."""
        try:
            self.path(program)
        except ToolMissing:
            return False
        return True

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return `argv` with the full name of its program, politeness before it, and an end when we end."""
        command = [self.path(argv[0]), *argv[1:]]
        if self.nice > 0:
            command = ["nice", "-n", str(self.nice), *command]
            if shutil.which("ionice"):
                command = ["ionice", "-c", "2", "-n", "7", *command]
        # A killed run must leave nothing that writes. setpriv is part of util-linux.
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        return command

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        stdin: str | None = None,
        limit_seconds: float | None = None,
        ok: Sequence[int] = (0,),
        as_us: bool = False,
    ) -> Done:
        """Run a program to its end and return what it did. Secrets go into `env`, which nobody else can read; what is
        None there is taken out of the environment.

        `as_us` leaves the change to `os_user` out. Raise ToolError for an exit status that is not in `ok` and for a
        program that takes longer than `limit_seconds`; ToolMissing where it is not installed.
        """
        began = time.monotonic()
        try:
            identity = {} if as_us else child_identity(self.os_user)
        except PsqlUnreachable as error:
            raise ToolError(str(error)) from error
        home = {"HOME": "/nonexistent"} if identity else {}
        # Output in the words that are looked for, whatever the language of the host.
        merged = {**os.environ, **home, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", **(env or {})}
        whole = {name: value for name, value in merged.items() if value is not None}
        process = subprocess.Popen(
            self.command(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",  # every byte is kept: some of it is hashed
            env=whole,
            cwd="/",
            start_new_session=True,
            **identity,
        )
        try:
            out, err = process.communicate(stdin, timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            end_group(process)
            raise ToolError(f"{argv[0]} took longer than {limit_seconds:g} s and was ended") from None
        except BaseException:
            end_group(process)
            raise
        done = Done(process.returncode, out, err, time.monotonic() - began)
        if done.rc not in ok:
            words = last_words(done)
            raise ToolError(f"{argv[0]} failed with exit status {done.rc}: {words}", done.rc, done.out + done.err)
        return done


def end_group(process: subprocess.Popen[str], grace_seconds: float = 10) -> None:
    """End a program with all it started: asked first, then made to."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(grace_seconds)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def last_words(done: Done) -> str:
    """Return the end of what a program wrote, on one line: its errors, or its output where it wrote no errors."""
    text = done.err.strip() or done.out.strip() or "it said nothing"
    text = text.encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"\s*\n\s*", "; ", text)[-LAST_WORDS:]


def version(text: str) -> tuple[int, ...]:
    """Return the first version number in a text, such as (2, 45) or (0, 14, 0); (0,) where there is none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found.group(0).split(".")) if found else (0,)
