"""``gateway contracts``: the AsyncAPI files, checked, shown, compared and drafted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.comparing import diff
from gateway.cli.drafting import new
from gateway.cli.options import format_option, print_json, read_settings, settings_options
from gateway.errors import ConfigurationProblems

if TYPE_CHECKING:
    from gateway.catalog.contracts import Contracts


@click.group()
def contracts() -> None:
    """The contracts of the exposed streams.

    \b
    Example:
      gateway contracts lint
    """


_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the contracts.  [default: the setting contracts.dir]",
)


@contracts.command()
@_directory
@settings_options
@format_option
def lint(*, directory: Path | None, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Check every contract; all problems at once, each with its file and line. Exit code 2 if there are any.

    \b
    Example:
      gateway contracts lint --dir asyncapi
    """
    place = directory or read_settings(config, assignments).contracts.dir
    try:
        found = _load(place)
    except ConfigurationProblems as error:
        if output == "json":
            print_json({"ok": False, "problems": error.problems})
            click.get_current_context().exit(2)
        raise
    if output == "json":
        print_json({"ok": True, "streams": sorted(found)})
        return
    for stream in sorted(found):
        contract = found[stream]
        click.echo(f"ok  {stream} {contract.version} ({contract.lifecycle}): {contract.source}")


@contracts.command()
@click.argument("stream", required=False)
@_directory
@settings_options
@format_option
def show(
    *, stream: str | None, directory: Path | None, config: Path | None, assignments: tuple[str, ...], output: str
) -> None:
    """Show what a contract says, defaults filled in; without STREAM all of them. For operators: topics are shown.

    \b
    Example:
      gateway contracts show flights
    """
    found = _load(directory or read_settings(config, assignments).contracts.dir)
    if stream is not None and stream not in found:
        from gateway.catalog.problems import problem_line

        raise ConfigurationProblems([problem_line("STREAM", "no such stream", got=stream, choices=sorted(found))])
    from gateway.catalog.report import describe_contract

    described = [describe_contract(found[name]) for name in ([stream] if stream else sorted(found))]
    if output == "json":
        print_json(described[0] if stream else {"contracts": described})
        return
    for number, description in enumerate(described):
        if number:
            click.echo()
        width = max(len(name) for name in description)
        for name, value in description.items():
            click.echo(f"{name:<{width}}  {_spell(value)}")


contracts.add_command(new)
contracts.add_command(diff)


def _load(directory: Path) -> Contracts:
    from gateway.catalog.contracts import load_contracts

    return load_contracts(directory)


def _spell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(item, dict) for item in value) else ", "
        return between.join(_spell(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_spell(item)}" for name, item in value.items() if item is not None) or "-"
    return "-" if value is None or value == "" else str(value)
