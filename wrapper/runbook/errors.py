"""Every way a command can end, and the one place where an exception becomes an exit code."""

from __future__ import annotations

import enum
import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


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


def _say(text: str) -> None:
    from runbook.redact import shared  # noqa: PLC0415  the error path must not cost the happy path its start-up

    print(shared().clean(text), file=sys.stderr)


def write_traceback(state_dir: Path) -> Path | None:
    """Given the state folder, return the file the current traceback was written to, masked; None if it cannot be."""
    from runbook.redact import shared  # noqa: PLC0415

    path = state_dir / "errors" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(shared().text(traceback.format_exc()))
    except OSError:
        return None
    return path


def boundary(command: Callable[[], int | None], state_dir: Callable[[], Path]) -> int:
    """Given a command, return the exit code of what it did or of what it raised."""
    import click  # noqa: PLC0415

    try:
        return int(command() or 0)
    except RunbookError as error:
        _say(f"Error: {error}")
        if error.remedy:
            _say(f"  {error.remedy}")
        return error.code
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _say(f"Error: {error.format_message()}")
        if context is not None:
            _say(f"  See `{context.command_path} --help`.")
        return ExitCode.BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        _say("Cancelled.")
        return ExitCode.CANCELLED
    except BrokenPipeError:
        # The reader has what it wanted (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        log = write_traceback(state_dir())
        _say(f"Error: unexpected {type(error).__name__}: {error}")
        _say(
            f"  The traceback is in {log}; please report it."
            if log
            else "  The traceback could not be written."
        )
        return ExitCode.FAILED
