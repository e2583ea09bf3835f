"""``gateway check``: would it run? Settings, contracts, keys, catalog, then everything it depends on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.catalog.problems import one_line
from gateway.cli.options import format_option, print_json, read_settings, settings_options
from gateway.errors import ConfigurationProblems, GatewayError
from gateway.units import format_rfc3339

if TYPE_CHECKING:
    from gateway.auth.apart import Apart
    from gateway.catalog.catalog import Catalog
    from gateway.catalog.contracts import Contracts
    from gateway.config import Settings
    from gateway.config.auth import IssuerSettings
    from gateway.config.http import AdminSettings, HttpSettings
    from gateway.database.database import Database
    from gateway.kafka.cluster import KafkaCluster
    from gateway.kafka.offsets import Offsets


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check: what was looked at, and what is good or what to do. Several details are several lines.

    A warning is ok, and worth a look all the same.
    """

    name: str
    ok: bool
    details: Sequence[str]
    is_warning: bool = False

    def lines(self) -> list[str]:
        """The finding for people."""
        verdict = "FAILED" if not self.ok else "warn  " if self.is_warning else "ok    "
        return [f"{verdict} {self.name}: {one_line(detail)}" for detail in self.details]


@click.command(short_help="Would it run? Settings, contracts, keys, catalog, dependencies.")
@settings_options
@format_option
@click.pass_context
def check(ctx: click.Context, *, config: Path | None, assignments: tuple[str, ...], output: str) -> None:
    """Check settings, contracts, issuers' keys and the catalog, then Kafka, Redis and the database.

    One line each: ok, or what to do. Exit code 1 if anything failed, 2 if the settings cannot be read at all.

    \b
    Example:
      gateway check --config gateway.toml
    """
    try:
        settings = read_settings(config, assignments)
    except ConfigurationProblems as error:
        if output == "text":
            raise
        print_json(_document([Finding("settings", ok=False, details=error.problems)]))
        ctx.exit(2)
    findings = asyncio.run(_look(settings, echo=output == "text"))
    if output == "json":
        print_json(_document(findings))
    ctx.exit(0 if all(finding.ok for finding in findings) else 1)


async def _look(settings: Settings, *, echo: bool) -> list[Finding]:
    findings = []
    async for finding in _findings(settings):
        findings.append(finding)
        if echo:
            for line in finding.lines():
                click.echo(line)
    return findings


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    issuers = settings.auth.issuer_names()
    known = f"issuers: {', '.join(issuers)}" if issuers else "no issuer in auth.issuers: no token will be accepted"
    yield Finding("settings", ok=True, details=[known])
    if settings.http.tls_cert_file is not None:
        yield await asyncio.to_thread(_check_certificate, settings.http, "certificate")
    if settings.admin.tls_cert_file is not None:
        yield await asyncio.to_thread(_check_certificate, settings.admin, "admin certificate")
    contracts, finding = _check_contracts(settings)
    yield finding
    for finding in await _check_keys(settings):
        yield finding
    catalog, finding = await asyncio.to_thread(_check_database, settings)
    yield finding
    if catalog is not None:
        yield _check_catalog(catalog, contracts, issuers)
        if settings.auth.builtin.is_on:
            yield await asyncio.to_thread(_check_signing_keys, settings)
        for finding in (*_check_applications(catalog, issuers), *_check_prices(catalog)):
            yield finding
    async for finding in _check_kafka(settings, contracts):
        yield finding
    yield await _check_redis(settings)
    if settings.telemetry.otlp_endpoint is not None:
        yield await asyncio.to_thread(_check_telemetry, settings)


def _check_certificate(port: HttpSettings | AdminSettings, name: str) -> Finding:
    from gateway.config.http import AdminSettings
    from gateway.server.tls import Certificates

    authorities = port.tls_client_ca_file if isinstance(port, AdminSettings) else None
    certificates = Certificates(
        cert_file=str(port.tls_cert_file),
        key_file=str(port.tls_key_file),
        client_ca_file=None if authorities is None else str(authorities),
        name="admin" if isinstance(port, AdminSettings) else "http",
    )
    try:
        certificate = certificates.read()
    except ConfigurationProblems as error:
        return Finding(name, ok=False, details=error.problems)
    until = f"{port.tls_cert_file}, valid until {certificate.expires:%Y-%m-%d %H:%M} UTC"
    return Finding(name, ok=True, details=[until])


