"""The demo from its first part up to its last one down, in the order in which they need each other."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import math
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

from gateway.app import Gateway
from gateway.auth.issuer import BUILTIN
from gateway.billing.period import Period
from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import Contracts, load_contracts
from gateway.catalog.file import load_catalog
from gateway.catalog.store import Store
from gateway.clock import SystemClock
from gateway.config import Settings
from gateway.config.adapters import database, issuer_store, minter
from gateway.database.schema import Schema
from gateway.demo.page import welcome
from gateway.demo.partners import (
    OPERATOR,
    REPORT,
    Partner,
    invite_partners,
    remove_reports,
    report,
    write_private,
    write_report,
)
from gateway.demo.parts import Broker, PartFailed, RedisServer, find_redis
from gateway.demo.recordings import RECORDINGS, contracts_directory
from gateway.errors import ConfigurationProblems
from gateway.observability.logs import configure_logging
from gateway.server.loop import run_loop
from gateway.server.sockets import bind_sockets
from gateway.units import format_rfc3339

_T = TypeVar("_T")

EXIT_FAILURE = 1

_HOST = "127.0.0.1"
_DATABASE = "gateway.db"
_LOCK = "demo.lock"
_READY_SECONDS = 20.0
_READY_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; ``rate`` in records per second and topic."""

    port: int
    admin_port: int
    data_dir: Path | None
    rate: float
    once: bool
    log_format: Literal["json", "text"]


def perform(options: Options) -> int:
    """Run the demo to its end and return the exit code. Raises ConfigurationProblems."""
    _check_extra()
    if not 0 < options.rate < math.inf:
        raise ConfigurationProblems([f"--rate {options.rate}: must be a number above 0"])
    configure_logging(options.log_format)
    try:
        run_loop(_until_told(options))
    except PartFailed as error:
        sys.stderr.write(f"gateway: {error}\n")
        return EXIT_FAILURE
    except asyncio.CancelledError:
        sys.stderr.write("gateway: ended at once\n")
        return EXIT_FAILURE
    return 0


