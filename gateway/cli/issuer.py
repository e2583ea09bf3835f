"""``gateway secrets`` and ``gateway keys``: what the built-in issuer knows clients and signs by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options
from gateway.cli.token import Lifetime
from gateway.errors import ConfigurationProblems
from gateway.units import format_rfc3339

if TYPE_CHECKING:
    from gateway.auth.issuer_store import IssuerStore
    from gateway.catalog.store import Store
    from gateway.config import Settings
    from gateway.database.audit import Entry

ACTOR = "command line"


@click.group("secrets", short_help="Client secrets for the built-in issuer's token endpoint.")
def client_secrets() -> None:
    """The secrets by which applications get tokens at /oauth/token (auth.builtin.token_endpoint).

    \b
    Example:
      gateway secrets add --client-id acme-batch
    """


@client_secrets.command("add", short_help="Make a secret and print it, this once.")
@click.option("--client-id", required=True, help="The application, as the catalog names it.")
@settings_options
@format_option
def add_secret(*, client_id: str, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Make a secret and print it: it is kept as a hash, and nobody can read it again.

    An application has two at most, so that a new one can be handed over while the old one is in use. Nodes that run
    take it within seconds.

    \b
    Example:
      gateway secrets add --client-id acme-batch
    """
    with _opened(config, assignments, for_endpoint=True) as stores:
        _check_known(stores, client_id)
        audit = _entry("secret_added", client_id)
        secret = stores.issuer.add_secret(client_id, now=time.time(), audit=audit)
    if output == "json":
        print_json({"client_id": client_id, "client_secret": secret})
    else:
        click.echo(secret)


