"""``gateway apply``: makes the database's catalog say what files say."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options


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
    from gateway.catalog.store import Store

    contracts = load_contracts(settings.contracts.dir)
    catalog = load_catalog(*files, contracts=contracts, issuers=settings.auth.issuer_names())
    # Where SQLite's default file goes; with a database of its own the directory is merely there.
    settings.data.dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings.database.url.get_secret_value())
    try:
        store.create_schema()
        diff = store.apply(catalog, dry_run=dry_run, prune=prune)
    finally:
        store.close()
    if output == "json":
        print_json(diff.to_dict())
        return
    for line in diff.lines():
        click.echo(line)
    if dry_run and diff:
        click.echo("nothing was changed: --dry-run")
