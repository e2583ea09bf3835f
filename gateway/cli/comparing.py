"""``gateway contracts diff``: what changed between two states of the contracts, and whether it breaks readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, settings_options

if TYPE_CHECKING:
    from gateway.catalog.compatibility import StreamChanges
    from gateway.catalog.contracts import Contracts


@click.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@settings_options
@format_option
@click.pass_context
def diff(
    ctx: click.Context, *, old: Path, new: Path, config: Path | None, assignments: tuple[str, ...], output: str
) -> None:
    """Compare two contract files, or two directories of them, as a stream's readers see them.

    Each change is breaking, compatible or documentation. Exit code 1 if one is breaking and the version of its stream
    has no new major number. A reload refuses such contracts, unless what breaks is only who may read: scopes,
    visibility, row_filter, lifecycle.

    \b
    Example:
      gateway contracts diff released/asyncapi asyncapi
    """
    from gateway.catalog.compatibility import breaking_without_major, compare_all

    before, after = _load(old), _load(new)
    found = compare_all(before, after)
    problems = breaking_without_major(before, after)
    if output == "json":
        print_json({"ok": not problems, "streams": [_document(one) for one in found], "problems": problems})
    else:
        for one in found:
            _print(one)
        for problem in problems:
            click.echo(f"gateway: {problem}", err=True)
        if not found:
            click.echo("no difference")
    ctx.exit(1 if problems else 0)


def _load(path: Path) -> Contracts:
    from gateway.catalog.contracts import contract_files, load_contract_files, load_contracts

    if path.is_file():
        return load_contract_files(path)
    if not (path / "streams").is_dir() and (files := contract_files(path)):
        return load_contract_files(*files)
    return load_contracts(path)


def _print(one: StreamChanges) -> None:
    versions = [contract.version for contract in (one.old, one.new) if contract is not None]
    note = "  (new major version)" if one.is_new_major else ""
    click.echo(f"{one.stream} {' → '.join(dict.fromkeys(versions))}{note}")
    for change in one.changes:
        click.echo(f"  {change.kind:<13}  {change}")


def _document(one: StreamChanges) -> dict[str, object]:
    return {
        "stream": one.stream,
        "old_version": one.old.version if one.old is not None else None,
        "new_version": one.new.version if one.new is not None else None,
        "new_major": one.is_new_major,
        "changes": [
            {"kind": change.kind, "where": change.where, "what": change.what, "reason": change.reason}
            for change in one.changes
        ],
    }
