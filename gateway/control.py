"""What the operator says: contracts, catalog and issuers' keys, loaded as a whole and followed while running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gateway.auth.issuer_store import Issued
from gateway.auth.revocation import Revocation, Revocations
from gateway.auth.store import RevocationStore
from gateway.catalog.catalog import Catalog
from gateway.catalog.compatibility import access_changes, refused_by_reload
from gateway.catalog.contracts import Contracts, load_contracts
from gateway.catalog.store import Store
from gateway.clock import Clock
from gateway.config import Settings
from gateway.config.adapters import database, issuer_store
from gateway.database.audit import AuditLog, Entry
from gateway.database.database import Database
from gateway.database.faults import DatabaseUnavailable, at_start
from gateway.database.schema import Schema
from gateway.database.workers import Workers
from gateway.errors import ConfigurationProblems, Unavailable
from gateway.keyring import Keyring
from gateway.observability.health import Check, Status
from gateway.observability.logs import event
from gateway.transport.snapshot import Snapshot

T = TypeVar("T")
log = logging.getLogger("gateway.control")
FOLLOW_SECONDS: Final = 2.0
"""How often the database is asked whether the catalog changed."""

START_RETRY_SECONDS: Final = 0.5
"""How often a start that waits for its database asks it again."""

Preparation = Callable[[], Callable[[], None]]
"""Reads something anew, in a thread, and returns the step that takes it, which cannot fail; raises
ConfigurationProblems."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the database says, and its revision."""

    revision: int
    catalog: Catalog
    revocations: Revocations
    issued: Issued | None


