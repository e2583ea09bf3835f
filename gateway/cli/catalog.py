"""``gateway catalog``: what the catalog in the database went through."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options

MAX_STEPS = 1000


@click.group(short_help="The catalog in the database: what changed it.")
def catalog() -> None:
    """The catalog that the gateways serve by; `gateway apply` changes it.

    \b
    Example:
      gateway catalog history
    """


@catalog.command(short_help="What changed, when and by whom.")
@click.option("--limit", type=click.IntRange(1, MAX_STEPS), default=20, show_default=True, help="Most changes to show.")
@click.option("--before", type=click.IntRange(min=1), metavar="REVISION", help="Only changes before this revision.")
@settings_options
@format_option
def history(*, limit: int, before: int | None, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Show the changes of the catalog, the newest first: each with its revision, its time, who made it, what it did.

    \b
    Example:
      gateway catalog history --limit 5
    """
    settings = read_settings(config, assignments)
    from gateway.catalog.history import History
    from gateway.config.adapters import database as open_database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with contextlib.closing(open_database(settings)) as database, at_start():
        Schema(database).require(may_upgrade=False)
        steps = History(database).read(limit=limit, before=before)
    if output == "json":
        document: dict[str, object] = {"steps": [step.to_dict() for step in steps]}
        if len(steps) == limit:
            document["next"] = steps[-1].revision
        print_json(document)
        return
    for step in steps:
        for line in step.lines():
            click.echo(line)
    if not steps:
        click.echo("no change was noted yet")
