"""Every way a command can end, and the one place where an exception becomes an exit code."""

from __future__ import annotations

import enum
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from runbook.redact import shared


class ExitCode(enum.IntEnum):
    """What a caller learns from `$?`; documented on every runbook page."""

    OK = 0
    FINDINGS = 1
    FAILED = 2
    REFUSED = 3
    UNREACHABLE = 4
    BAD_INPUT = 5
    WOULD_CHANGE = 6
    TIMED_OUT = 124
    CANCELLED = 130

    @property
    def meaning(self) -> str:
        return MEANINGS[self]


MEANINGS = {
    ExitCode.OK: "Nothing is left open.",
    ExitCode.FINDINGS: "Findings of severity warning or critical are left open.",
    ExitCode.FAILED: "The run failed.",
    ExitCode.REFUSED: "The run was refused: a lease is held, a confirmation is missing or the time is wrong.",
    ExitCode.UNREACHABLE: "A host or a service the runbook needs cannot be reached.",
    ExitCode.BAD_INPUT: "The input is wrong; nothing was changed.",
    ExitCode.WOULD_CHANGE: "`--check` found work to do; nothing was changed.",
    ExitCode.TIMED_OUT: "The time limit was reached and the run was stopped.",
    ExitCode.CANCELLED: "The run was cancelled.",
}


class RunbookError(Exception):
    """An end that was foreseen. `remedy` says what the operator can do about it."""

    code = ExitCode.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class BadInput(RunbookError):
    code = ExitCode.BAD_INPUT


class StateError(BadInput):
    """Records cannot be kept, so nothing may run."""


def _say(text: str, remedy: str = "") -> None:
    """Print lines on stderr, folded between words where a person reads them."""
    width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else sys.maxsize
    for line in [*text.splitlines(), *(f"  {line}" for line in remedy.splitlines())]:
        folded = textwrap.wrap(shared().clean(line), width, break_long_words=False, break_on_hyphens=False)
        print("\n".join(folded), file=sys.stderr)


def _keep_traceback(state_dir: Path) -> str:
    """Write the masked traceback to a file of its own, and return where it is."""
    path = state_dir / "errors" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(shared().text(traceback.format_exc()))
    except OSError as error:
        return f"The traceback could not be written: {error}"
    return f"The traceback is in {path}; please report it."


def boundary(command: Callable[[], int | None], state_dir: Callable[[], Path]) -> int:
    """Given a command, return the exit code of what it did or of what it raised."""
    try:
        return int(command() or 0)
    except (KeyboardInterrupt, click.Abort):
        _say("Cancelled.")
        return ExitCode.CANCELLED
    except BrokenPipeError:
        # The reader has what it wanted (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except RunbookError as error:
        _say(f"Error: {error}", error.remedy)
        return error.code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _say(f"Error: {error.format_message()}", f"See `{context.command_path} --help`." if context else "")
        return ExitCode.BAD_INPUT
    except Exception as error:
        _say(f"Error: unexpected {type(error).__name__}: {error}", _keep_traceback(state_dir()))
        return ExitCode.FAILED
