"""The same request once more on one connection: refused without being served, and told all that serving would tell."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from gateway.errors import RateLimited
from gateway.observability.logs import JsonFormatter, correlation_id
from gateway.ports import AGAIN_EXTENSION, Answer
from gateway.transport.again import RefusedAgain
from gateway.transport.middleware import RequestMiddleware
from tests.parts.limits import node, plan
from tests.parts.serving import Answer as HeardAnswer
from tests.parts.serving import RawClient, connected, request, serving, until

# ---- the server ------------------------------------------------------------------------------------------------------


class Remembering:
    """Answers "served N", and lets the server say "again N" to the same request as long as there is ``left``. Of what
    it serves only the first ``offers`` are remembered."""

    def __init__(self, *, left: int = 1_000_000, offers: int = 1_000_000) -> None:
        self.left = left
        self.offers = offers
        self.served = 0
        self.again = 0
        self.said_last = 0
        self.fails: set[int] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.served += 1
        body = b"served %d" % self.served
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if self.served <= self.offers:
            scope["extensions"][AGAIN_EXTENSION](self.answer)

    def answer(self) -> Callable[[], Answer] | None:
        if self.again >= self.left:
            return None
        self.again += 1
        return partial(self.said, self.again)

    def said(self, number: int) -> Answer:
        self.said_last = number
        if number in self.fails:
            raise RuntimeError("no words")
        body = b"again %d" % number
        return 429, [(b"content-length", b"%d" % len(body)), (b"x-kind", b"again")], body


async def heard(client: RawClient, *requests: bytes) -> list[bytes]:
    """What each is answered, said one after the other."""
    found = []
    for one in requests:
        await client.say(one)
        found.append((await client.answer()).body)
    return found


async def test_the_same_request_again_is_answered_without_being_served() -> None:
    app = Remembering()
    async with serving(app) as listener, connected(listener) as client:
        assert await heard(client, *[request("/a", "X-One: 1")] * 3) == [b"served 1", b"again 1", b"again 2"]
        await client.say(request("/a", "X-One: 1"))
        answer = await client.answer()
        assert answer.status == 429
        assert list(answer.headers) == ["date", "content-length", "x-kind"]


OTHERS = {
    "another target": request("/b", "X-One: 1"),
    "another query": request("/a?b", "X-One: 1"),
    "another value": request("/a", "X-One: 2"),
    "one header more": request("/a", "X-One: 1", "X-Two: 2"),
    "one header less": request("/a"),
    "another method": request("/a", "X-One: 1", method="DELETE"),
    "a last request": request("/a", "X-One: 1", "Connection: close"),
    "another version": request("/a", "X-One: 1", version="1.0"),
}


@pytest.mark.parametrize("case", OTHERS)
async def test_any_other_request_is_served(case: str) -> None:
    app = Remembering()
    async with serving(app) as listener, connected(listener) as client:
        assert await heard(client, request("/a", "X-One: 1"), OTHERS[case]) == [b"served 1", b"served 2"]


async def test_a_request_is_remembered_by_its_own_connection_alone_and_only_the_last_one() -> None:
    app = Remembering()
    async with serving(app) as listener, connected(listener) as one, connected(listener) as other:
        assert await heard(one, request("/a"), request("/a")) == [b"served 1", b"again 1"]
        assert await heard(other, request("/a")) == [b"served 2"]
        assert await heard(one, request("/b"), request("/a")) == [b"served 3", b"served 4"]


async def test_where_there_is_no_answer_any_more_the_request_is_served() -> None:
    app = Remembering(left=1)
    async with serving(app) as listener, connected(listener) as client:
        assert await heard(client, *[request("/a")] * 4) == [b"served 1", b"again 1", b"served 2", b"served 3"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_with_a_body_is_served_each_time(method: str) -> None:
    app = Remembering()
    with_body = request("/a", "Content-Length: 2", method=method) + b"ab"
    async with serving(app) as listener, connected(listener) as client:
        assert await heard(client, with_body, with_body) == [b"served 1", b"served 2"]


async def test_of_requests_that_come_at_once_no_more_than_one_is_answered_before_the_loop_turns() -> None:
    app = Remembering()
    async with serving(app) as listener, connected(listener) as client:
        assert await heard(client, request("/a")) == [b"served 1"]
        await client.say(request("/a") * 3)
        assert [(await client.answer()).body for _ in range(3)] == [b"again 1", b"served 2", b"served 3"]
        assert await heard(client, request("/a")) == [b"again 2"]


PIECES = {
    "one by one": [request("/a")] * 8,
    "two at once": [request("/a") * 2] * 4,
    "one, then two at once": [request("/a"), request("/a") * 2, request("/a"), request("/a") * 2, request("/a") * 2],
    "across requests": [request("/a") + request("/a")[:9], request("/a")[9:] + request("/a")[:9], request("/a")[9:]],
    "a line before": [b"\r\n" + request("/a")] * 4,
    "a line behind": [request("/a") + b"\r\n"] * 4,
    "another between": [request("/a"), request("/a"), request("/b"), request("/a"), request("/a"), request("/a")],
    "large": [request("/a", "X-One: " + "x" * 5000)] * 4,
}


@pytest.mark.parametrize("offers", [1, 1_000_000])
@pytest.mark.parametrize("case", PIECES)
async def test_each_gets_one_answer_however_the_same_bytes_come(case: str, offers: int) -> None:
    app = Remembering(offers=offers)
    async with serving(app) as listener, connected(listener) as client:
        said = []
        for piece in [*PIECES[case], *PIECES[case]]:
            await client.say(piece)
            said += [(await client.answer()).body for _ in range(piece.count(b"\r\n\r\n"))]
        # None was taken for two, and no two for one.
        assert len(said) == app.served + app.again == 2 * b"".join(PIECES[case]).count(b"GET /")
        each = [b"served %d" % (number + 1) for number in range(app.served)]
        assert sorted(said) == sorted(each + [b"again %d" % (number + 1) for number in range(app.again)])
        assert await heard(client, request("/c")) == [b"served %d" % (len(each) + 1)]


async def test_many_that_ask_at_once_are_answered_one_after_the_other() -> None:
    app = Remembering()
    async with serving(app) as listener, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(listener)) for _ in range(20)]
        for client in clients:
            await heard(client, request("/a"))
        for client in clients:
            await client.say(request("/a"))
        # All is decided when it comes, and said in its turn.
        said = [(await client.answer()).body for client in clients]
        assert sorted(said) == sorted(b"again %d" % (number + 1) for number in range(20))
        for client in clients[:10]:
            await client.say(request("/a"))
            client.leave()
        await until(lambda: app.again == 30 and app.said_last == 30)


async def test_an_answer_that_fails_costs_its_own_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Also while it waits in line: whoever sits behind it is answered."""
    app = Remembering()
    async with serving(app) as listener, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(listener)) for _ in range(10)]
        for client in clients:
            await heard(client, request("/a"))
        app.fails = {1, 4}
        for client in clients:
            await client.say(request("/a"))
        found = await asyncio.gather(*(client.answer() for client in clients), return_exceptions=True)
        cut = [one for one in found if isinstance(one, asyncio.IncompleteReadError | ConnectionError)]
        assert len(cut) == 2
        assert sorted(one.body for one in found if isinstance(one, HeardAnswer)) == sorted(
            b"again %d" % number for number in range(1, 11) if number not in app.fails
        )
        assert [one.levelname for one in caplog.records if one.exc_info] == ["ERROR"] * 2
        async with connected(listener) as client:
            assert await heard(client, request("/a"), request("/a")) == [b"served 11", b"again 11"]