def _check_contracts(settings: Settings) -> tuple[Contracts | None, Finding]:
    from gateway.catalog.contracts import load_contracts

    try:
        contracts = load_contracts(settings.contracts.dir, clusters=settings.kafka.by_name())
    except ConfigurationProblems as error:
        return None, Finding("contracts", ok=False, details=error.problems)
    streams = ", ".join(contracts) or f"no stream in {settings.contracts.dir}"
    return contracts, Finding("contracts", ok=True, details=[streams])


async def _check_keys(settings: Settings) -> list[Finding]:
    """All issuers at once, so that the dead among them cost the time of one."""
    from gateway.auth.apart import Apart

    apart = Apart()
    try:
        asked = [_check_issuer(issuer, settings, apart=apart) for issuer in settings.auth.issuers]
        return await asyncio.gather(*asked)
    finally:
        await apart.close()


async def _check_issuer(issuer: IssuerSettings, settings: Settings, *, apart: Apart) -> Finding:
    from gateway.auth.keys import KeySet, KeySetRefused, load_jwks_file

    name = f"keys of {issuer.name}"
    if issuer.jwks_file is not None:
        try:
            load_jwks_file(issuer.jwks_file, algorithms=issuer.algorithms)
        except ConfigurationProblems as error:
            return Finding(name, ok=False, details=error.problems)
        return Finding(name, ok=True, details=[str(issuer.jwks_file)])
    from gateway.auth.address import KeysUnreachable
    from gateway.config.adapters import jwks_address

    place = str(issuer.jwks_url)
    try:
        answer = await jwks_address(issuer, settings, apart=apart).ask()
        keys = await asyncio.to_thread(KeySet.parse, answer.document, algorithms=issuer.algorithms)
    except KeysUnreachable as error:
        return Finding(name, ok=False, details=[f"{place}: {error}"])
    except KeySetRefused as refused:
        return Finding(name, ok=False, details=[f"{place}: {problem}" for problem in refused.problems])
    left_out = [f"passed over, {note}" for note in keys.notes]
    return Finding(name, ok=True, details=[f"{len(keys.keys)} from {place}", *left_out])


def _check_database(settings: Settings) -> tuple[Catalog | None, Finding]:
    from gateway.config.adapters import database as open_database

    try:
        with contextlib.closing(open_database(settings)) as database:
            return _check_schema(database, settings)
    except (ConfigurationProblems, GatewayError) as error:
        return None, Finding("database", ok=False, details=[" ".join(str(error).split())])


def _check_schema(database: Database, settings: Settings) -> tuple[Catalog | None, Finding]:
    """The catalog, if the schema is one to work with. Looking neither makes nor changes anything."""
    from gateway.catalog.store import Store
    from gateway.database.schema import Schema

    if not database.is_there():
        hint = f"there is no {database.url.database} yet; `gateway apply FILE` makes it"
        return None, Finding("database", ok=False, details=[hint])
    schema = Schema(database)
    state = schema.state()
    if state.standing == "empty":
        hint = f"{database.place} {schema.told(state)}; `gateway apply FILE` makes them"
        return None, Finding("database", ok=False, details=[hint])
    if state.standing in ("behind", "unversioned") and settings.database.auto_upgrade:
        told = f"{database.place} {schema.told(state)}; serve and apply upgrade it, or `gateway db upgrade` does"
        return None, Finding("database", ok=True, details=[told])
    schema.require(may_upgrade=False)
    revision, catalog = Store(database).load_catalog(settings.auth.issuer_names())
    note = "" if state.standing == "current" else f"; {schema.told(state)}"
    return catalog, Finding(
        "database", ok=True, details=[f"catalog revision {revision}, schema {state.revision}{note}"]
    )


def _check_signing_keys(settings: Settings) -> Finding:
    """Whether the built-in issuer has a key to sign with now, and can open all that it has. Makes none."""
    from gateway.config.adapters import database as open_database
    from gateway.config.adapters import issuer_store

    name, now = "signing keys", time.time()
    try:
        with contextlib.closing(open_database(settings)) as database:
            store = issuer_store(settings, database)
            if store is None or not store.check_keys():
                return Finding(name, ok=True, details=["none yet; the first node that starts makes one"])
            keys = store.keys(longest_seconds=settings.auth.max_token_lifetime_seconds)
    except (ConfigurationProblems, GatewayError) as error:
        problems = error.problems if isinstance(error, ConfigurationProblems) else [str(error)]
        return Finding(name, ok=False, details=problems)
    if keys[0].signs_from > now:
        since = format_rfc3339(keys[0].signs_from * 1000)
        return Finding(name, ok=False, details=[f"none signs before {since}; look at this machine's clock"])
    signs = [key for key in keys if key.signs_from <= now][-1]
    over = sum(1 for key in keys if key.verifies_until is not None and key.verifies_until <= now)
    forgets = f"{over} of {len(keys)} verify no token any more; the next `gateway keys rotate` forgets them"
    notes = [forgets] if over else []
    return Finding(
        name, ok=True, details=[f"{signs.kid} signs since {format_rfc3339(signs.signs_from * 1000)}", *notes]
    )


