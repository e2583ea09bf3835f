"""``gateway serve``: the product."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.options import LogFormat, log_format_option, read_settings, settings_options


@click.command()
@settings_options
@log_format_option("the setting log.format")
@click.pass_context
def serve(
    ctx: click.Context, *, config: Path | None, assignments: tuple[str, ...], log_format: LogFormat | None
) -> None:
    """Serve the streams until SIGTERM or SIGINT, then drain and exit.

    Partners reach the public port, operators the management port. SIGHUP re-reads contracts, catalog and keys.

    \b
    Example:
      gateway serve --config gateway.toml --log-format text
    """
    settings = read_settings(config, assignments)
    from gateway.serving import serve as run

    ctx.exit(run(settings, log_format or settings.log.format))
