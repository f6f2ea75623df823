"""Files that an operator asked for."""

from __future__ import annotations

from pathlib import Path

import click

from runbook.errors import BadInput


def write_output(path: Path, text: str, what: str) -> None:
    """Write what was asked for with -o, and say where it is. Raise BadInput where it cannot be written."""
    try:
        path.write_text(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "Name another file with -o.") from error
    click.echo(f"{what}: {path.absolute()}", err=True)
