"""``gateway access``: what the policy says of a reader, and why."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.options import format_option, print_json, read_settings, settings_options
from gateway.cli.token import Claim
from gateway.errors import ConfigurationProblems
from gateway.model import TRANSPORTS, Principal, Transport

if TYPE_CHECKING:
    from gateway.auth.explain import Explanation
    from gateway.auth.revocation import Revocations
    from gateway.catalog.catalog import Catalog
    from gateway.config import Settings

EXIT_REFUSED = 1


@click.group(short_help="Explain who may read what.")
def access() -> None:
    """Explain who may read what.

    \b
    Example:
      gateway access explain --client-id acme-batch --stream flights --scope streams:read
    """


@access.command(short_help="Show each condition for a read, and whether it is met.")
@click.option("--client-id", required=True, help="The application, as the catalog names it.")
@click.option("--stream", required=True, help="The stream it would read.")
@click.option("--issuer", help="The name in auth.issuers of who issues its tokens.  [default: the only one]")
@click.option("--subject", help="The token's sub.  [default: the client id]")
@click.option("--token-id", default="", help="The token's jti, for revocations of that token.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="A scope the token holds. Repeatable.  [default: those that the stream asks for]",
)
@click.option("--claim", "claims", type=Claim(), multiple=True, help="A further claim, for row filters. Repeatable.")
@click.option("--transport", type=click.Choice(TRANSPORTS), help="The protocol it would read over.  [default: any]")
@settings_options
@format_option
@click.pass_context
def explain(
    context: click.Context,
    *,
    client_id: str,
    stream: str,
    issuer: str | None,
    subject: str | None,
    token_id: str,
    scopes: tuple[str, ...],
    claims: tuple[tuple[str, Any], ...],
    transport: Transport | None,
    config: Path | None,
    assignments: tuple[str, ...],
    output: str,
) -> None:
    """Show each condition that a read must meet, with its verdict, by the rule that the gateway itself goes by.

    Contracts come from contracts.dir, catalog and revocations from the database; nothing is written. Without a --scope
    the token's are not known: it is assumed to hold what the stream asks for (--scope '' for a token that holds none).
    Ends with 0 where the read would be let in, with 1 where it would be refused.

    \b
    Example:
      gateway access explain --client-id acme-web --stream flights --scope streams:read --claim airport=ORD
    """
    settings = read_settings(config, assignments)
    from gateway.auth.explain import explain as explained
    from gateway.auth.explain import moment
    from gateway.catalog.contracts import load_contracts
    from gateway.clock import SystemClock

    now = SystemClock().now()
    contracts = load_contracts(settings.contracts.dir)
    catalog, revocations = _load(settings, now=now)
    principal = Principal(
        issuer=_issuer(issuer, settings.auth.issuer_names()),
        client_id=client_id,
        subject=subject or client_id,
        scopes=frozenset(scope for one in scopes for scope in one.split()),
        token_id=token_id,
        expires_at=int(now) + 1,
        claims=dict(claims),
    )
    contract = contracts.get(stream)
    explanation = explained(
        principal, contract, catalog, revocations, transport=transport, now=now, scopes_are_known=bool(scopes)
    )
    if output == "json":
        print_json(_document(explanation) | {"at": moment(now)})
    else:
        _print(explanation, f"{client_id} of issuer {principal.issuer} reading {stream} at {moment(now)}")
    if explanation.refusal is not None:
        context.exit(EXIT_REFUSED)


def _issuer(named: str | None, known: tuple[str, ...]) -> str:
    if named is None and len(known) == 1:
        return known[0]
    if named not in known:
        listed = ", ".join(known) or "none is configured"
        got = "nothing" if named is None else repr(named)
        raise ConfigurationProblems([f"--issuer, got {got}; allowed: {listed}"])
    return named


def _load(settings: Settings, *, now: float) -> tuple[Catalog, Revocations]:
    from gateway.auth.store import RevocationStore
    from gateway.catalog.store import Store
    from gateway.config.adapters import database as open_database
    from gateway.database.faults import at_start
    from gateway.database.schema import Schema

    with contextlib.closing(open_database(settings)) as database, at_start():
        Schema(database).require(may_upgrade=False)
        _, catalog = Store(database).load_catalog(settings.auth.issuer_names())
        return catalog, RevocationStore(database).load(now=now)


def _document(explanation: Explanation) -> dict[str, Any]:
    refusal = explanation.refusal
    return {
        "granted": refusal is None,
        "refusal": None if refusal is None else {"status": refusal.status, "code": refusal.code},
        "conditions": [
            {
                "condition": one.condition,
                "outcome": one.outcome,
                "told": one.told,
                "code": None if one.refusal is None else one.refusal.code,
            }
            for one in explanation.verdicts
        ],
    }


def _print(explanation: Explanation, about: str) -> None:
    refusal = explanation.refusal
    outcome = "granted" if refusal is None else f"refused with {refusal.status} {refusal.code}"
    click.echo(f"{about}: {outcome}")
    for one in explanation.verdicts:
        hint = "; give --scope to try others" if one.outcome == "assumed" else ""
        click.echo(f"  {one.outcome:<7}  {one.condition:<11}  {one.told}{hint}")