async def test_a_request_that_comes_in_pieces_is_the_same_request() -> None:
    app = Remembering()
    async with serving(app) as listener, connected(listener) as client:
        assert await heard(client, request("/a", "X-One: 1")) == [b"served 1"]
        for piece in (b"GET /a HT", b"TP/1.1\r\nHost: gateway.ex", b"ample\r\nX-One: 1\r\n", b"\r\n"):
            await client.say(piece)
        assert (await client.answer()).body == b"again 1"


# ---- the refusal -----------------------------------------------------------------------------------------------------


class Refusing:
    """Refuses each request as a plan's rate does, and says how the same one would fare."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.asked = 0
        self.opens: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        state = scope["state"]
        state["access_fields"].update(client_id="app", stream="flights", transport="pull")
        self.looked_at += 1
        again = RefusedAgain(self.refusal, headers=self.headers)
        again.on_refusal = self.count_open
        state["answer_headers"] = self.headers
        state["again"] = again
        raise self.error()

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"ratelimit", b'"requests_per_second";r=0;t=1')]

    def refusal(self) -> RateLimited:
        self.asked += 1
        return self.error()

    def count_open(self, code: str) -> None:
        self.opens[code] += 1

    def error(self) -> RateLimited:
        return RateLimited("The plan allows 2 requests a second.", retry_after_ms=700)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged at the edge, as it is written."""
    text, logger = io.StringIO(), logging.getLogger("gateway.transport.middleware")
    channel, level = logging.StreamHandler(text), logger.level
    channel.setFormatter(JsonFormatter())
    logger.addHandler(channel)
    logger.setLevel(logging.INFO)
    yield text
    logger.removeHandler(channel)
    logger.setLevel(level)


