"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from gateway.config import Settings

LogFormat = Literal["json", "text"]
Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(command: Command) -> Command:
    """``--config`` and ``--set``: what :func:`read_settings` wants to know."""
    command = click.option(
        "--set",
        "assignments",
        metavar="NAME=VALUE",
        multiple=True,
        help="One setting by its dotted name; wins over environment and file. Repeatable.",
    )(command)
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="TOML file with settings.  [default: gateway.toml here, if there is one]",
    )(command)


def format_option(command: Command) -> Command:
    """``--format``: text for people or one JSON document."""
    return click.option(
        "--format",
        "output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="What to print.",
    )(command)


def log_format_option(default: str) -> Callable[[Command], Command]:
    """``--log-format``; ``default`` says in words what holds without it."""
    return click.option(
        "--log-format",
        type=click.Choice(["json", "text"]),
        help=f"Logs on stderr as JSON lines or for people.  [default: {default}]",
    )


def read_settings(config: Path | None, assignments: tuple[str, ...]) -> Settings:
    """The settings of this run. Raises ConfigurationProblems, and a usage error for a ``--set`` without a value."""
    from gateway.config import load_settings

    overrides: dict[str, object] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{assignment!r} is not NAME=VALUE", param_hint="--set")
        overrides[name] = value
    return load_settings(config, environ=os.environ, overrides=overrides)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