class Control:
    """The present snapshot and where it comes from. Loading blocks; ``snapshot`` does not."""

    def __init__(self, settings: Settings, *, clock: Clock, keyring: Keyring) -> None:
        """Load everything. Raises ConfigurationProblems with all that is wrong."""
        self._settings = settings
        self._keyring = keyring
        self._clock = clock
        self._refused: list[str] = []
        self._bell = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        """Called after another snapshot has taken the place of the one before."""
        self._reloading = asyncio.Lock()
        settings.data.dir.mkdir(parents=True, exist_ok=True)
        problems: list[str] = []
        contracts = _collect(problems, self._load_contracts)
        verifier = _collect(problems, self._keyring.load)
        if contracts is None or verifier is None:
            raise ConfigurationProblems(problems)
        self._contracts, self._verifier = contracts, verifier
        self._database = database(settings)
        self._workers = Workers(self._database)
        self._store = Store(self._database, clock=clock)
        self._revocations = RevocationStore(self._database)
        self._issuer = issuer_store(settings, self._database)
        self._audit = AuditLog(self._database)

    async def open(self) -> None:
        """Take the catalog out of the database, whose schema is made or upgraded first where that is needed.

        A database that is away is waited for, ``database.start_seconds`` long; then Unavailable is raised. Raises
        ConfigurationProblems where waiting would not help.
        """
        ends_at = self._clock.monotonic() + self._settings.database.start_seconds
        is_told = False
        while True:
            try:
                # Not one of the workers' threads: a change of the schema may take longer than they are given.
                loaded = await asyncio.to_thread(self._open)
                break
            except DatabaseUnavailable as error:
                if self._clock.monotonic() >= ends_at:
                    raise
                if not is_told:
                    seconds = self._settings.database.start_seconds
                    event(log, logging.WARNING, "database_awaited", reason=str(error), seconds=seconds)
                    is_told = True
                await asyncio.sleep(START_RETRY_SECONDS)
        snapshot = Snapshot(self._contracts, loaded.catalog, self._verifier, loaded.revocations)
        self._take(loaded, snapshot)
        if self._keyring.signing is not None:
            self._keyring.signing.ask = self.catch_up

    def _open(self) -> _Loaded:
        with at_start():
            schema = Schema(self._database)
            state = schema.require(may_upgrade=self._settings.database.auto_upgrade)
            if state.standing == "newer":
                event(log, logging.WARNING, "database_newer", revision=state.revision, made_by=state.made_by)
            if self._issuer is not None:
                self._issuer.ensure_key(now=self._clock.now())
            return self._load_database()

    def snapshot(self) -> Snapshot:
        """What holds now."""
        return self._snapshot

    def _load_contracts(self) -> Contracts:
        return load_contracts(self._settings.contracts.dir, clusters=self._settings.kafka.by_name())

    async def reload(self, *, also: Sequence[Preparation] = ()) -> None:
        """Load contracts, keys and catalog anew, together with what ``also`` prepares.

        Raises ConfigurationProblems with the problems of all of them, and then all stays as it was. An issuer that
        does not answer is no problem of ours: the keys that are known of it stay.
        """
        # One after the other: of two loads at once the older one could come to its end last, and stay.
        async with self._reloading:
            try:
                loaded, snapshot, taking, withdrawn = await asyncio.to_thread(self._load, also)
            except ConfigurationProblems as error:
                self._refused = error.problems
                raise
            for take in taking:
                take()
            self._refused = []
            self._take(loaded, snapshot)
            for stream, changes in withdrawn.items():
                event(log, logging.WARNING, "access_changed", stream=stream, changes=changes)
        # With the lock given back: an issuer that hangs must not keep a withdrawal waiting.
        await self._keyring.refresh()

    def _load(
        self, also: Sequence[Preparation]
    ) -> tuple[_Loaded, Snapshot, list[Callable[[], None]], dict[str, list[str]]]:
        problems: list[str] = []
        prepared = [_collect(problems, prepare) for prepare in also]
        contracts = _collect(problems, self._load_contracts)
        verifier = _collect(problems, self._keyring.load)
        if contracts is not None:
            # Only while running: what a process starts with is what its operator decided to start with.
            problems += refused_by_reload(self._snapshot.contracts, contracts)
            contracts = contracts.keeping(self._snapshot.contracts)
        if contracts is None or verifier is None or problems:
            raise ConfigurationProblems(problems)
        try:
            loaded = self._load_database()
        except Unavailable as error:
            raise ConfigurationProblems([str(error)]) from error
        snapshot = Snapshot(contracts, loaded.catalog, verifier, loaded.revocations)
        withdrawn = access_changes(self._snapshot.contracts, contracts)
        return loaded, snapshot, [take for take in prepared if take is not None], withdrawn

    def _load_database(self) -> _Loaded:
        revision, catalog = self._store.load_catalog(self._settings.auth.issuer_names())
        issued = None if self._issuer is None else self._issuer.load()
        return _Loaded(revision, catalog, self._revocations.load(now=self._clock.now()), issued)

    def _take(self, loaded: _Loaded, snapshot: Snapshot) -> None:
        self._revision, self._snapshot = loaded.revision, snapshot
        if self._keyring.signing is not None and loaded.issued is not None:
            self._keyring.signing.take(loaded.issued.keys)
            if self._keyring.authority is not None:
                self._keyring.authority.take(loaded.issued.secrets)
        for call in self.on_change:
            call()

    def ring(self) -> None:
        """Another node says that the database has changed: look at it now, not only at the next round."""
        self._bell.set()

    async def catch_up(self) -> None:
        """Take over what the database says now, if it is news. Raises Unavailable and ConfigurationProblems."""
        async with self._reloading:
            if await self._workers.run(self._store.revision) == self._revision:
                return
            loaded = await self._workers.run(self._load_database)
            now = self._snapshot
            self._take(loaded, Snapshot(now.contracts, loaded.catalog, now.verifier, loaded.revocations))
            event(log, logging.INFO, "catalog_followed", revision=loaded.revision)

    async def follow(self) -> None:
        """Take over each new revision of the catalog, until cancelled. A database that is away changes nothing."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await self._bell.wait()
            self._bell.clear()
            try:
                await self.catch_up()
            except (Unavailable, ConfigurationProblems) as error:
                # The prober says that the database is away, once; here it is only not followed.
                log.debug("catalog not followed: %s", error)
                continue
            except Exception as error:  # noqa: BLE001 - the next round may go well; a dead follower would say nothing
                event(log, logging.ERROR, "catalog_not_followed", exception=error)

    def check(self) -> Check:
        """For readiness: what runs is what the files say, or the last reload was refused."""

        def status() -> Status:
            if self._refused:
                return Status("degraded", f"the last reload was refused: {self._refused[0]}")
            return Status("ok", "", {"streams": len(self._snapshot.contracts), "revision": self._revision})

        return Check("contracts", required=False, status=status)

    @property
    def revision(self) -> int:
        """The revision of the catalog that holds."""
        return self._revision

    @property
    def longest_token_seconds(self) -> int:
        """How long a token lives at most."""
        return self._settings.auth.max_token_lifetime_seconds

    async def revoke(self, revocation: Revocation, audit: Entry) -> None:
        """Hold it for every node. Raises Unavailable where the database is away."""
        await self._workers.run(self._revocations.add, revocation, now=self._clock.now(), audit=audit)

    async def suspend(self, tenant: str, audit: Entry, *, suspended: bool) -> bool:
        """Suspend a tenant, or lift that. False: there is none of this name. Raises Unavailable."""
        return await self._workers.run(self._store.suspend, tenant, suspended=suspended, audit=audit)

    async def note(self, entry: Entry) -> None:
        """Write a change that is none of the database's own into the audit log. Raises Unavailable."""
        await self._workers.run(self._audit.append, entry)

    async def audit(self, *, limit: int, before: int | None) -> list[dict[str, Any]]:
        """The newest entries of the audit log first. Raises Unavailable."""
        return await self._workers.run(self._audit.read, limit=limit, before=before)

    async def secret(self, name: str, factory: Callable[[], str]) -> str:
        """A secret that the whole deployment shares, made once."""
        return await self._workers.run(self._store.get_or_create, name, factory)

    async def incarnation(self, cluster: str, topic: str, topic_id: str | None) -> int:
        """Which life of the topic this is. Raises Unavailable where the database is away."""
        return await self._workers.run(self._store.incarnation, cluster, topic, topic_id=topic_id)

    async def next_incarnation(self, cluster: str, topic: str, seen: int) -> int:
        """Begin the life after ``seen``, if no other node has."""
        return await self._workers.run(self._store.bump_incarnation, cluster, topic, seen=seen)

    @property
    def database(self) -> Database:
        """The one database of the deployment; what is asked of it blocks, and is asked by ``work``."""
        return self._database

    async def work(self, call: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
        """What ``call`` returns or raises, in one of the database's threads. Raises Unavailable."""
        return await self._workers.run(call, *arguments, **named)

    async def ping(self) -> None:
        """Raises Unavailable where the database does not answer."""
        await self._workers.run(self._database.ping)

    async def close(self) -> None:
        """Give the database's threads and connections back, at once also where it is frozen."""
        await self._workers.close()


def _collect(problems: list[str], load: Callable[[], T]) -> T | None:
    """The value, or None and its problems added to the others."""
    try:
        return load()
    except ConfigurationProblems as error:
        problems += error.problems
        return None