async def test_the_second_refusal_says_and_counts_what_the_first_did(lines: io.StringIO) -> None:
    app, seen = Refusing(), Counter[tuple[str, str, int]]()

    def observe(route: str, /, *, method: str, status: int) -> None:
        seen[route, method, status] += 1

    async with serving(RequestMiddleware(app, observe=observe)) as listener, connected(listener) as client:
        answers = []
        for _ in range(3):
            await client.say(request("/v1/streams/flights/records", "Authorization: Bearer x"))
            answers.append(await client.answer())
    assert (app.looked_at, app.asked, app.opens) == (1, 2, Counter(rate_limited=2))
    assert seen == {("unmatched", "GET", 429): 3}
    ids = [answer.headers["x-correlation-id"] for answer in answers]
    assert len(set(ids)) == 3
    for answer, own in zip(answers, ids, strict=True):
        assert answer.body == answers[0].body.replace(ids[0].encode(), own.encode())
        assert answer.headers | {"x-correlation-id": "", "date": ""} == answers[0].headers | {
            "x-correlation-id": "",
            "date": "",
        }
        assert list(answer.headers) == list(answers[0].headers)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [one["correlation_id"] for one in told] == ids
    known = {**told[0], "time": "", "correlation_id": "", "duration_ms": 0}
    assert known["code"] == "rate_limited"
    assert known["stream"] == "flights"
    assert known["client_address"] == "127.0.0.1"
    assert [{**one, "time": "", "correlation_id": "", "duration_ms": 0} for one in told] == [known] * 3


async def test_a_correlation_id_of_the_clients_own_comes_back_each_time() -> None:
    app = Refusing()
    async with serving(RequestMiddleware(app)) as listener, connected(listener) as client:
        for _ in range(2):
            await client.say(request("/", "X-Correlation-Id: mine"))
            answer = await client.answer()
            assert answer.headers["x-correlation-id"] == answer.problem()["correlation_id"] == "mine"
    assert app.looked_at == 1


async def test_a_page_is_looked_at_each_time_since_more_is_said_to_it() -> None:
    app = Refusing()
    async with serving(RequestMiddleware(app)) as listener, connected(listener) as client:
        for _ in range(2):
            await client.say(request("/", "Origin: https://app.example"))
            await client.answer()
    assert app.looked_at == 2


async def test_an_answer_that_fails_leaves_no_correlation_id_behind() -> None:
    kept: list[Any] = []
    heads: list[int] = []

    def observe(route: str, /, *, method: str, status: int) -> None:
        heads.append(status)
        if len(heads) > 1:
            raise RuntimeError("not counted")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"x-correlation-id", b"mine")],
        "extensions": {AGAIN_EXTENSION: kept.append},
    }
    await RequestMiddleware(Refusing(), observe=observe)(scope, receive, send)
    before = correlation_id.get()
    say = kept[0]()
    with pytest.raises(RuntimeError):
        say()
    assert correlation_id.get() == before


# ---- the limit -------------------------------------------------------------------------------------------------------


async def test_how_long_a_request_had_to_wait_is_told_without_taking_anything() -> None:
    slow, quick = (plan(name, requests_per_second={"rate": rate, "burst": 3}) for name, rate in (("a", 0.01), ("b", 4)))
    async with node(None) as here:
        limiter = here.limiter
        assert limiter.wait_ms("acme", slow) == 0
        while not await limiter.take("acme", slow):
            assert limiter.wait_ms("globex", slow) == 0
        assert 0 < limiter.wait_ms("acme", slow) <= 100_000
        while not await limiter.take("acme", quick):
            pass
        # It asks for what it lacks, so that it ends by itself, and what has come is there to be taken.
        await until(lambda: limiter.wait_ms("acme", quick) == 0)
        assert await limiter.take("acme", quick) == 0