@client_secrets.command("list", short_help="The secrets there are, without what is secret of them.")
@click.option("--client-id", help="One application's only.")
@settings_options
@format_option
def list_secrets(*, client_id: str | None, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """List the live secrets by application: the name of each, which is the middle part of it, and when it was made.

    \b
    Example:
      gateway secrets list
    """
    with _opened(config, assignments, for_endpoint=True) as stores:
        found = [one for one in stores.issuer.secrets() if client_id in (None, one.client_id)]
    rows = [{"client_id": one.client_id, "id": one.id, "made_at": _spelt(one.made_at)} for one in found]
    if output == "json":
        print_json({"secrets": rows})
        return
    for row in rows:
        click.echo(f"{row['client_id']}  {row['id']}  {row['made_at']}")


@client_secrets.command("remove", short_help="Withdraw a secret.")
@click.argument("secret_id", metavar="ID")
@click.option("--client-id", required=True, help="The application, as the catalog names it.")
@settings_options
def remove_secret(*, secret_id: str, client_id: str, config: Path | None, assignments: tuple[str, ...]) -> None:
    """Withdraw the secret ID of an application. Tokens that it got live on to their end, unless they are revoked.

    \b
    Example:
      gateway secrets remove --client-id acme-batch 5f0c3d0c7f5b4f4d
    """
    with _opened(config, assignments, for_endpoint=True) as stores:
        audit = _entry("secret_removed", f"{client_id} {secret_id}")
        if not stores.issuer.remove_secret(client_id, secret_id, audit=audit):
            raise ConfigurationProblems([f"{client_id} has no secret {secret_id}; `gateway secrets list` shows all"])
    click.echo(f"removed {secret_id}")


@click.group(short_help="The built-in issuer's signing keys.")
def keys() -> None:
    """The keys that sign the tokens of /oauth/token and `gateway token`. They are in the database, sealed, and all
    nodes share them.

    \b
    Example:
      gateway keys list
    """


@keys.command(short_help="Make a new signing key; the old one verifies as long as its tokens live.")
@click.option(
    "--lead",
    type=Lifetime(),
    default="1m",
    show_default=True,
    help="How long the key is known before it signs: 30s, 15m. Every node has to have seen it.",
)
@settings_options
@format_option
def rotate(*, lead: int, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Make a key that signs from a minute on. The one before goes on verifying for auth.max_token_lifetime_seconds
    after that; the rotation after next forgets it. No request fails meanwhile.

    \b
    Example:
      gateway keys rotate
    """
    with _opened(config, assignments) as stores:
        longest = stores.settings.auth.max_token_lifetime_seconds
        now = time.time()
        # Before any node ran there is none to take the place of.
        stores.issuer.ensure_key(now=now)
        audit = _entry("signing_key_rotated", f"in {lead} s")
        kid = stores.issuer.rotate(now=now, lead_seconds=lead, longest_seconds=longest, audit=audit)
    if output == "json":
        print_json({"kid": kid, "signs_from": _spelt(int(now) + lead)})
    else:
        click.echo(f"{kid} signs from {_spelt(int(now) + lead)}")


@keys.command("list", short_help="The signing keys, and when each signs and verifies.")
@settings_options
@format_option
def list_keys(*, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """List the signing keys, oldest first.

    \b
    Example:
      gateway keys list --format json
    """
    with _opened(config, assignments) as stores:
        found = stores.issuer.keys(longest_seconds=stores.settings.auth.max_token_lifetime_seconds)
    rows = [
        {
            "kid": one.kid,
            "signs_from": _spelt(one.signs_from),
            "verifies_until": None if one.verifies_until is None else _spelt(one.verifies_until),
        }
        for one in found
    ]
    if output == "json":
        print_json({"keys": rows})
        return
    for row in rows:
        end = "" if row["verifies_until"] is None else f"  verifies until {row['verifies_until']}"
        click.echo(f"{row['kid']}  signs from {row['signs_from']}{end}")


# One key in 64 has a name that begins like an option.
@keys.command(
    "remove",
    short_help="Give up a signing key now; its tokens end.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("kid")
@settings_options
def remove_key(*, kid: str, config: Path | None, assignments: tuple[str, ...]) -> None:
    """Give up the signing key KID, as for one that somebody else may have: tokens that it signed are refused from then
    on. A last key is replaced at once.

    \b
    Example:
      gateway keys remove 5mH4fR0cQ9mTqk3tI9i2tXzqgLw0W1m0aJm1pX5s8cA
    """
    with _opened(config, assignments) as stores:
        audit = _entry("signing_key_removed", kid)
        if not stores.issuer.remove_key(kid, now=time.time(), audit=audit):
            raise ConfigurationProblems([f"there is no signing key {kid}; `gateway keys list` shows all"])
    click.echo(f"removed {kid}")


@dataclass(frozen=True, slots=True)
class _Stores:
    settings: Settings
    issuer: IssuerStore
    catalog: Store


@contextlib.contextmanager
def _opened(config: Path | None, assignments: tuple[str, ...], *, for_endpoint: bool = False) -> Iterator[_Stores]:
    settings = read_settings(config, assignments)
    builtin = settings.auth.builtin
    if for_endpoint and not builtin.token_endpoint:
        raise ConfigurationProblems(["auth.builtin.token_endpoint = False: must be true for this command"])
    if not builtin.is_on:
        raise ConfigurationProblems(
            ["auth.builtin.token_endpoint = False: it or auth.builtin.enabled must be true for this command"]
        )
    from gateway.catalog.store import Store
    from gateway.config.adapters import database as open_database
    from gateway.config.adapters import issuer_store
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    settings.data.dir.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(open_database(settings)) as database, at_start():
        Schema(database).require(may_upgrade=settings.database.auto_upgrade)
        issuer = issuer_store(settings, database)
        if issuer is None:
            raise ValueError("no issuer, no store")
        yield _Stores(settings, issuer, Store(database))


def _check_known(stores: _Stores, client_id: str) -> None:
    """A secret of an application that no token could name would only puzzle."""
    issuers = stores.settings.auth.issuer_names()
    _, catalog = stores.catalog.load_catalog(issuers)
    if catalog.application("builtin", client_id) is None:
        raise ConfigurationProblems(
            [f"--client-id {client_id}: the catalog has no such application of the issuer builtin; apply it first"]
        )


def _entry(action: str, target: str) -> Entry:
    from gateway.database.audit import Entry

    return Entry(at=_spelt(time.time()), actor=ACTOR, action=action, target=target)


def _spelt(seconds: float) -> str:
    return format_rfc3339(round(seconds * 1000))