def _check_catalog(catalog: Catalog, contracts: Contracts | None, issuers: Sequence[str]) -> Finding:
    from gateway.catalog.validation import catalog_problems

    problems = catalog_problems(catalog, contracts, issuers)
    if problems:
        return Finding("catalog", ok=False, details=problems)
    counts = f"{len(catalog.tenants)} tenants, {len(catalog.plans)} plans, {len(catalog.products)} products"
    return Finding("catalog", ok=True, details=[counts])


def _check_applications(catalog: Catalog, issuers: Sequence[str]) -> list[Finding]:
    from gateway.catalog.validation import unmatched_applications

    told = unmatched_applications(catalog, issuers)
    return [Finding("applications", ok=True, details=told, is_warning=True)] if told else []


def _check_prices(catalog: Catalog) -> list[Finding]:
    """Doubts about the newest revision of each plan: those before it cannot be changed."""
    from gateway.billing.linter import lint_plans

    newest = {plan.name: plan for plan in catalog.plans}
    doubts = [doubt.line() for doubt in lint_plans(newest.values())]
    return [Finding("prices", ok=True, details=doubts, is_warning=True)] if doubts else []


async def _check_kafka(settings: Settings, contracts: Contracts | None) -> AsyncIterator[Finding]:
    from gateway.clock import SystemClock
    from gateway.config.adapters import kafka_clusters
    from gateway.kafka.offsets import Offsets

    try:
        clusters = kafka_clusters(settings, clock=SystemClock())
    except ConfigurationProblems as error:
        yield Finding("kafka", ok=False, details=error.problems)
        return
    if not clusters:
        yield Finding("kafka", ok=False, details=["no cluster is configured: set kafka.bootstrap_servers"])
    for name, cluster in clusters.items():
        try:
            finding = await _ask(f"kafka {name}", cluster.ping(), "answers")
            yield finding
            if finding.ok:
                offsets = Offsets(cluster)
                for contract in (contracts or {}).values():
                    if contract.cluster == name and contract.lifecycle != "retired":
                        yield await _check_topic(cluster, offsets, contract.topic, contract.stream)
        finally:
            await cluster.close()


async def _check_topic(cluster: KafkaCluster, offsets: Offsets, topic: str, stream: str) -> Finding:
    name = f"topic {topic}"
    try:
        partitions = await offsets.check_readable(topic)
    except GatewayError as error:
        return Finding(name, ok=False, details=[f"{error}; the stream {stream} needs it"])
    return Finding(name, ok=True, details=[f"{partitions} partitions, on {cluster.name}, for the stream {stream}"])


def _check_telemetry(settings: Settings) -> Finding:
    from gateway.config.telemetry import telemetry

    try:
        traces = telemetry(settings)
    except ConfigurationProblems as error:
        return Finding("telemetry", ok=False, details=error.problems)
    assert traces is not None
    try:
        taken = traces.reaches_collector()
    finally:
        traces.close()
    endpoint = settings.telemetry.otlp_endpoint
    hint = f"{endpoint} takes no traces: start the collector, or correct telemetry.otlp_endpoint and otlp_headers"
    return Finding("telemetry", ok=taken, details=[f"{endpoint} takes traces" if taken else hint])


async def _check_redis(settings: Settings) -> Finding:
    from gateway.config.adapters import redis_link

    try:
        link = redis_link(settings)
    except ConfigurationProblems as error:
        return Finding("redis", ok=False, details=error.problems)
    if link is None:
        return Finding("redis", ok=True, details=["not configured (redis.url)"])
    try:
        await link.try_out()
    except ConnectionError as error:
        hint = "start it, or correct redis.url and what its user may do"
        return Finding("redis", ok=False, details=[f"{str(error).rstrip('.')}: {hint}"])
    else:
        return Finding("redis", ok=True, details=[link.described()])
    finally:
        await link.close()


async def _ask(name: str, question: Awaitable[None], answer: str) -> Finding:
    try:
        await question
    except (GatewayError, ConnectionError) as error:
        return Finding(name, ok=False, details=[str(error)])
    return Finding(name, ok=True, details=[answer])


def _document(findings: Sequence[Finding]) -> dict[str, object]:
    return {
        "ok": all(finding.ok for finding in findings),
        "checks": [{"name": one.name, "ok": one.ok, "details": list(one.details)} for one in findings],
    }
