"""``gateway apply``: makes the database's catalog say what files say."""

from __future__ import annotations

import contextlib
import getpass
import os
from dataclasses import KW_ONLY, dataclass
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
@click.option(
    "--since",
    type=click.IntRange(min=0),
    metavar="REVISION",
    help="Change nothing if the catalog has changed after this revision, which --dry-run names.",
)
@click.option("--by", metavar="NAME", help="Who applies, for the history.  [default: the system's user]")
@settings_options
@format_option
@click.pass_context
def apply(
    ctx: click.Context,
    *,
    files: tuple[Path, ...],
    dry_run: bool,
    prune: bool,
    since: int | None,
    by: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Apply catalog files, as one catalog: all of it or nothing, and a second time there is nothing to do.

    Prints the difference, with warnings about applications that no token matches and prices that look like mistakes.
    Only objects that came from a file are touched; an admin's suspension stays. Exit code 1 if the catalog has changed
    since the revision named.

    \b
    Example:
      gateway apply --dry-run catalog.yaml
      gateway apply --since 12 catalog.yaml
    """
    settings = read_settings(config, assignments)
    from gateway.billing.linter import lint_plans
    from gateway.catalog.contracts import load_contracts
    from gateway.catalog.file import load_catalog
    from gateway.catalog.history import CatalogChanged
    from gateway.catalog.validation import unmatched_applications
    from gateway.config.adapters import database as open_database

    contracts = load_contracts(settings.contracts.dir)
    issuers = settings.auth.issuer_names()
    catalog = load_catalog(*files, contracts=contracts, issuers=issuers)
    if not dry_run:
        # Where SQLite's default file goes; with a database of its own the directory is merely there.
        settings.data.dir.mkdir(parents=True, exist_ok=True)
    change = _Wanted(catalog, prune=prune, since=since, actor=_user() if by is None else by)
    try:
        with contextlib.closing(open_database(settings)) as database:
            if dry_run:
                diff = _compare(database, change)
            else:
                diff = _write(database, change, may_upgrade=settings.database.auto_upgrade)
    except CatalogChanged as error:
        click.echo(f"gateway: {error}", err=True)
        ctx.exit(1)
    doubts = [doubt.line(catalog.places) for doubt in lint_plans(catalog.plans)]
    for warning in (*unmatched_applications(catalog, issuers), *doubts):
        click.echo(f"warning: {warning}", err=True)
    if output == "json":
        print_json(diff.to_dict())
        return
    for line in diff.lines():
        click.echo(line)
    if dry_run and diff:
        click.echo(
            f"compared with revision {diff.revision}: --since {diff.revision} applies this, if it stays the last"
        )
        click.echo("nothing was changed: --dry-run")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be applied, and how."""

    catalog: Catalog
    _: KW_ONLY
    prune: bool
    since: int | None
    actor: str

    def apply(self, database: Database, *, dry_run: bool = False) -> Diff:
        """See ``Store.apply``."""
        from gateway.catalog.store import Store

        return Store(database).apply(
            self.catalog, dry_run=dry_run, prune=self.prune, since=self.since, actor=self.actor
        )


def _user() -> str:
    """Whose process this is, by name where it has one."""
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"user:{os.getuid()}"


def _write(database: Database, change: _Wanted, *, may_upgrade: bool) -> Diff:
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with at_start():
        Schema(database).require(may_upgrade=may_upgrade)
        return change.apply(database)


def _compare(database: Database, change: _Wanted) -> Diff:
    """What would change; a database without any tables stays without, and one in memory stands in for it."""
    from gateway.database.database import Database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with at_start():
        schema = Schema(database)
        if schema.state().standing != "empty":
            schema.require(may_upgrade=False)
            return change.apply(database, dry_run=True)
    with contextlib.closing(Database("sqlite://")) as empty:
        Schema(empty).upgrade()
        return change.apply(empty, dry_run=True)
