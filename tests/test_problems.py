"""Problems: the body, the headers and the WebSocket spelling of every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.errors import GatewayError
from gateway.subscription.events import goodbye
from gateway.transport.problems import (
    DETAIL_CHARACTERS,
    problem,
    problem_members,
    refuse_websocket,
    send_problem,
)

DOCUMENT = Path(__file__).parent.parent / "docs/reference/errors.md"
EVERY_ERROR = sorted(
    (found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, GatewayError)),
    key=lambda found: found.__name__,
)


class Wire:
    """Keeps what an app sends."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        self.messages.append(dict(message))


def headers_of(error: GatewayError) -> dict[str, str]:
    _, headers, _ = problem(error, correlation_id="c-1")
    assert len({name for name, _ in headers}) == len(headers)
    return {name.decode("ascii"): value.decode("ascii") for name, value in headers}


def body_of(error: GatewayError) -> dict[str, Any]:
    return dict(json.loads(problem(error, correlation_id="c-1")[2]))


def test_a_problem_has_every_member_a_partner_needs() -> None:
    error = errors.Unavailable("Kafka does not answer.", retry_after_ms=1500)
    assert problem(error, correlation_id="c-1")[0] == 503
    assert body_of(error) == {
        "type": "urn:streaming-gateway:problem:unavailable",
        "title": "Temporarily unavailable",
        "status": 503,
        "detail": "Kafka does not answer.",
        "code": "unavailable",
        "action": "Try again after the time given.",
        "correlation_id": "c-1",
        "retry_after_ms": 1500,
        "close_code": 4503,
    }
    assert headers_of(error) == {
        "content-type": "application/problem+json",
        "content-length": str(len(problem(error, correlation_id="c-1")[2])),
        "cache-control": "no-store",
        "x-correlation-id": "c-1",
        "retry-after": "2",
    }


@given(
    detail=st.text(max_size=40) | st.text(min_size=DETAIL_CHARACTERS, max_size=DETAIL_CHARACTERS + 9),
    wait_ms=st.none() | st.integers(0, 10**9),
    correlation_id=st.text(max_size=9),
    extensions=st.dictionaries(st.sampled_from(["limit", "status", "Ünicode"]), st.integers(), max_size=2),
)
def test_a_body_is_its_members_whatever_is_said_in_it(
    detail: str, wait_ms: int | None, correlation_id: str, extensions: dict[str, object]
) -> None:
    for kind in (errors.RateLimited, errors.NotFound, errors.GatewayError):
        error = kind(detail, retry_after_ms=wait_ms, extensions=extensions)
        members = problem_members(error, correlation_id=correlation_id)
        assert problem(error, correlation_id=correlation_id)[2] == json.dumps(members).encode("ascii")


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_every_error_can_be_answered(error: type[GatewayError]) -> None:
    status, headers, body = problem(error(), correlation_id="c-1")
    assert 400 <= status <= 599
    assert (b"content-type", b"application/problem+json") in headers
    members = json.loads(body)
    assert body == json.dumps(problem_members(error(), correlation_id="c-1"), default=str).encode()
    assert members["detail"]
    assert members["action"]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", members["code"])
    assert re.match(r"[a-z]+:\S+$", members["type"])
    assert len(members["code"].encode()) <= 123


@pytest.mark.parametrize(("retry_after_ms", "seconds"), [(0, "0"), (1, "1"), (1000, "1"), (1001, "2"), (-5, "0")])
def test_retry_after_is_whole_seconds_rounded_up(retry_after_ms: int, seconds: str) -> None:
    assert headers_of(errors.Unavailable(retry_after_ms=retry_after_ms))["retry-after"] == seconds


def test_an_error_that_knows_no_time_says_none() -> None:
    assert "retry-after" not in headers_of(errors.InvalidCursor())
    assert "retry_after_ms" not in body_of(errors.InvalidCursor())


def test_401_without_a_token_asks_for_one_and_names_no_error() -> None:
    assert headers_of(errors.TokenMissing())["www-authenticate"] == 'Bearer realm="streaming-gateway"'


@pytest.mark.parametrize("error", [errors.TokenInvalid, errors.TokenExpired, errors.Unauthorized])
def test_401_for_a_refused_token_says_invalid_token(error: type[GatewayError]) -> None:
    challenge = headers_of(error("the detail"))["www-authenticate"]
    assert challenge.startswith('Bearer realm="streaming-gateway", error="invalid_token"')
    assert "the detail" not in challenge


def test_403_for_a_missing_scope_says_which_if_the_error_does() -> None:
    bare = 'Bearer realm="streaming-gateway", error="insufficient_scope"'
    assert headers_of(errors.InsufficientScope())["www-authenticate"] == bare
    error = errors.InsufficientScope("One is missing.", scopes=("streams:read", "flights:read"))
    assert headers_of(error)["www-authenticate"] == f'{bare}, scope="streams:read flights:read"'
    own = "Bearer of="
    assert headers_of(errors.InsufficientScope(headers={"WWW-Authenticate": own}))["www-authenticate"] == own


@pytest.mark.parametrize(
    "error",
    [errors.TokenMissing(), errors.TokenInvalid(), errors.InsufficientScope(), errors.AmbiguousCredentials()],
    ids=lambda error: error.code,
)
def test_whoever_is_asked_for_a_token_is_told_where_one_is_to_be_had(error: GatewayError) -> None:
    place = "https://gateway.example/.well-known/oauth-protected-resource"
    _, headers, _ = problem(error, correlation_id="c-1", resource_metadata=place)
    challenge = dict(headers)[b"www-authenticate"].decode()
    assert challenge.startswith('Bearer realm="streaming-gateway"')
    assert challenge.endswith(f', resource_metadata="{place}"')


