"""``gateway demo``: the whole product on one machine, with nothing to set up."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.options import LogFormat, log_format_option


@click.command(short_help="Run the whole product on this machine, with nothing to set up.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Public port; 0: a free one."
)
@click.option(
    "--admin-port",
    type=click.IntRange(0, 65535),
    default=9090,
    show_default=True,
    help="Management port; 0: a free one.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where data is kept.  [default: a fresh directory, removed at the end]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.001, max=100_000),
    default=20,
    show_default=True,
    help="Records per second and topic.",
)
@click.option("--once", is_flag=True, help="Play the example records once; the gateway goes on serving.")
@log_format_option("text")
@click.pass_context
def demo(
    ctx: click.Context,
    *,
    port: int,
    admin_port: int,
    data_dir: Path | None,
    rate: float,
    once: bool,
    log_format: LogFormat | None,
) -> None:
    """Run everything here: an embedded Kafka, Redis, SQLite, the gateway and two partners with working tokens.

    Prints commands to paste, and writes DIR/demo.json for programs. Ctrl-C stops all of it. No settings file and no
    GATEWAY_ variable is read: the demo has settings of its own.

    \b
    Example:
      gateway demo --port 8080 --rate 50
    """
    from gateway.demo import run

    ctx.exit(
        run(
            port=port,
            admin_port=admin_port,
            data_dir=data_dir,
            rate=rate,
            once=once,
            log_format=log_format or "text",
        )
    )
