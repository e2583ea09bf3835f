"""The pages of docs/reference that are made from the code. ``make docs`` writes them, tests compare them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from gateway.cli import main
from gateway.config.schema import SettingRow, describe_settings
from gateway.config.settings import Settings

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"

SETTINGS_INTRODUCTION = """\
# Settings

<!-- Made by `make docs` from gateway/config/settings.py; change it there. -->

Settings come from three places, and a later one wins:

1. **A TOML file**: the one named by `--config`, else `gateway.toml` in the working directory if it is there. A file
   that is named and absent is an error.
2. **Environment variables** `GATEWAY_<SECTION>__<NAME>`, with `__` before each level: `GATEWAY_HTTP__PORT=8443`,
   `GATEWAY_AUTH__BUILTIN__ENABLED=true`, `GATEWAY_KAFKA__CLUSTERS__EU__BOOTSTRAP_SERVERS=kafka:9092`. Lists are JSON:
   `GATEWAY_ADMIN__TOKENS='["…"]'`. An empty variable counts as not set. `GATEWAY_TOKEN` is not a setting but the
   access token of `gateway tail`; what Kubernetes sets for a service named `gateway` (`GATEWAY_PORT`,
   `GATEWAY_SERVICE_HOST`, …) is passed over.
3. **Flags** `--set NAME=VALUE`, with the dotted name: `--set http.port=8443`. Values are written as in the environment.

A list is replaced as a whole, never added to. An unknown name is an error, in the file and in the environment, and the
nearest valid name is suggested. All that is wrong is said at once, one line each, and the exit code is 2. The value of
a secret is never printed.

**Relative paths** in a file count from the directory of that file; in the environment, in flags and in defaults they
count from the working directory. Addresses such as `sqlite:///data/gateway.db` are not paths: they are taken as they
are.

**Yes or no** is `true` or `false` in a file, without quotes; in the environment and in flags, where all is text, `1`
and `0` too.

**Sizes** are numbers of bytes, or text with `KiB`, `MiB` or `GiB`. All times are in seconds.
"""

CLI_INTRODUCTION = """\
# Commands

<!-- Made by `make docs` from gateway/cli/; change it there. -->

| exit code | meaning |
|---|---|
| 0 | done; for `serve` and `demo`: stopped in order |
| 1 | failed while running: something it needs is away, or `check` found something |
| 2 | something to correct first: usage, settings, contracts, catalog; all problems at once, a line each on stderr |

What goes wrong is a line on stderr that begins with `gateway: `. There is no traceback unless `gateway --debug` asks
for it. Data goes to stdout, with `--format json` as one JSON document.
"""


def settings_page() -> str:
    """docs/reference/settings.md."""
    parts = [SETTINGS_INTRODUCTION]
    rows = describe_settings()
    for section, field in Settings.model_fields.items():
        model = field.annotation
        parts.append(f"## {section}\n\n{(model.__doc__ or '').strip() if model else ''}\n")
        parts.append("| setting | type | default | meaning |\n|---|---|---|---|")
        parts.append("\n".join(_row(row) for row in rows if row.name.startswith(f"{section}.")) + "\n")
    return "\n".join(parts)


def _row(row: SettingRow) -> str:
    default = "required" if row.default is None else f"`{row.default}`" if " " not in row.default else row.default
    if row.default == "none":
        default = "none"
    secret = " **Secret.**" if row.secret else ""
    return f"| `{row.name}` | {row.type} | {default} | {row.meaning}{secret} |"


def cli_page() -> str:
    """docs/reference/cli.md."""
    parts = [CLI_INTRODUCTION]
    for path, context in commands(click.Context(main, info_name="gateway", terminal_width=100)):
        parts.append(f"## {path}\n\n```text\n{context.get_help()}\n```\n")
    return "\n".join(parts)


def commands(context: click.Context) -> Iterator[tuple[str, click.Context]]:
    """Every command with its context, groups before what they hold."""
    yield context.command_path, context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from commands(click.Context(command, info_name=name, parent=context, terminal_width=100))


PAGES = {"settings.md": settings_page, "cli.md": cli_page}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for page, render in PAGES.items():
        (FOLDER / page).write_text(render(), encoding="utf-8")
        print(f"docs/reference/{page}")
