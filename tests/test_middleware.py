"""Middleware: every request gets an id, an answer it can act on, and one line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import errors
from gateway.counters import Counters
from gateway.observability import logs
from gateway.transport.middleware import RequestMiddleware, route_app

SECRET = "do-not-show-this"


class Exchange:
    """One request against an app, without a server."""

    def __init__(self, app: Any, *, kind: str = "http", headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.app = app
        self.messages: list[dict[str, Any]] = []
        self.broken_after: int | None = None
        self.scope: dict[str, Any] = {
            "type": kind,
            "path": "/things/7",
            "raw_path": b"/things/7",
            "root_path": "",
            "query_string": b"ticket=" + SECRET.encode(),
            "headers": headers or [],
            "extensions": {"websocket.http.response": {}},
            "subprotocols": ["gateway.v1"],
            "state": {"shared": 1},
        }
        if kind == "http":
            self.scope["method"] = "GET"

    async def run(self) -> list[dict[str, Any]]:
        await self.app(self.scope, self.receive, self.send)
        return self.messages

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        if self.broken_after is not None and len(self.messages) >= self.broken_after:
            raise BrokenPipeError("gone")
        self.messages.append(dict(message))

    @property
    def problem(self) -> dict[str, Any]:
        return dict(json.loads(self.messages[-1]["body"]))

    @property
    def correlation_id(self) -> str:
        found = [value for name, value in self.messages[0]["headers"] if name == b"x-correlation-id"]
        assert len(found) == 1
        return str(found[0].decode())


def raising(error: BaseException, *sent: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)
        raise error

    return app


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == name]


@pytest.fixture(autouse=True)
def hear_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="gateway")


OK = {"type": "http.response.start", "status": 200, "headers": []}
MORE = {"type": "http.response.body", "body": b"x", "more_body": True}
DONE = {"type": "http.response.body", "body": b""}
ACCEPT = {"type": "websocket.accept", "headers": []}


@pytest.mark.parametrize("sent", [b"a", b"order-7:A.b_c", b"x" * 128])
async def test_a_well_formed_correlation_id_is_kept(sent: bytes) -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope["state"]["correlation_id"], logs.correlation_id.get()])
        await send(OK)
        await send(DONE)

    exchange = Exchange(RequestMiddleware(app), headers=[(b"x-correlation-id", sent)])
    await exchange.run()
    assert seen == [sent.decode(), sent.decode()]
    assert exchange.correlation_id == sent.decode()
    assert logs.correlation_id.get() is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-correlation-id", b"")],
        [(b"x-correlation-id", b"x" * 129)],
        [(b"x-correlation-id", b"a b")],
        [(b"x-correlation-id", b"a\r\nSet-Cookie: b")],
        [(b"x-correlation-id", b"\xff\xfe")],
        [(b"x-correlation-id", b"a"), (b"x-correlation-id", b"b")],
    ],
)
async def test_without_a_well_formed_correlation_id_one_is_made(headers: list[tuple[bytes, bytes]]) -> None:
    exchange = Exchange(RequestMiddleware(raising(errors.InvalidCursor())), headers=headers)
    await exchange.run()
    assert re.fullmatch(r"[0-9a-f]{32}", exchange.correlation_id)
    assert exchange.problem["correlation_id"] == exchange.correlation_id


async def test_requests_share_the_servers_state_but_not_each_others() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"])
        scope["state"]["access_fields"]["tenant"] = "acme"

    exchange = Exchange(RequestMiddleware(app))
    await exchange.run()
    assert seen[0]["shared"] == 1
    assert exchange.scope["state"] == {"shared": 1}


async def test_a_refusal_becomes_its_problem(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(
        RequestMiddleware(raising(errors.UnknownParameter("Unknown parameter 'form'; did you mean 'from'?")))
    )
    await exchange.run()
    assert exchange.messages[0]["status"] == 400
    assert exchange.problem["code"] == "unknown_parameter"
    assert lines(caplog, "request_failed") == []
    assert lines(caplog, "access")[0]["code"] == "unknown_parameter"


async def test_why_a_token_was_refused_is_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(RequestMiddleware(raising(errors.TokenInvalid("wrong_audience"))))
    await exchange.run()
    assert "wrong_audience" not in str(exchange.messages)
    assert lines(caplog, "access")[0]["reason"] == "wrong_audience"


async def test_a_refusal_inside_a_task_group_is_still_that_refusal() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(raising(errors.StreamNotFound())(scope, receive, send))

    exchange = Exchange(RequestMiddleware(app))
    await exchange.run()
    assert exchange.problem["code"] == "stream_not_found"


async def test_an_unforeseen_error_is_an_internal_problem_and_a_traceback_in_the_log_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange = Exchange(RequestMiddleware(raising(RuntimeError(SECRET))))
    await exchange.run()
    assert exchange.messages[0]["status"] == 500
    assert exchange.problem["code"] == "internal"
    assert SECRET not in str(exchange.messages)
    assert "Traceback" not in str(exchange.messages)
    record = next(record for record in caplog.records if record.getMessage() == "request_failed")
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert str(record.exc_info[1]) == SECRET


async def test_an_answer_that_began_is_cut_off_and_never_finished(caplog: pytest.LogCaptureFixture) -> None:
    messages = await Exchange(RequestMiddleware(raising(RuntimeError("x"), OK, MORE))).run()
    assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
    assert messages[-1]["more_body"] is True
    assert lines(caplog, "answer_cut") == [{"code": "internal"}]
    assert lines(caplog, "access")[0]["status"] == 200


async def test_an_error_after_the_answer_changes_nothing_but_the_log(caplog: pytest.LogCaptureFixture) -> None:
    messages = await Exchange(RequestMiddleware(raising(RuntimeError("x"), OK, DONE))).run()
    assert len(messages) == 2
    assert lines(caplog, "answer_cut") == []
    assert len(lines(caplog, "request_failed")) == 1


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_client_that_left_is_no_error(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    async def writes(scope: Any, receive: Any, send: Any) -> None:
        await send(OK if kind == "http" else ACCEPT)

    exchange = Exchange(RequestMiddleware(writes), kind=kind)
    exchange.broken_after = 0
    await exchange.run()
    await Exchange(RequestMiddleware(raising(ClientDisconnect())), kind=kind).run()
    answer_fails = Exchange(RequestMiddleware(raising(errors.NotFound())), kind=kind)
    answer_fails.broken_after = 0
    await answer_fails.run()
    assert lines(caplog, "request_failed") == []
    assert len(lines(caplog, "client_gone")) == 3
    assert len(lines(caplog, "access")) == 3


async def test_a_broken_pipe_of_our_own_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(RequestMiddleware(raising(BrokenPipeError("the log file's"))))
    await exchange.run()
    assert exchange.problem["code"] == "internal"
    assert len(lines(caplog, "request_failed")) == 1


async def test_an_upgrade_refused_is_an_http_answer() -> None:
    exchange = Exchange(RequestMiddleware(raising(errors.NotEntitled())), kind="websocket")
    await exchange.run()
    assert (exchange.messages[0]["type"], exchange.messages[0]["status"]) == ("websocket.http.response.start", 403)
    assert exchange.problem["correlation_id"] == exchange.correlation_id


async def test_an_error_on_an_open_websocket_says_goodbye(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(RequestMiddleware(raising(RuntimeError(SECRET), ACCEPT)), kind="websocket")
    accept, frame, close = await exchange.run()
    assert accept["type"] == "websocket.accept"
    assert exchange.correlation_id
    assert json.loads(frame["text"])["code"] == "internal"
    assert (close["code"], close["reason"]) == (4500, "internal")
    access = lines(caplog, "access")[0]
    assert (access["status"], access["close_code"], access["protocol"]) == (101, 4500, "websocket")


async def test_the_access_line_has_the_pattern_and_not_the_request(caplog: pytest.LogCaptureFixture) -> None:
    async def thing(request: Request) -> Response:
        request.state.access_fields["tenant"] = "acme"
        return PlainTextResponse("yes")

    counters = Counters()
    app = RequestMiddleware(route_app([Route("/things/{id}", thing)]), observe=counters.count_request)
    await Exchange(app).run()
    (access,) = lines(caplog, "access")
    assert access.pop("duration_ms") >= 0
    assert access == {
        "tenant": "acme",
        "protocol": "http",
        "method": "GET",
        "route": "/things/{id}",
        "status": 200,
    }
    assert SECRET not in caplog.text
    assert counters.requests == {("/things/{id}", "GET", 200): 1}


async def test_strange_paths_and_methods_make_no_labels() -> None:
    counters = Counters()
    app = RequestMiddleware(route_app([]), observe=counters.count_request)
    for number in range(5):
        exchange = Exchange(app)
        exchange.scope["path"] = f"/strange/{number}"
        exchange.scope["method"] = f"STRANGE{number}"
        await exchange.run()
        assert exchange.problem["code"] == "not_found"
    assert counters.requests == {("unmatched", "other", 404): 5}


async def test_a_stream_is_logged_at_its_end_even_when_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    seconds = iter([10.0, 12.5])
    opened = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(OK)
        opened.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Exchange(RequestMiddleware(app, monotonic=lambda: next(seconds))).run())
    await opened.wait()
    assert lines(caplog, "access") == []
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    (access,) = lines(caplog, "access")
    assert (access["status"], access["duration_ms"]) == (200, 2500.0)


async def test_a_request_that_ends_without_an_answer_counts_as_499(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    await Exchange(RequestMiddleware(app)).run()
    assert lines(caplog, "access")[0]["status"] == 499


async def test_the_routers_own_refusals_are_problems() -> None:
    async def thing(request: Request) -> Response:
        raise HTTPException(status_code=418, detail=SECRET)

    app = RequestMiddleware(route_app([Route("/things/7", thing, methods=["GET", "POST"])]))
    strange = Exchange(app)
    strange.scope["method"] = "DELETE"
    await strange.run()
    assert strange.messages[0]["status"] == 405
    assert (b"allow", b"GET, HEAD, POST") in strange.messages[0]["headers"]
    upgrade = Exchange(app, kind="websocket")
    await upgrade.run()
    assert (upgrade.messages[0]["type"], upgrade.problem["code"]) == ("websocket.http.response.start", "not_found")
    teapot = Exchange(app)
    await teapot.run()
    assert teapot.messages[0]["status"] == 400
    slash = Exchange(app)
    slash.scope["path"] += "/"
    await slash.run()
    assert slash.messages[0]["status"] == 404


async def test_lifespan_passes_untouched() -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    exchange = Exchange(RequestMiddleware(app))
    await RequestMiddleware(app)(scope, exchange.receive, exchange.send)
    assert seen == [scope]
    assert seen[0] is scope


class Served:
    """The app under uvicorn on a free port of the loopback."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off", ws="websockets-sansio"
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = suppress  # type: ignore[method-assign,assignment]
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> int:
        self._task = asyncio.create_task(self._server.serve())
        await until(lambda: self._server.started)
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        assert self._task is not None
        await self._task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a condition that nothing announces
            await asyncio.sleep(0.001)


async def test_a_real_client_reads_the_refused_upgrade_and_a_browser_its_goodbye() -> None:
    async with Served(RequestMiddleware(raising(errors.TokenMissing("Send a token.")))) as port:
        url = f"ws://127.0.0.1:{port}/v1/streams/flights/ws"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url):
                pass
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["WWW-Authenticate"] == 'Bearer realm="streaming-gateway"'
        assert json.loads(refused.value.response.body or b"")["code"] == "token_missing"
        async with connect(url, origin="https://partner.example", subprotocols=["gateway.v1"]) as browser:  # type: ignore[arg-type,list-item]
            assert browser.subprotocol == "gateway.v1"
            assert json.loads(await browser.recv())["code"] == "token_missing"
            with pytest.raises(ConnectionClosed):
                await browser.recv()
            assert (browser.close_code, browser.close_reason) == (4401, "token_missing")


async def test_a_real_client_can_tell_a_cut_off_answer_from_a_whole_one() -> None:
    async with Served(RequestMiddleware(raising(RuntimeError("x"), OK, MORE))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"transfer-encoding: chunked" in answer.lower()
    assert not answer.endswith(b"0\r\n\r\n")