async def _until_told(options: Options) -> None:
    """The whole demo. A first signal ends it in order, even while it still starts; a second one at once."""
    told = asyncio.Event()
    whole = asyncio.current_task()
    assert whole is not None

    def end() -> None:
        if told.is_set():
            # What is cut off now would complain at length.
            logging.disable()
            whole.cancel()
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)
    async with AsyncExitStack() as stack:
        end_told = stack.enter_context(_running(asyncio.create_task(told.wait(), name="demo-told")))
        starting = stack.enter_context(_running(asyncio.create_task(_start(options, stack), name="demo-start")))
        await asyncio.wait({starting, end_told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return
        broker = starting.result()
        watching = stack.enter_context(_running(asyncio.create_task(broker.watch(), name="demo-watch")))
        await asyncio.wait({watching, end_told}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()


async def _start(options: Options, stack: AsyncExitStack) -> Broker:
    """Bring everything up; the stack takes it down. The page is printed and the player plays when this returns."""
    await _check_ports(options)
    directory = _open_directory(options.data_dir, stack)
    contracts = load_contracts(contracts_directory())
    catalog = load_catalog(contracts_directory() / "catalog.yaml", contracts=contracts, issuers=[BUILTIN])

    topics = [(contracts[recording.stream].topic, recording) for recording in RECORDINGS]
    broker, redis = Broker(topics, rate=options.rate, once=options.once), RedisServer(directory)
    stack.push_async_callback(broker.close)
    stack.push_async_callback(redis.close)
    await redis.start()
    await broker.start()

    admin_token = secrets.token_urlsafe(32)
    settings = Settings(
        http={"host": _HOST, "port": options.port},
        admin={"host": _HOST, "port": options.admin_port, "tokens": (admin_token,)},
        kafka={"bootstrap_servers": broker.bootstrap_servers},
        redis={"url": redis.url},
        data={"dir": directory},
        database={"url": f"sqlite:///{directory / _DATABASE}"},
        contracts={"dir": contracts_directory()},
        auth={"builtin": {"enabled": True}},
        log={"format": options.log_format},
    )
    _fill_database(settings, catalog, contracts)
    gateway = Gateway(settings)
    await gateway.start()
    stack.push_async_callback(gateway.stop)
    await _until_ready(gateway.admin_port)

    stack.callback(remove_reports, directory)
    ttl_seconds = settings.auth.max_token_lifetime_seconds
    partners = _invite(settings, catalog, contracts)
    admin_url = f"http://{_HOST}:{gateway.admin_port}"
    write_report(
        directory,
        report(
            partners,
            base_url=gateway.base_url,
            admin_url=admin_url,
            kafka=broker.bootstrap_servers,
            redis_url=redis.url,
            database_url=settings.database.url.get_secret_value(),
            admin_token=admin_token,
        ),
    )
    write_private(directory / OPERATOR, admin_token)
    zone = next(one.time_zone for one in catalog.tenants if one.name == partners[0].tenant)
    month = Period.holding(time.time(), zone=zone)
    page = welcome(
        partners[0],
        base_url=gateway.base_url,
        admin_url=admin_url,
        operator_path=directory / OPERATOR,
        month=(format_rfc3339(month.start * 1000), format_rfc3339(month.end * 1000)),
        report=directory / REPORT,
        ttl_seconds=ttl_seconds,
    )
    sys.stdout.write(page)
    sys.stdout.flush()
    broker.play()
    return broker


async def _until_ready(admin_port: int) -> None:
    """Return when the management port says ready. Raises PartFailed with what it says instead."""
    deadline = time.monotonic() + _READY_SECONDS
    answer = ""
    while time.monotonic() < deadline:
        reader, writer = await asyncio.open_connection(_HOST, admin_port)
        try:
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {_HOST}\r\nConnection: close\r\n\r\n".encode())
            answer = (await reader.read()).decode("utf-8", "replace")
        finally:
            writer.close()
        if answer.startswith("HTTP/1.1 200 "):
            return
        await asyncio.sleep(_READY_POLL_SECONDS)
    said = answer.rpartition("\r\n")[2]
    raise PartFailed(f"the gateway is not ready after {_READY_SECONDS:g} s: {said}")


def _check_extra() -> None:
    missing = [name for name in ("confluent_kafka",) if find_spec(name) is None]
    missing += [] if find_redis() else ["redis-server"]
    if missing:
        raise ConfigurationProblems(
            [f"the demo needs {' and '.join(missing)}: pip install 'streaming-gateway[demo]' brings it"]
        )


async def _check_ports(options: Options) -> None:
    """Say that a port is busy before anything is started. Raises ConfigurationProblems."""
    wanted = {"--port": options.port, "--admin-port": options.admin_port}
    if options.port and options.port == options.admin_port:
        raise ConfigurationProblems([f"--port and --admin-port must differ: both are {options.port}"])
    problems: list[str] = []
    for name, port in wanted.items():
        try:
            for bound in await bind_sockets(host=_HOST, port=port, name=name):
                bound.close()
        except ConfigurationProblems as error:
            problems += [f"{line}; {name} 0 takes a free one" for line in error.problems]
    if problems:
        raise ConfigurationProblems(problems)


def _open_directory(given: Path | None, stack: AsyncExitStack) -> Path:
    """The data directory, this demo's alone until the stack is closed. Raises ConfigurationProblems."""
    if given is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-demo-"))).resolve()
    directory = given.resolve()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = stack.enter_context((directory / _LOCK).open("a"))
    except OSError as error:
        raise ConfigurationProblems([f"--data-dir {given}: cannot be used: {error.strerror}"]) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigurationProblems([f"--data-dir {given}: another demo runs there"]) from None
    remove_reports(directory)
    return directory


def _fill_database(settings: Settings, catalog: Catalog, contracts: Contracts) -> None:
    """Apply the catalog. Where the directory was used before, its topics begin a new life: this Kafka is another one,
    so cursors of the last run lead to a gap and not to other records."""
    with contextlib.closing(database(settings)) as opened:
        Schema(opened).require(may_upgrade=True)
        store = Store(opened)
        if store.revision():
            for contract in contracts.values():
                seen = store.incarnation(contract.cluster, contract.topic)
                store.bump_incarnation(contract.cluster, contract.topic, seen=seen)
        store.apply(catalog)


def _invite(settings: Settings, catalog: Catalog, contracts: Contracts) -> list[Partner]:
    """Partners with tokens of the built-in issuer, as long as a token may be."""
    with contextlib.closing(database(settings)) as opened:
        store = issuer_store(settings, opened)
        assert store is not None, "the demo's own settings switch the issuer on"
        return invite_partners(
            catalog,
            contracts,
            minter(settings, store, clock=SystemClock()),
            directory=settings.data.dir,
            ttl_seconds=settings.auth.max_token_lifetime_seconds,
        )


@contextlib.contextmanager
def _running(task: asyncio.Task[_T]) -> Iterator[asyncio.Task[_T]]:
    """A task that does not outlive the block."""
    try:
        yield task
    finally:
        task.cancel()