def test_nobody_else_is() -> None:
    for error in (errors.NotEntitled(), errors.Unavailable(), errors.Internal()):
        _, headers, _ = problem(error, correlation_id="c-1", resource_metadata="https://gateway.example/x")
        assert b"www-authenticate" not in dict(headers)


def test_two_credentials_are_an_invalid_request() -> None:
    assert 'error="invalid_request"' in headers_of(errors.AmbiguousCredentials())["www-authenticate"]


def test_other_refusals_ask_for_no_credential() -> None:
    assert "www-authenticate" not in headers_of(errors.NotEntitled())
    assert "www-authenticate" not in headers_of(errors.StreamNotFound())


def test_extensions_join_the_body_and_replace_nothing() -> None:
    error = errors.CursorExpired(extensions={"earliest": "AAEC", "status": 200, "code": "ok"})
    assert body_of(error)["earliest"] == "AAEC"
    assert (body_of(error)["status"], body_of(error)["code"]) == (410, "cursor_expired")


def test_an_error_cannot_change_the_length_or_type_of_its_body() -> None:
    headers = headers_of(
        errors.BadRequest(headers={"Content-Length": "1", "content-type": "text/html", "Allow": "GET"})
    )
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["content-length"]) > 1
    assert headers["allow"] == "GET"


@given(st.text(), st.text(), st.text())
def test_no_text_breaks_out_of_a_header_or_the_body(detail: str, name: str, value: str) -> None:
    error = errors.InvalidParameter(detail, headers={name: value, "X-Fixed": value}, extensions={name: value})
    _, headers, body = problem(error, correlation_id="c-1")
    for sent_name, sent_value in headers:
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9a-z-]+", sent_name)
        assert re.fullmatch(rb"[\x20-\x7e]*", sent_value)
    assert body.isascii()
    assert json.loads(body)["detail"] == (detail[:DETAIL_CHARACTERS] or "Invalid parameter")


def test_a_long_detail_is_cut() -> None:
    assert len(body_of(errors.BadRequest("x" * 1_000_000))["detail"]) == DETAIL_CHARACTERS


async def test_send_problem_is_one_complete_answer() -> None:
    wire = Wire()
    await send_problem(wire.send, errors.StreamNotFound("No stream x."), "c-1")
    start, body = wire.messages
    assert (start["type"], start["status"]) == ("http.response.start", 404)
    assert body["type"] == "http.response.body"
    assert not body.get("more_body")
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


async def test_an_upgrade_is_refused_over_http_where_the_server_can() -> None:
    wire = Wire()
    scope = {"type": "websocket", "headers": [], "extensions": {"websocket.http.response": {}}}
    await refuse_websocket(scope, wire.send, errors.NotEntitled("Not yours."), "c-1")
    start, body = wire.messages
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["code"] == "not_entitled"


async def test_an_upgrade_is_closed_where_the_server_has_no_answer_for_it() -> None:
    wire = Wire()
    await refuse_websocket({"type": "websocket", "headers": []}, wire.send, errors.NotEntitled(), "c-1")
    assert wire.messages == [{"type": "websocket.close", "code": 4403, "reason": "not_entitled"}]


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["bearer.x", "gateway.v1"], "gateway.v1"), (["chat"], None), ([], None)]
)
async def test_a_browser_is_let_in_only_to_be_told(offered: list[str], chosen: str | None) -> None:
    wire = Wire()
    scope = {
        "type": "websocket",
        "headers": [(b"origin", b"https://partner.example")],
        "subprotocols": offered,
        "extensions": {"websocket.http.response": {}},
    }
    await refuse_websocket(scope, wire.send, errors.Unavailable("Away.", retry_after_ms=700), "c-1")
    accept, frame, close = wire.messages
    assert (accept["type"], accept["subprotocol"]) == ("websocket.accept", chosen)
    assert json.loads(frame["text"]) == {
        "type": "goodbye",
        "code": "unavailable",
        "close_code": 4503,
        "reason": "Away.",
        "reconnect": True,
        "retry_after_ms": 700,
    }
    assert close == {"type": "websocket.close", "code": 4503, "reason": "unavailable"}


def test_a_goodbye_that_invites_back_always_says_when() -> None:
    assert goodbye(errors.TooSlow())["retry_after_ms"] == 1000
    assert goodbye(errors.Draining(retry_after_ms=0), cursor="AAEC")["retry_after_ms"] == 0
    assert goodbye(errors.Draining(), cursor="AAEC")["cursor"] == "AAEC"
    assert "retry_after_ms" not in goodbye(errors.AccessWithdrawn())


def test_every_error_is_a_row_of_the_documented_table() -> None:
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
        for line in DOCUMENT.read_text().partition("## Every code")[2].splitlines()
        if line.startswith("| `")
        for cells in [line.strip("| ").split("|")]
    }
    for error in EVERY_ERROR:
        status, close_code, reconnect, *texts = rows[error.code]
        expected = (str(error.status), str(error.close_code), "yes" if error.reconnect else "no")
        assert (status, close_code, reconnect) == expected, error
        assert len(texts) == 2
        assert all(texts)
