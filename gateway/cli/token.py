"""``gateway token``: an access token from the built-in issuer, for development."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options
from gateway.errors import ConfigurationProblems

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.database.database import Database

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Lifetime(click.ParamType[int]):
    """``90s``, ``15m``, ``1h`` or ``2d``, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The seconds, or a usage error."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        if not match or not int(match[1]):
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 1h or 2d", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


class Claim(click.ParamType[tuple[str, Any]]):
    """``name=value``; the value is JSON where it is JSON, else text."""

    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Name and value, or a usage error."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@click.command(short_help="Print an access token of the built-in issuer.")
@click.option("--client-id", required=True, help="The application the token is for, as the catalog names it.")
@click.option("--scope", "scopes", multiple=True, help="A scope the token holds. Repeatable.")
@click.option("--ttl", type=Lifetime(), default="1h", show_default=True, help="How long it lasts: 90s, 15m, 1h, 2d.")
@click.option("--claim", "claims", type=Claim(), multiple=True, help="A further claim. Repeatable.")
@settings_options
@format_option
def token(
    *,
    client_id: str,
    scopes: tuple[str, ...],
    ttl: int,
    claims: tuple[tuple[str, Any], ...],
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Print an access token of the built-in issuer, which must be switched on (auth.builtin), signed with the key in
    the database that signs now.

    A client that the catalog does not know gets its token too, with a word on stderr: the gateway lets it in when the
    catalog names it.

    \b
    Example:
      gateway token --client-id acme-batch --scope streams:read --scope flights:read --claim airport=ORD
    """
    settings = read_settings(config, assignments)
    builtin = settings.auth.builtin
    if not builtin.is_on:
        raise ConfigurationProblems(
            ["auth.builtin.enabled = False: must be true for this command; for development, never in production"]
        )
    longest = settings.auth.max_token_lifetime_seconds
    if ttl > longest:
        raise ConfigurationProblems([f"--ttl {ttl} s: must be at most {longest} s (auth.max_token_lifetime_seconds)"])
    minted = _mint(settings, client_id, scope=" ".join(scopes), ttl_seconds=ttl, claims=dict(claims))
    if output == "json":
        print_json({"access_token": minted, "token_type": "Bearer", "expires_in": ttl})
    else:
        click.echo(minted)


def _mint(settings: Settings, client_id: str, *, scope: str, ttl_seconds: int, claims: dict[str, Any]) -> str:
    from gateway.clock import SystemClock
    from gateway.config.adapters import database as open_database
    from gateway.config.adapters import issuer_store, minter
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    settings.data.dir.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(open_database(settings)) as database, at_start():
        schema = Schema(database)
        has_catalog = schema.state().is_usable
        schema.require(may_upgrade=settings.database.auto_upgrade)
        store = issuer_store(settings, database)
        if store is None:
            raise ValueError("no issuer, no store")
        try:
            minted = minter(settings, store, clock=SystemClock()).mint(
                client_id, scope=scope, ttl_seconds=ttl_seconds, claims=claims
            )
        except ValueError as error:
            raise ConfigurationProblems([str(error)]) from error
        if has_catalog:
            _warn_of_stranger(settings, database, client_id)
        return minted


def _warn_of_stranger(settings: Settings, database: Database, client_id: str) -> None:
    """Say on stderr where the catalog does not know the client: a token that nobody honours looks like any other, and
    its refusal tells its bearer nothing."""
    from gateway.auth.issuer import BUILTIN
    from gateway.catalog.store import Store

    _, catalog = Store(database).load_catalog(settings.auth.issuer_names())
    if catalog.application(BUILTIN, client_id) is None:
        click.echo(
            f"gateway: the catalog ({database.place}) has no application with client_id {client_id!r} of issuer"
            f" {BUILTIN}: this token is refused as token_invalid until gateway apply has added one",
            err=True,
        )
