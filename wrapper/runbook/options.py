"""What several commands take: the project, the store of records, and options of the same meaning everywhere."""
# ruff: noqa: PLC0415  the same reason as in cli.py

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from runbook.project import Project, find_project, state_dir

if TYPE_CHECKING:
    from runbook.record import Store


def current_project(ctx: click.Context) -> Project:
    return find_project(ctx.find_root().params.get("project"))


def open_records(ready: bool = False) -> Store:
    from runbook.runs import open_store

    store = open_store(state_dir())
    if ready:
        store.prepare()
    return store


def print_json(data: Any) -> None:
    from runbook.redact import shared

    click.echo(json.dumps(shared().data(data), indent=2, default=str))


def complete_slugs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from runbook.catalog import Catalog

    return [slug for slug in Catalog(current_project(ctx)).slugs if slug.startswith(incomplete)]


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from runbook.record import Store

    names = ["last", *Store(state_dir()).ids()[:50]]
    return [name for name in names if name.startswith((incomplete, incomplete.upper()))]


inventory_option = click.option(
    "-i", "--inventory", multiple=True, envvar="RUNBOOK_INVENTORY", metavar="INVENTORY",
    help="Inventory file or folder, or the name of one of the project's own. Repeatable.",
)  # fmt: skip
limit_option = click.option("-l", "--limit", metavar="HOSTS", help="Only these hosts or groups of the inventory.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
run_argument = click.argument("run_id", metavar="ID", shell_complete=complete_runs)
slug_argument = click.argument("slug", metavar="RUNBOOK", shell_complete=complete_slugs)
