"""``gateway db``: the database's schema, looked at, brought up and taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options

if TYPE_CHECKING:
    from gateway.database.schema import Schema


@click.group(short_help="The database's schema: where it stands, up, down.")
def db() -> None:
    """The schema of the database. serve and apply bring it up by themselves, unless database.auto_upgrade is off.

    \b
    Example:
      gateway db current
    """


@db.command(short_help="Where the schema stands.")
@settings_options
@format_option
@click.pass_context
def current(ctx: click.Context, *, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Show which version the schema has and whether this gateway works with it. Changes nothing.

    Exit code 1 if it has to be upgraded first, or came from a version that this one cannot work with.

    \b
    Example:
      gateway db current --format json
    """
    with _schema(config, assignments) as (schema, place):
        state = schema.state()
    if output == "json":
        document = {"revision": state.revision, "newest": state.newest, "standing": state.standing}
        print_json({**document, "usable": state.is_usable, "made_by": state.made_by or None})
    else:
        click.echo(f"{place} {schema.told(state)}")
    ctx.exit(0 if state.is_usable else 1)


@db.command(short_help="Bring the schema to the newest version.")
@click.argument("revision", required=False)
@settings_options
@format_option
def upgrade(*, revision: str | None, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Upgrade the schema to the newest version, or to REVISION. One process at a time; all of it or nothing.

    Gateways that run on the version before go on meanwhile.

    \b
    Example:
      gateway db upgrade
    """
    with _schema(config, assignments, makes_directory=True) as (schema, _):
        _tell(schema.upgrade(revision), "upgraded to", output)


@db.command(short_help="Take the schema back to an older version.")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
@format_option
def downgrade(*, revision: str, yes: bool, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Take the schema back to REVISION; `base` removes every table. What only the newer versions hold is lost.

    Stop the gateways that need the newer version first, and run this with the newer version of the gateway.

    \b
    Example:
      gateway db downgrade 0001
    """
    with _schema(config, assignments) as (schema, place):
        if not yes:
            click.confirm(f"Take {place} back to {revision}? What newer versions added is lost.", abort=True, err=True)
        _tell(schema.downgrade(revision), "took back", output)


@contextlib.contextmanager
def _schema(
    config: Path | None, assignments: tuple[str, ...], *, makes_directory: bool = False
) -> Iterator[tuple[Schema, str]]:
    settings = read_settings(config, assignments)
    if makes_directory:
        settings.data.dir.mkdir(parents=True, exist_ok=True)
    from gateway.config.adapters import database as open_database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with contextlib.closing(open_database(settings)) as database, at_start():
        yield Schema(database), database.place


def _tell(passed: list[str], verb: str, output: str) -> None:
    if output == "json":
        print_json({"versions": passed})
    for revision in passed if output == "text" else ():
        click.echo(f"{verb} {revision}")
    if not passed and output == "text":
        click.echo("nothing to do")
