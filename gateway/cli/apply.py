"""``gateway apply``: makes the database's catalog say what files say."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog
    from gateway.catalog.diff import Diff
    from gateway.database.database import Database


@click.command(short_help="Make the catalog in the database say what files say.")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--dry-run", is_flag=True, help="Show what would change and change nothing.")
@click.option("--prune", is_flag=True, help="Remove objects that came from a file and are in none of these.")
@settings_options
@format_option
def apply(
    *,
    files: tuple[Path, ...],
    dry_run: bool,
    prune: bool,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Apply catalog files, as one catalog: all of it or nothing, and a second time there is nothing to do.

    Prints the difference. Only objects that came from a file are touched; an admin's suspension stays.

    \b
    Example:
      gateway apply --dry-run catalog.yaml
    """
    settings = read_settings(config, assignments)
    from gateway.catalog.contracts import load_contracts
    from gateway.catalog.file import load_catalog
    from gateway.config.adapters import database as open_database

    contracts = load_contracts(settings.contracts.dir)
    catalog = load_catalog(*files, contracts=contracts, issuers=settings.auth.issuer_names())
    if not dry_run:
        # Where SQLite's default file goes; with a database of its own the directory is merely there.
        settings.data.dir.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(open_database(settings)) as database:
        if dry_run:
            diff = _compare(database, catalog, prune=prune)
        else:
            diff = _write(database, catalog, prune=prune, may_upgrade=settings.database.auto_upgrade)
    if output == "json":
        print_json(diff.to_dict())
        return
    for line in diff.lines():
        click.echo(line)
    if dry_run and diff:
        click.echo("nothing was changed: --dry-run")


def _write(database: Database, catalog: Catalog, *, prune: bool, may_upgrade: bool) -> Diff:
    from gateway.catalog.store import Store
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with at_start():
        Schema(database).require(may_upgrade=may_upgrade)
        return Store(database).apply(catalog, prune=prune)


def _compare(database: Database, catalog: Catalog, *, prune: bool) -> Diff:
    """What would change; a database without any tables stays without, and one in memory stands in for it."""
    from gateway.catalog.store import Store
    from gateway.database.database import Database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with at_start():
        schema = Schema(database)
        if schema.state().standing != "empty":
            schema.require(may_upgrade=False)
            return Store(database).apply(catalog, dry_run=True, prune=prune)
    with contextlib.closing(Database("sqlite://")) as empty:
        Schema(empty).upgrade()
        return Store(empty).apply(catalog, dry_run=True, prune=prune)
