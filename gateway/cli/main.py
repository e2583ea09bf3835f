"""The command's front door: its subcommands, its exit codes, and no traceback for people who did not ask for one."""

from __future__ import annotations

import errno
import logging
import re
import secrets
from typing import Any

import click

from gateway import __version__
from gateway.catalog.problems import one_line
from gateway.cli.access import access
from gateway.cli.apply import apply
from gateway.cli.billing import billing
from gateway.cli.catalog import catalog
from gateway.cli.check import check
from gateway.cli.contracts import contracts
from gateway.cli.db import db
from gateway.cli.demo import demo
from gateway.cli.issuer import client_secrets, keys
from gateway.cli.serve import serve
from gateway.cli.tail import tail
from gateway.cli.token import token
from gateway.cli.usage import usage
from gateway.cli.usage_export import export
from gateway.cli.usage_sources import create_topic, sources
from gateway.cli.usage_upkeep import reconcile, rollup
from gateway.errors import ConfigurationProblems, GatewayError

EXIT_FAILURE = 1
EXIT_CONFIGURATION = 2

_LINE_ENDS = re.compile(r"\s*[\r\n]\s*")
_LOG = logging.getLogger("gateway.cli")


class FrontDoor(click.Group):
    """A group whose commands end in 0 (done), 1 (failed) or 2 (something to correct), each failure in plain lines."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what it raises becomes lines on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except ConfigurationProblems as error:
            for problem in error.problems:
                _complain(problem)
            ctx.exit(EXIT_CONFIGURATION)
        except GatewayError as error:
            _complain(str(error))
            ctx.exit(EXIT_FAILURE)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            number = secrets.token_hex(4)
            _LOG.debug("internal error %s", number, exc_info=error)
            shows = "the same command after `gateway --debug` shows where"
            _complain(f"internal error {number}: {type(error).__name__}: {error}; {shows}")
            ctx.exit(EXIT_FAILURE)


def _complain(text: str) -> None:
    """One line on stderr, whatever drivers and files have put into it."""
    click.echo(f"gateway: {one_line(_LINE_ENDS.sub(' ', text))}", err=True)


@click.group(cls=FrontDoor, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="gateway")
@click.option("--debug", is_flag=True, help="Write debug lines and tracebacks to stderr.")
def main(*, debug: bool) -> None:
    """A streaming API gateway: internal Kafka topics for external partners.

    \b
    Example:
      gateway demo
    """
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
    elif not logging.getLogger().handlers:
        # Or the libraries' warnings would stand between the lines of a command that says the same in its own words.
        logging.getLogger().addHandler(logging.NullHandler())


for _command in (
    serve,
    demo,
    check,
    contracts,
    apply,
    catalog,
    access,
    billing,
    db,
    token,
    client_secrets,
    keys,
    tail,
    usage,
):
    main.add_command(_command)
for _command in (export, rollup, reconcile, sources, create_topic):
    usage.add_command(_command)
