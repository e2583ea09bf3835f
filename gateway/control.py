"""What the operator says: contracts, catalog and issuers' keys, loaded as a whole and followed while running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from gateway.auth.issuer import DevelopmentIssuer
from gateway.auth.keys import load_jwks_file
from gateway.auth.tokens import IssuerSettings, TokenVerifier
from gateway.catalog.catalog import Catalog
from gateway.catalog.compatibility import breaking_without_major
from gateway.catalog.contracts import Contracts, load_contracts
from gateway.catalog.store import Store
from gateway.clock import Clock
from gateway.config import Settings
from gateway.errors import ConfigurationProblems, Unavailable
from gateway.observability.health import Check, Status
from gateway.observability.logs import event
from gateway.transport.gate import Snapshot

T = TypeVar("T")
log = logging.getLogger("gateway.control")
FOLLOW_SECONDS: Final = 2.0
"""How often the database is asked whether the catalog changed."""


class Control:
    """The present snapshot and where it comes from. Loading blocks; ``snapshot`` does not."""

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        """Load everything. Raises ConfigurationProblems with all that is wrong."""
        self._settings = settings
        self._clock = clock
        self._refused: list[str] = []
        self._reloading = asyncio.Lock()
        settings.data.dir.mkdir(parents=True, exist_ok=True)
        problems: list[str] = []
        contracts = _collect(problems, self._load_contracts)
        verifier = _collect(problems, self._load_verifier)
        if contracts is None or verifier is None:
            raise ConfigurationProblems(problems)
        self._store = Store(settings.database.url.get_secret_value())
        try:
            self._store.create_schema()
            self._revision, catalog = self._store.load_catalog(settings.auth.issuer_names())
        except Unavailable as error:
            raise ConfigurationProblems(
                [f"database.url: {error.detail} Start it, or correct the address; `gateway check` tells more."]
            ) from error
        self._snapshot = Snapshot(contracts, catalog, verifier)

    def snapshot(self) -> Snapshot:
        """What holds now."""
        return self._snapshot

    def _load_contracts(self) -> Contracts:
        return load_contracts(self._settings.contracts.dir, clusters=self._settings.kafka.by_name())

    def _load_verifier(self) -> TokenVerifier:
        settings = self._settings.auth
        problems: list[str] = []
        issuers: list[IssuerSettings] = []
        for one in settings.issuers:
            if one.jwks_file is None:
                continue
            keys = _collect(problems, partial(load_jwks_file, one.jwks_file, algorithms=one.algorithms))
            if keys is not None:
                issuers.append(
                    IssuerSettings(
                        name=one.name,
                        issuer=one.issuer,
                        audience=one.audience,
                        keys=keys,
                        algorithms=one.algorithms,
                        require_typ=one.require_typ,
                    )
                )
        if problems:
            raise ConfigurationProblems(problems)
        if settings.builtin.enabled:
            builtin = settings.builtin
            issuers.append(
                DevelopmentIssuer(
                    self._settings.data.dir, issuer=builtin.issuer, audience=builtin.audience, clock=self._clock
                ).settings()
            )
        return TokenVerifier(
            issuers,
            clock=self._clock,
            max_token_lifetime_seconds=settings.max_token_lifetime_seconds,
            leeway_seconds=settings.leeway_seconds,
        )

    async def reload(self) -> None:
        """Load contracts, keys and catalog anew. Raises ConfigurationProblems, and then all stays as it was."""
        # One after the other: of two loads at once the older one could come to its end last, and stay.
        async with self._reloading:
            try:
                self._revision, self._snapshot = await asyncio.to_thread(self._load)
            except ConfigurationProblems as error:
                self._refused = error.problems
                raise
            self._refused = []

    def _load(self) -> tuple[int, Snapshot]:
        problems: list[str] = []
        contracts = _collect(problems, self._load_contracts)
        verifier = _collect(problems, self._load_verifier)
        if contracts is not None:
            # Only while running: what a process starts with is what its operator decided to start with.
            problems += breaking_without_major(self._snapshot.contracts, contracts)
        if contracts is None or verifier is None or problems:
            raise ConfigurationProblems(problems)
        revision, catalog = self._load_catalog()
        return revision, Snapshot(contracts, catalog, verifier)

    def _load_catalog(self) -> tuple[int, Catalog]:
        try:
            return self._store.load_catalog(self._settings.auth.issuer_names())
        except Unavailable as error:
            raise ConfigurationProblems([f"database.url: {error.detail}"]) from error

    async def follow(self) -> None:
        """Take over each new revision of the catalog, until cancelled. A database that is away changes nothing."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                if await asyncio.to_thread(self._store.revision) == self._revision:
                    continue
                revision, catalog = await asyncio.to_thread(self._load_catalog)
            except (Unavailable, ConfigurationProblems) as error:
                # The prober says that the database is away, once; here it is only not followed.
                log.debug("catalog not followed: %s", error)
                continue
            except Exception as error:  # noqa: BLE001 - the next round may go well; a dead follower would say nothing
                event(log, logging.ERROR, "catalog_not_followed", exception=error)
                continue
            now = self._snapshot
            self._revision, self._snapshot = revision, Snapshot(now.contracts, catalog, now.verifier)
            event(log, logging.INFO, "catalog_followed", revision=revision)

    def check(self) -> Check:
        """For readiness: what runs is what the files say, or the last reload was refused."""

        def status() -> Status:
            if self._refused:
                return Status("degraded", f"the last reload was refused: {self._refused[0]}")
            return Status("ok", "", {"streams": len(self._snapshot.contracts), "revision": self._revision})

        return Check("contracts", required=False, status=status)

    def secret(self, name: str, factory: Callable[[], str]) -> str:
        """A secret that the whole deployment shares, made once."""
        return self._store.get_or_create(name, factory)

    async def incarnation(self, cluster: str, topic: str, topic_id: str | None) -> int:
        """Which life of the topic this is. Raises Unavailable where the database is away."""
        return await asyncio.to_thread(self._store.incarnation, cluster, topic, topic_id=topic_id)

    async def next_incarnation(self, cluster: str, topic: str, seen: int) -> int:
        """Begin the life after ``seen``, if no other node has."""
        return await asyncio.to_thread(self._store.bump_incarnation, cluster, topic, seen=seen)

    def ping(self) -> None:
        """Raises Unavailable where the database does not answer."""
        self._store.ping()

    def close(self) -> None:
        self._store.close()


def _collect(problems: list[str], load: Callable[[], T]) -> T | None:
    """The value, or None and its problems added to the others."""
    try:
        return load()
    except ConfigurationProblems as error:
        problems += error.problems
        return None
