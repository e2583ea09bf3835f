"""The outermost layer of an ASGI app: correlation id, refusals spelled as problems, one access line a request."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from gateway.errors import BadRequest, GatewayError, Internal, MethodNotAllowed, NotAcceptable, NotFound, Unauthorized
from gateway.observability import logs
from gateway.ports import AGAIN_EXTENSION, Answer
from gateway.tracing import Span, current_span
from gateway.transport.again import RefusedAgain
from gateway.transport.problems import encode_headers, end_websocket, problem, refuse_websocket, send_problem

logger = logging.getLogger(__name__)

UNMATCHED = "unmatched"
"""The route of a request that no route took; its path is the client's word and stays out of labels and logs."""

CLIENT_GONE = 499
"""The status of a request that ended before any answer began, as nginx writes it."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_CORRELATION_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_BY_STATUS: dict[int, type[GatewayError]] = {404: NotFound, 405: MethodNotAllowed, 406: NotAcceptable}


class RequestObserver(Protocol):
    """Told once of every request that ended; ``Counters.count_request`` is one."""

    def __call__(self, route: str, /, *, method: str, status: int) -> None: ...


class RequestSpan(Span, Protocol):
    """The span of a whole request."""

    def trace_id(self) -> str:
        """32 hexadecimal digits, to find the trace of a log line by."""
        ...


class Tracer(Protocol):
    """Begins spans of requests."""

    def begin(self, scope: Scope, fields: Mapping[str, object], /) -> RequestSpan | None:
        """The span of a request that has just arrived; None if its trace is not sampled.

        ``fields`` is still filled while the request is served; what of it belongs into a span is read at its end.
        """
        ...


def route_app(routes: Sequence[BaseRoute], *, not_found: Callable[[], GatewayError] = NotFound) -> ASGIApp:
    """Starlette's router without its plain-text answers: what it would refuse is raised, for ``RequestMiddleware``.

    Not ``starlette.applications.Starlette``, whose own error layer would answer 500 in text before ours sees anything;
    and no redirects of slashes, since they are built from the request's ``Host``.
    """

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        raise not_found()

    router = Router(routes, redirect_slashes=False, default=refuse)

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Routes raise their 405 only where they see an application; otherwise they answer it in plain text.
        scope.setdefault("app", router)
        return router.app(scope, receive, send)

    return app


class RequestMiddleware:
    """Wraps an app in what every request gets, HTTP and WebSocket alike; pure ASGI, so streams pass unbuffered.

    - ``scope["state"]["correlation_id"]``: the client's ``X-Correlation-Id`` where it is well formed, else a new one;
      also in every log line of the request's task and in the answer's headers.
    - ``scope["state"]["access_fields"]``: a dict; what the app puts in goes into the access line, and what
      ``scope["state"]["access_summary"]``, if it sets one, returns when the request is over.
    - ``scope["state"]["answer_headers"]``, if the app sets it, returns further headers when the answer begins.
    - Where there is a ``tracer``, a span for the request; the app may end it earlier.
    - An error that leaves the app becomes a problem, a ``goodbye``, or, once an HTTP answer has begun, its cut-off.
      No traceback and no message of an unforeseen error reaches the client.
    - ``resource_metadata``, if given, says where a client without a good token finds who gives one.
    - One access line when the request is over, which for a stream is its end. A cancelled request writes it too.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        observe: RequestObserver | None = None,
        access_level: int = logging.INFO,
        tracer: Tracer | None = None,
        resource_metadata: Callable[[], str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._observe = observe
        self._access_level = access_level
        self._tracer = tracer
        self._resource_metadata = resource_metadata
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = self._monotonic()
        correlation_id = read_correlation_id(scope)
        fields: dict[str, object] = {}
        # Own dicts: the server shares what is in its state with every request of the process.
        scope = {
            **scope,
            "state": {**scope.get("state", {}), "correlation_id": correlation_id, "access_fields": fields},
        }
        answer = _Answer(scope, send, correlation_id=correlation_id, resource_metadata=self._resource_metadata)
        token = logs.correlation_id.set(correlation_id)
        span = None if self._tracer is None else self._tracer.begin(scope, fields)
        if span is not None:
            current_span.set(span)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:  # noqa: BLE001 - the last place where any error can still become an answer
            await answer.end(_refusal(error), cause=error)
            self._offer_again(scope, answer)
        finally:
            if span is not None:
                fields["trace_id"] = span.trace_id()
                current_span.set(None)
            self._write_access_line(scope, answer, fields, span, duration_seconds=self._monotonic() - started)
            logs.correlation_id.reset(token)

    def _offer_again(self, scope: Scope, answer: _Answer) -> None:
        """Let the server answer the same request without us, where it can and the app knows what would come of it."""
        again: RefusedAgain | None = scope["state"].get("again")
        keep = (scope.get("extensions") or {}).get(AGAIN_EXTENSION)
        # What pages may read is said further out.
        if again is None or keep is None or not answer.code or any(name == b"origin" for name, _ in scope["headers"]):
            return
        keep(partial(self._answer_again, scope, dict(scope["state"]["access_fields"]), again))

    def _answer_again(
        self, scope: Scope, known: Mapping[str, object], again: RefusedAgain
    ) -> Callable[[], Answer] | None:
        """``gateway.ports.AnswerAgain``: all that ``__call__`` would do, and nothing of it twice."""
        started = self._monotonic()
        refusal = again.refusal()
        return None if refusal is None else partial(self._say_again, scope, known, again, refusal, started)

    def _say_again(
        self, scope: Scope, known: Mapping[str, object], again: RefusedAgain, refusal: GatewayError, started: float
    ) -> Answer:
        correlation_id = read_correlation_id(scope)
        fields = dict(known)
        token = logs.correlation_id.set(correlation_id)
        try:
            span = None if self._tracer is None else self._tracer.begin(scope, fields)
            if span is not None:
                fields["trace_id"] = span.trace_id()
            status, headers, body = problem(refusal, correlation_id=correlation_id)
            ended = _Ended(status, refusal.code)
            self._write_access_line(scope, ended, fields, span, duration_seconds=self._monotonic() - started)
        finally:
            # No task of its own: what is set here, the server's loop would go on with.
            logs.correlation_id.reset(token)
        return status, headers + again.headers(), body

    def _write_access_line(
        self,
        scope: Scope,
        answer: _Answer | _Ended,
        fields: dict[str, object],
        span: RequestSpan | None,
        *,
        duration_seconds: float,
    ) -> None:
        route = str(getattr(scope.get("route"), "path", UNMATCHED))
        method = scope.get("method", "GET")
        method = method if method in METHODS else "other"
        status = answer.status or CLIENT_GONE
        if self._observe is not None:
            self._observe(route, method=method, status=status)
        if span is not None:
            span.note("route", route)
            span.note("status", status)
            span.end(answer.code)
        summary = scope["state"].pop("access_summary", None)
        members: dict[str, object] = {
            **fields,
            **(summary() if summary is not None else {}),
            "protocol": scope["type"],
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(duration_seconds * 1000, 1),
        }
        if scope.get("client"):
            members["client_address"] = scope["client"][0]
        if answer.code:
            members["code"] = answer.code
        if answer.reason:
            members["reason"] = answer.reason
        if answer.close_code is not None:
            members["close_code"] = answer.close_code
        logs.event(logger, self._access_level, "access", **members)


@dataclass(frozen=True, slots=True)
class _Ended:
    """An answer that was no application's, as the access line tells it."""

    status: int
    code: str
    reason: str = ""
    close_code: int | None = None


def read_correlation_id(scope: Scope) -> str:
    """The client's id if it sent one well-formed value (1 to 128 of ``A-Za-z0-9._:-``), else a new one."""
    sent = [value for name, value in scope["headers"] if name == b"x-correlation-id"]
    if len(sent) == 1 and _CORRELATION_ID.fullmatch(sent[0]):
        return bytes(sent[0]).decode("ascii")
    return os.urandom(16).hex()


class _Answer:
    """What has been sent of one answer, and how to end it from there."""

    __slots__ = (
        "_broken",
        "_correlation_id",
        "_over",
        "_resource_metadata",
        "_scope",
        "_send",
        "close_code",
        "code",
        "reason",
        "status",
    )

    def __init__(
        self, scope: Scope, send: Send, *, correlation_id: str, resource_metadata: Callable[[], str] | None
    ) -> None:
        self.status: int | None = None
        self.close_code: int | None = None
        self.code = ""
        self.reason = ""
        self._scope = scope
        self._send = send
        self._correlation_id = correlation_id
        self._resource_metadata = resource_metadata
        self._over = False
        self._broken: OSError | None = None

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in _STARTS:
            self.status = 101 if kind == "websocket.accept" else message["status"]
            headers = list(message.get("headers", ()))
            more = self._scope["state"].pop("answer_headers", None)
            if more is not None:
                headers += more()
            if not any(name == b"x-correlation-id" for name, _ in headers):
                headers += encode_headers([("x-correlation-id", self._correlation_id)])
            message = {**message, "headers": headers}
        elif kind == "websocket.close":
            self.close_code = message.get("code", 1000)
            # Closed before it was accepted: the server answers the upgrade with 403.
            self.status = self.status or 403
            self._over = True
        elif kind in ("http.response.body", "websocket.http.response.body") and not message.get("more_body", False):
            self._over = True
        try:
            await self._send(message)
        except OSError as error:
            # How a server says that the client has gone (ASGI 2.4).
            self._broken = error
            self._over = True
            raise

    async def end(self, refusal: GatewayError | None, *, cause: BaseException) -> None:
        """Turn what the app raised into what can still be said; ``refusal`` is None where the client just left."""
        if refusal is None or cause is self._broken:
            logs.event(logger, logging.DEBUG, "client_gone", reason=type(cause).__name__)
            return
        self.code = refusal.code
        if isinstance(refusal, Unauthorized):
            # The client is told one thing for all reasons; the operator finds the one that held here.
            self.reason = str(getattr(refusal, "reason", ""))
        if isinstance(refusal, Internal):
            logs.event(logger, logging.ERROR, "request_failed", exception=cause)
        if self._over:
            return
        try:
            await self._say(refusal)
        except OSError as error:
            logs.event(logger, logging.DEBUG, "client_gone", reason=type(error).__name__)

    async def _say(self, refusal: GatewayError) -> None:
        place = None if self._resource_metadata is None else self._resource_metadata()
        if self._scope["type"] == "websocket":
            if self.status is None:
                await refuse_websocket(self._scope, self.send, refusal, self._correlation_id, resource_metadata=place)
            elif self.status == 101:
                await end_websocket(self.send, refusal)
        elif self.status is None:
            await send_problem(self.send, refusal, self._correlation_id, resource_metadata=place)
        else:
            # Returning with the body unfinished makes the server cut the connection: the client must not take what it
            # has for the whole. Raising would do the same and log the traceback a second time.
            logs.event(logger, logging.WARNING, "answer_cut", code=refusal.code)


def _refusal(error: BaseException) -> GatewayError | None:
    """What an error means to the client; None if it only says that the client has gone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        # Task groups wrap the one thing that went wrong.
        error = error.exceptions[0]
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, ClientDisconnect | WebSocketDisconnect):
        return None
    if isinstance(error, HTTPException) and 400 <= error.status_code < 500:
        headers = dict(error.headers or {})
        if "Allow" in headers:
            headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
        return _BY_STATUS.get(error.status_code, BadRequest)(headers=headers)
    return Internal()
