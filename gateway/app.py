"""The composition root: everything a process is made of, put together in one place and taken down in order."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final

from starlette.types import ASGIApp

from gateway import __version__, metered
from gateway.admin.app import create_admin_app
from gateway.administration import CATALOG_BELL, Administration
from gateway.auth.shared_tickets import SharedTickets
from gateway.auth.ticket_rows import TicketRows
from gateway.auth.ticket_store import RedisTickets
from gateway.auth.tickets import MemoryTickets, Tickets
from gateway.bookkeeping import Bookkeeping
from gateway.clock import Clock, SystemClock
from gateway.config import Settings
from gateway.config.adapters import kafka_clusters, metering, redis_link
from gateway.config.http import AdminSettings, HttpSettings
from gateway.config.telemetry import telemetry
from gateway.control import Control
from gateway.counters import Counters
from gateway.cursor import CursorCodec
from gateway.errors import ConfigurationProblems
from gateway.hub.feed import TopicFeed
from gateway.hub.hub import Hub, Source
from gateway.hub.pump import Pump
from gateway.kafka.cluster import KafkaCluster
from gateway.kafka.offsets import Offsets
from gateway.kafka.reader import TopicReader
from gateway.kafka.replay import ReplayPool
from gateway.keyring import Keyring
from gateway.limiting import Limiting
from gateway.limits.redis import RedisLink
from gateway.model import Grant, Principal, Transport
from gateway.nodes.bus import Bus
from gateway.observability.health import KAFKA_GRACE_SECONDS, Health, Probe, Prober, alternatives
from gateway.observability.logs import event
from gateway.observability.metrics import Metrics
from gateway.overview import Overview
from gateway.server.listener import Listener
from gateway.spending import SpendWatch
from gateway.statements import ServedStatements
from gateway.subscription.books import Books
from gateway.subscription.opening import Openings
from gateway.subscription.registry import Registry
from gateway.subscription.sessions import Sessions
from gateway.subscription.watch import Watch
from gateway.subscription.wheel import TimerWheel
from gateway.takedown import Takedown
from gateway.transport.cors import OriginNaming, Preflights, own_origin
from gateway.transport.forwarded import ClientNaming, TrustedProxies
from gateway.transport.gate import Gate
from gateway.transport.middleware import RequestMiddleware, route_app
from gateway.transport.resource import metadata_url
from gateway.transport.routes import routes

log = logging.getLogger("gateway.app")
PREFILL_RECORDS: Final = 50_000
PREFILL_BYTES: Final = 32 * 1024 * 1024
"""What a log reads back when it starts, so that readers who reconnect after a restart find their place in it."""

CLOSE_SHARE: Final = 0.5
LAST_SHARE: Final = 0.2
"""The part of the drain that is kept for connections to close after their goodbye, and the part of all of it that is
kept for what comes behind the connections."""

LEAST_STOP_SECONDS: Final = 5.0
"""What everything behind the goodbyes may take together where the drain is shorter."""

FLUSH_SECONDS: Final = 0.5
EXIT_SECONDS: Final = 0.5
"""What the last telling of usage gets at the least, and what is kept for the process to go when all is closed."""


class Gateway:
    """One process: both ports and everything behind them."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, listens: bool = True) -> None:
        """``listens``: the public port is ours. Without it, another ASGI server serves ``public_app`` on its own."""
        self._settings = settings
        self._clock = clock or SystemClock()
        self._listens = listens
        self._public: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._takedown = Takedown(self._clock)
        self._replays: list[ReplayPool] = []
        self._counters = Counters()

    async def start(self) -> None:
        """Come up: contracts, database, engine, ports. Dependencies that are away do not stop it; it is not ready then.

        Raises ConfigurationProblems with everything that is wrong; nothing is left open in that case.
        """
        try:
            await self._start()
        except BaseException:
            await self._close(until=self._clock.monotonic() + self.stop_seconds)
            raise

    async def _start(self) -> None:
        settings, clock = self._settings, self._clock
        clusters = kafka_clusters(settings, clock=clock)
        self._telemetry = await asyncio.to_thread(telemetry, settings)
        if self._telemetry is not None:
            self._takedown.add("telemetry", partial(asyncio.to_thread, self._telemetry.close))
        self._keyring = Keyring(settings, clock=clock, counters=self._counters)
        self._takedown.add("keys", self._keyring.close)
        self._control = await asyncio.to_thread(Control, settings, clock=clock, keyring=self._keyring)
        self._takedown.add("database", self._control.close)
        await self._control.open()

        pump, wheel = Pump(), TimerWheel(clock)
        codec = CursorCodec([key.encode() for key in await self._cursor_keys()])
        uid_key = await self._control.secret("record_uid_key", lambda: secrets.token_hex(32))
        self._hub = Hub(
            {name: self._source(cluster) for name, cluster in clusters.items()},
            pump=pump,
            clock=clock,
            ring_records=settings.stream.ring_records,
            ring_bytes=settings.stream.ring_bytes,
            memory_bytes=settings.stream.memory_bytes,
            linger_seconds=settings.stream.linger_seconds,
            uid_key=bytes.fromhex(uid_key),
            incarnation=self._control.incarnation,
            next_incarnation=self._control.next_incarnation,
        )
        self._takedown.add("topics", self._hub.close)
        await self._open_books(clusters)
        self._registry = Registry(
            self._hub,
            codec=codec,
            pump=pump,
            wheel=wheel,
            clock=clock,
            counters=self._counters,
            heartbeat_seconds=settings.stream.heartbeat_seconds,
            public_url=lambda: self.base_url,
            books=Books(
                pace=self._limiting.admission.pace,
                meter=None if self._metering is None else self._metering.meter,
                evidence=self._bookkeeping.evidence,
                allowances=self._limiting.allowances,
            ),
        )
        self._watch = Watch(self._registry, self._grant, moment=self._control.snapshot, clock=clock, wheel=wheel)
        self._sessions = Sessions(self._registry, self._watch, others=self._bus)
        self._control.on_change.append(self._watch.ring)
        self._spending = SpendWatch(
            self._statements.drafting,
            control=self._control,
            spendings=self._limiting.admission.spendings,
            registry=self._registry,
            clock=clock,
        )
        self._overview = Overview(
            hub=self._hub,
            pump=pump,
            control=self._control,
            clock=clock,
            replays=self._replays,
            sockets=self._sockets,
            spans=dict if self._telemetry is None else self._telemetry.counts,
        )
        await self._open_ports(clusters, Openings(self._hub, codec, clock))

    async def _open_books(self, clusters: Mapping[str, KafkaCluster]) -> None:
        """What limits reads, counts them and makes statements of it, and the Redis that nodes share for it."""
        settings, clock = self._settings, self._clock
        self._redis = self._open_redis()
        self._bus = None if self._redis is None else Bus(self._redis.client)
        self._shared_tickets = None if self._redis is None else self._open_tickets(self._redis)
        self._tickets = Tickets(self._shared_tickets or MemoryTickets(clock), clock)
        self._limiting = Limiting(
            settings,
            redis=self._redis,
            bus=self._bus,
            control=self._control,
            clock=clock,
            counters=self._counters,
        )
        self._takedown.add("limits", self._limiting.close)
        self._metering = await asyncio.to_thread(
            partial(metering, database=self._control.database, run=self._control.work, clock=clock), settings, clusters
        )
        if self._metering is not None:
            self._takedown.add("metering", self._metering.close)
        self._bookkeeping = Bookkeeping(
            settings,
            control=self._control,
            clock=clock,
            counters=self._counters,
            meter=None if self._metering is None else self._metering.meter,
        )
        self._takedown.add("notes of deliveries", self._bookkeeping.upkeep.close)
        self._statements = ServedStatements(settings, self._control, clock=clock)
        self._takedown.add("statements", self._statements.close)

    async def _open_ports(self, clusters: Mapping[str, KafkaCluster], openings: Openings) -> None:
        settings = self._settings
        prober = Prober(self._probes(clusters), clock=self._clock)
        checks = prober.checks()
        kafka, others = checks[: len(clusters)], checks[len(clusters) :]
        self._health = Health(
            [
                *alternatives("kafka", kafka),
                *others,
                *self._keyring.checks(),
                self._control.check(),
                self._limiting.check(),
                *metered.checks(self._metering),
            ],
            readers=self._overview.streams,
        )
        metrics = Metrics(
            self._counters,
            version=__version__,
            engine=self._overview.engine,
            metering=partial(metered.status, self._metering),
            health=self._health,
            tenants=settings.metrics.tenants,
            upkeep=self._bookkeeping.upkeep.status,
        )
        administration = Administration(
            control=self._control,
            sessions=self._sessions,
            bus=self._bus,
            reload=self.reload,
            clock=self._clock,
            statements=self._statements.office,
            usage=self._bookkeeping.desk,
            busiest=self._limiting.busiest,
            alerts=self._limiting.alerts,
            spendings=self._limiting.admission.spendings,
        )
        tokens = [token.get_secret_value() for token in settings.admin.tokens]
        admin = create_admin_app(health=self._health, metrics=metrics, administration=administration, tokens=tokens)
        self._admin = self._listener(admin, settings.admin, name="admin")
        self.public_app = self._public_app(openings)
        self.public_port = settings.http.port
        if self._listens:
            self._public = self._listener(self.public_app, settings.http, name="http")
            await self._listen(self._public)
            self.public_port = self._public.port
        await self._listen(self._admin)
        self.admin_port = self._admin.port
        self._spawn("prober", prober.run())
        self._spawn("loop lag", metrics.watch_loop_lag())
        self._spawn("catalog", self._control.follow())
        self._spawn("keys", self._keyring.follow())
        self._spawn("watch", self._watch.run())
        self._spawn("meter", self._registry.follow_meter())
        self._spawn("spending", self._spending.run())
        self._spawn("tickets", self._tickets.run())
        if self._shared_tickets is not None:
            self._spawn("moved tickets", self._shared_tickets.run())
        for name, work in (*self._limiting.tasks(), *self._statements.tasks()):
            self._spawn(name, work)
        if self._metering is not None:
            for name, work in self._metering.tasks():
                self._spawn(name, work)
            self._spawn("usage", self._bookkeeping.upkeep.run())
        if self._bus is not None:
            self._listen_to_others(self._bus)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.create_task(work, name=name)
        running.add_done_callback(_tell_if_failed)
        self._tasks.append(running)

    def _listen_to_others(self, bus: Bus) -> None:
        bus.on_bell(CATALOG_BELL, self._control.ring)
        bus.on_question("sessions", self._sessions.answer_sessions)
        bus.on_question("end", self._sessions.answer_end)
        bus.on_question("refresh", self._sessions.answer_refresh)
        self._spawn("nodes", bus.run())
        self._takedown.add("nodes", bus.close)

    def _grant(self, principal: Principal, stream: str, transport: Transport) -> Grant:
        return self._control.snapshot().grant(principal, stream, transport, now=self._clock.now())

    async def _listen(self, listener: Listener) -> None:
        await listener.start()
        self._takedown.add(f"{listener.name} port", partial(listener.close, timeout_seconds=0))

    def _listener(self, app: ASGIApp, port: HttpSettings | AdminSettings, *, name: str) -> Listener:
        authorities = port.tls_client_ca_file if isinstance(port, AdminSettings) else None
        return Listener(
            app,
            host=port.host,
            port=port.port,
            tls_cert_file=_text(port.tls_cert_file),
            tls_key_file=_text(port.tls_key_file),
            tls_client_ca_file=_text(authorities),
            name=name,
        )

    def _public_app(self, openings: Openings) -> ASGIApp:
        gate = Gate(
            snapshot=self._control.snapshot,
            openings=openings,
            registry=self._registry,
            sessions=self._sessions,
            tickets=self._tickets,
            counters=self._counters,
            clock=self._clock,
            public_url=lambda: self.base_url,
            authority=self._keyring.authority,
            statements=self._statements.office,
            usage=self._bookkeeping.desk,
            admission=self._limiting.admission,
        )

        def origins() -> frozenset[str]:
            return self._control.snapshot().catalog.origins | {own_origin(self.base_url)}

        app = Preflights(route_app(routes(gate)), origins=origins)
        named = OriginNaming(
            RequestMiddleware(
                app,
                observe=self._counters.count_request,
                tracer=self._telemetry,
                resource_metadata=lambda: metadata_url(self.base_url),
            ),
            origins=origins,
        )
        trusted = self._settings.http.trusted_proxies
        return ClientNaming(named, trusted=TrustedProxies(trusted)) if trusted else named

    @property
    def base_url(self) -> str:
        """How partners reach the public port."""
        return self._settings.http.public_url_at(self.public_port)

    async def _cursor_keys(self) -> list[str]:
        configured = [key.get_secret_value() for key in self._settings.cursor.keys]
        if configured:
            return configured
        return [await self._control.secret("cursor_key", lambda: secrets.token_hex(32))]

    def _source(self, cluster: KafkaCluster) -> Source:
        offsets = Offsets(cluster)
        replays = ReplayPool(cluster, offsets)
        self._replays.append(replays)
        self._takedown.add(f"kafka {cluster.name}", cluster.close)
        self._takedown.add(f"old reads of kafka {cluster.name}", replays.close)

        def reader(feed: TopicFeed) -> TopicReader:
            return TopicReader(
                cluster,
                offsets,
                feed.topic,
                sink=feed,
                counters=self._counters.topic(cluster.name, feed.topic),
                prefill_records=min(PREFILL_RECORDS, self._settings.stream.ring_records),
                prefill_bytes=min(PREFILL_BYTES, self._settings.stream.ring_bytes),
                clock=self._clock,
            )

        return Source(cluster.name, offsets, replays, reader)

    def _probes(self, clusters: Mapping[str, KafkaCluster]) -> list[Probe]:
        probes = [
            Probe(f"kafka:{name}" if len(clusters) > 1 else "kafka", cluster.ping, grace_seconds=KAFKA_GRACE_SECONDS)
            for name, cluster in clusters.items()
        ]
        probes.append(Probe("database", self._control.ping, required=False))
        if self._redis is not None:
            probes.append(Probe("redis", self._redis.ping, required=False))
        return probes

    def _open_redis(self) -> RedisLink | None:
        redis = redis_link(self._settings)
        if redis is not None:
            self._takedown.add("redis", redis.close)
        return redis

    def _open_tickets(self, redis: RedisLink) -> SharedTickets:
        rows = TicketRows(self._control.database, node=secrets.token_hex(8))
        return SharedTickets(RedisTickets(redis.client), rows, work=self._control.work, clock=self._clock)

    def _sockets(self) -> dict[str, int]:
        """Open connections by listener."""
        open_now = {"admin": self._admin.connections}
        return open_now if self._public is None else {"http": self._public.connections, **open_now}

    async def reload(self) -> list[str]:
        """Take contracts, keys, catalog and certificates anew: all of them, or none; returns the problems then."""
        try:
            # Everything is tried before anything is taken.
            ports = [self._admin] if self._public is None else [self._public, self._admin]
            await self._control.reload(also=[port.prepare_certificate for port in ports])
        except ConfigurationProblems as error:
            self._counters.count_reload("refused")
            event(log, logging.ERROR, "reload_refused", problems=error.problems)
            return error.problems
        self._counters.count_reload("ok")
        event(log, logging.INFO, "reloaded", streams=len(self._control.snapshot().contracts))
        return []

    @property
    def stop_seconds(self) -> float:
        """How long a stop may take."""
        return max(self._settings.stream.drain_seconds, LEAST_STOP_SECONDS)

    @property
    def waiting_for(self) -> str:
        """What a stop that goes on waits for; empty where nothing is."""
        return self._takedown.waiting_for

    async def stop(self) -> None:
        """Drain: not ready, goodbye with its cursor to every stream, then close. Within ``stop_seconds``, also where a
        neighbour hangs: what would take longer is left as a crash leaves it."""
        drain_seconds, clock, step = self._settings.stream.drain_seconds, self._clock, self._takedown.step
        until = clock.monotonic() + self.stop_seconds - EXIT_SECONDS
        last_seconds = LAST_SHARE * self.stop_seconds
        self._health.drain()
        self._takedown.waiting_for = "streams"
        event(log, logging.INFO, "draining", streams=len(self._registry), seconds=drain_seconds)
        try:
            goodbye_seconds = drain_seconds * (1 - CLOSE_SHARE)
            async with asyncio.timeout(goodbye_seconds):
                await self._registry.drain(within_seconds=goodbye_seconds)
        except TimeoutError:
            event(log, logging.WARNING, "drain_cut", streams=len(self._registry))
        if self._public is not None:
            left_seconds = max(0.0, until - last_seconds - clock.monotonic())
            closing = self._public.close(timeout_seconds=left_seconds)
            await step("connections", closing, until=until - last_seconds / 2)
        left_seconds = max(FLUSH_SECONDS, until - last_seconds / 4 - clock.monotonic())
        telling = metered.drain(self._metering, within_seconds=left_seconds)
        await step("usage", telling, until=clock.monotonic() + left_seconds)
        await self._close(until=until)
        event(log, logging.INFO, "stopped")

    async def _close(self, *, until: float) -> None:
        await self._takedown.end(self._tasks, until=until)
        self._tasks.clear()
        await self._takedown.close(until=until)


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    """A background task ends only when it is cancelled; one that fails must not do so unheard."""
    if not task.cancelled() and task.exception() is not None:
        event(log, logging.ERROR, "background_task_failed", task=task.get_name(), exception=task.exception())


def _text(path: object) -> str | None:
    return None if path is None else str(path)
