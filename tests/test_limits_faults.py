"""Limits while Redis is killed, frozen, slow, full, read-only, flushed or cut off: reads go on, and limits hold."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.limits.breaker import Away, Breaker
from gateway.limits.bucket import Rate
from gateway.limits.lending import Ask, Given
from gateway.limits.limiter import Limiter
from gateway.limits.redis import RedisLink
from gateway.limits.store import COMMANDS, Exchange, MemoryStore, RedisStore
from tests.conftest import or_left_out
from tests.parts import redis as redis_part
from tests.parts.limits import Node, Read, grant, node, plan
from tests.parts.redis import RedisServer

DEADLINE_SECONDS = 30
RATE, BURST, NODES = 200, 100, 4


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; fail if it does not within the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def under_load(url: str) -> AsyncIterator[tuple[Node, list[Read], list[bool]]]:
    """A node of four with reads at their limit; the list grows by the breaker's state at each change."""
    async with node(url, nodes=lambda: NODES) as here:
        changes: list[bool] = []
        here.breaker.on_change.append(lambda: changes.append(here.breaker.is_open))
        limits = {"records_per_second": {"rate": RATE, "burst": BURST}}
        paces = [here.limiter.pace(grant(plan(**limits))) for _ in range(3)]
        reads = [Read(pace) for pace in paces if pace is not None]
        for read in reads:
            read.wake()
        await until(lambda: sum(read.records for read in reads) > BURST + RATE // 4)
        yield here, reads, changes
        for read in reads:
            read.close()


def sent(reads: list[Read]) -> int:
    return sum(read.records for read in reads)


@pytest.fixture(autouse=True)
def _probes_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.limits.breaker.PROBE_SECONDS", 0.1)


class Fault:
    """Something that is done to a server and undone."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    async def command(self, *words: str) -> None:
        client = Redis.from_url(self.server.url)
        await client.execute_command(*words)
        await client.aclose()

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def freeze(self) -> None:
        self.server.pause()

    async def thaw(self) -> None:
        self.server.resume()

    async def fill(self) -> None:
        await self.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await self.command("CONFIG", "SET", "maxmemory", "1")

    async def empty(self) -> None:
        await self.command("CONFIG", "SET", "maxmemory", "0")

    async def demote(self) -> None:
        # Of a master that is not there: it keeps its data, and takes no writes.
        await self.command("REPLICAOF", "127.0.0.1", "1")

    async def promote(self) -> None:
        await self.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [("kill", "start"), ("freeze", "thaw"), ("fill", "empty"), ("demote", "promote")],
    ids=["killed", "frozen", "full", "read-only"],
)
async def test_reads_go_on_at_the_nodes_share_and_come_back_by_themselves(
    own_redis: RedisServer, breaks: str, mends: str
) -> None:
    fault = Fault(own_redis)
    async with under_load(own_redis.url) as (here, reads, changes):
        await getattr(fault, breaks)()
        try:
            await until(lambda: changes == [True])
            began, had = time.monotonic(), sent(reads)
            await until(lambda: sent(reads) >= had + RATE // NODES // 2)
            # What it held, a burst of its share, and the share of the rate.
            alone = BURST // NODES + RATE // 10 + RATE / NODES * (time.monotonic() - began)
            assert sent(reads) - had <= alone + 2
        finally:
            await getattr(fault, mends)()
        await until(lambda: changes == [True, False])
        began, had = time.monotonic(), sent(reads)
        await until(lambda: sent(reads) >= had + RATE // 2)
        assert sent(reads) - had <= BURST + RATE * (time.monotonic() - began) + 2
        assert here.breaker.away_seconds() > 0


async def test_a_read_that_is_not_at_its_limit_is_held_up_once_and_not_for_long(own_redis: RedisServer) -> None:
    async with node(own_redis.url) as here:
        under = plan(requests_per_second={"rate": 1000, "burst": 10_000})
        assert await here.limiter.take("acme", under) == 0
        own_redis.pause()
        try:
            slow = 0
            for number in range(400):
                began = time.monotonic()
                # Each of a tenant of which nothing is known yet, so that each would have to ask.
                assert await here.limiter.take(f"tenant-{number}", under) == 0
                slow += time.monotonic() - began > 0.05
            assert here.breaker.is_open
            # One is the promise; a machine that stops for a moment may make another one slow.
            assert slow <= 5
        finally:
            own_redis.resume()
        await until(lambda: not here.breaker.is_open)
        assert await here.limiter.take("acme", under) == 0


async def test_a_flush_gives_nobody_another_burst(own_redis: RedisServer) -> None:
    fault = Fault(own_redis)
    async with under_load(own_redis.url) as (_, reads, changes):
        began, had = time.monotonic(), sent(reads)
        for _ in range(5):
            await fault.command("FLUSHALL")
            so_far = sent(reads)
            await until(lambda so_far=so_far: sent(reads) >= so_far + RATE // 10)
        # Each flush forgets what was promised ahead: a tenth of a second's worth.
        assert sent(reads) - had <= RATE * (time.monotonic() - began) + 5 * RATE // 10 + BURST // 2
        assert changes == []


async def test_a_script_that_was_forgotten_is_sent_again(own_redis: RedisServer) -> None:
    fault = Fault(own_redis)
    async with under_load(own_redis.url) as (_, reads, changes):
        await fault.command("SCRIPT", "FLUSH")
        had = sent(reads)
        await until(lambda: sent(reads) >= had + RATE // 2)
        assert changes == []


# ---- what stands between us and the server ---------------------------------------------------------------------------


class Proxy:
    """A line to the server that can be made slow, and can be cut inside an answer."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._serving: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0
        self.cuts = 0
        self.cut_after: int | None = None

    @property
    def url(self) -> str:
        assert self._serving is not None
        return f"redis://127.0.0.1:{self._serving.sockets[0].getsockname()[1]}/0?protocol=2"

    async def __aenter__(self) -> Proxy:
        self._serving = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._serving is not None
        self._serving.close()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        asking = asyncio.create_task(self._pass_questions(reader, server_writer))
        try:
            while answer := await server_reader.read(65_536):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                # The answer to a script, not to a greeting.
                if self.cut_after is not None and answer.startswith(b"$"):
                    writer.write(answer[: self.cut_after])
                    self.cut_after = None
                    self.cuts += 1
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
                    break
                writer.write(answer)
        except asyncio.CancelledError:
            pass
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            for one in (writer, server_writer):
                one.transport.abort()
            self._lines.discard(task)

    async def _pass_questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := await reader.read(65_536):
            writer.write(question)


async def test_an_answer_that_is_cut_off_is_charged_once(own_redis: RedisServer) -> None:
    async with Proxy(own_redis) as proxy, node(proxy.url) as here:
        under = plan(requests_per_second={"rate": 0.001, "burst": 60})
        passed = 0
        for number in range(60):
            proxy.cut_after = (1, 4, 9, 20)[number % 4]
            passed += not await here.limiter.take("acme", under)
        # All 60 of the burst, although answers were lost on the way to here.
        assert proxy.cuts > 3
        assert passed == 60
        proxy.cut_after = None
        assert await here.limiter.take("acme", under) > 0


async def test_a_server_that_is_slower_than_a_tenth_of_a_second_is_not_waited_for(own_redis: RedisServer) -> None:
    async with Proxy(own_redis) as proxy, under_load(proxy.url) as (here, reads, changes):
        proxy.delay_seconds = 0.3
        await until(lambda: changes == [True])
        had = sent(reads)
        await until(lambda: sent(reads) >= had + RATE // NODES // 2)
        assert here.breaker.is_open
        proxy.delay_seconds = 0.0
        await until(lambda: changes == [True, False])


# ---- what nobody expects ---------------------------------------------------------------------------------------------


class Faulty(MemoryStore):
    """Fails as no store should, so many times; then answers so many accounts with what cannot be read."""

    def __init__(self, *, failures: int = 0, garbage: int = 0) -> None:
        super().__init__()
        self._failures = failures
        self._garbage = garbage

    async def lend(self, exchanges: Sequence[Exchange]) -> list[list[Given]]:
        if self._failures:
            self._failures -= 1
            raise RuntimeError("nobody thought of this")
        given = await super().lend(exchanges)
        for index in range(min(self._garbage, len(given))):
            self._garbage -= 1
            given[index] = [None]  # type: ignore[list-item]
        return given


@pytest.mark.parametrize("store", [Faulty(failures=3), Faulty(garbage=5)], ids=["question", "answer"])
async def test_a_fault_that_nobody_expects_holds_up_nobody(store: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    clock = SystemClock()
    limiter = Limiter(store, breaker=Breaker(clock), clock=clock)
    under = plan(requests_per_second={"rate": 10, "burst": 10})
    async with asyncio.timeout(DEADLINE_SECONDS):
        # More than one round trip takes: some are behind those that fail.
        taken = await asyncio.gather(*(limiter.take(f"tenant-{number}", under) for number in range(250)))
    await limiter.close()
    assert taken == [0] * 250
    # One line, however often.
    assert len([one for one in caplog.records if one.exc_info]) == 1


# ---- the breaker -----------------------------------------------------------------------------------------------------


async def test_while_it_is_open_nobody_is_asked() -> None:
    breaker, asked = Breaker(SystemClock()), 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError("no server")

    for _ in range(10):
        with pytest.raises(Away, match="no server"):
            await breaker.call(ask)
    assert asked == 1


async def test_a_question_that_may_be_put_twice_is_put_again_where_the_connection_broke() -> None:
    breaker, asked = Breaker(SystemClock()), 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ConnectionResetError("cut")
        return "answer"

    assert await breaker.call(ask, repeatable=True) == "answer"
    assert not breaker.is_open
    asked = 0
    with pytest.raises(Away):
        await breaker.call(ask)
    assert asked == 1


async def test_an_answer_that_never_comes_is_not_waited_for() -> None:
    breaker, never = Breaker(SystemClock()), asyncio.Event()
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(Away, match="100 ms"):
            await breaker.call(never.wait)
    assert breaker.is_open


async def test_it_takes_two_good_probes_to_close() -> None:
    breaker, answers = Breaker(SystemClock()), iter([True, False, False, True, True])
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        if not next(answers):
            raise ConnectionRefusedError("still away")

    async def fail() -> None:
        raise ConnectionRefusedError("away")

    running = asyncio.create_task(breaker.run(probe))
    with pytest.raises(Away):
        await breaker.call(fail)
    await until(lambda: not breaker.is_open)
    assert probes == 5
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---- rights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A Redis of this module's own, whose users are changed."""
    with or_left_out(redis_part.server()) as server:
        yield server


async def test_lending_needs_the_rights_that_are_documented_and_no_others(guarded: RedisServer) -> None:
    rights = [f"+{command.lower()}" for command in COMMANDS]
    await Fault(guarded).command(
        "ACL", "SETUSER", "limits", "on", ">secret", "resetkeys", "~gateway:limits:*", "-@all", *rights
    )
    url = guarded.url.replace("redis://", "redis://limits:secret@")
    async with node(url) as here:
        under = plan(requests_per_second={"rate": 0.01, "burst": 3})
        assert [await here.limiter.take("acme", under) for _ in range(3)] == [0, 0, 0]
        assert here.breaker.reason == ""
        assert isinstance(here.store, RedisStore)
        await here.store.probe()


@pytest.mark.parametrize("missing", COMMANDS)
async def test_each_of_these_rights_is_needed(guarded: RedisServer, missing: str) -> None:
    rights = [f"+{command.lower()}" for command in COMMANDS if command != missing]
    user = f"without-{missing.lower()}"
    await Fault(guarded).command(
        "ACL", "SETUSER", user, "on", ">secret", "resetkeys", "~gateway:limits:*", "-@all", *rights
    )
    await Fault(guarded).command("SCRIPT", "FLUSH")
    link = RedisLink(guarded.url.replace("redis://", f"redis://{user}:secret@"))
    breaker = Breaker(SystemClock())
    store = RedisStore(link.client, breaker, node="n")
    exchange = Exchange("gateway:limits:1:account:{x}:y", 1, [Ask("r", Rate.of(1, 1), want=1, start=1)])
    try:
        assert isinstance((await store.lend([exchange]))[0], Away)
    finally:
        await link.close()
    assert "permission" in breaker.reason or "run this command" in breaker.reason
