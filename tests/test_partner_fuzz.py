"""Requests and frames made up by chance: each gets what it deserves, a clear refusal or its answer, and soon."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.parts.estate import Node
from tests.parts.made_up import (
    ANSWER_SECONDS,
    HANDSHAKE,
    Answer,
    Request,
    ask,
    damaged,
    made_up_frames,
    sensible_request,
    server_frames,
    wild_request,
)
from tests.parts.partner import Partner

pytest_plugins = ("tests.parts.served",)

SEED = 20_261_122
SENSIBLE = 360
WILD = 200
DAMAGED = 100
TALKS = 80
AT_ONCE = 16
ERRORS = Path(__file__).parent.parent / "docs/reference/errors.md"
CLOSE_CODES = {1000, 1002, 1003, 1007, 1008, 1009, 4400, 4000}
"""The last one is a client's own, which comes back."""


def documented() -> dict[str, int]:
    """Code → status of the table of all refusals."""
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", ERRORS.read_text(), re.MULTILINE)
    return {code: int(status) for code, status in rows}


def address(node: Node) -> tuple[str, int]:
    url = httpx.URL(node.base_url)
    return url.host, url.port or 80


def tokens(node: Node) -> dict[str, str]:
    """Authorization headers by what is wrong with them; an empty one for none at all."""
    deployment, now = node.deployment, int(time.time())
    good = deployment.token()
    head, body, signature = good.split(".")
    return {
        "good": good,
        "": "",
        "not a token": "Bearer nonsense",
        "another scheme": "Basic eDp5",
        "two words": f"Bearer {good} {good}",
        "cut": f"Bearer {good[:-4]}",
        "no signature": f"Bearer {head}.{body}.",
        "changed": f"Bearer {head}.{body[:-2]}AA.{signature}",
        "padded": f"Bearer {good}==",
        "long": "Bearer " + "A" * 8001,
        "expired": f"Bearer {deployment.token(iat=now - 100, exp=now - 50)}",
        "of another audience": f"Bearer {deployment.token(aud='https://elsewhere.example')}",
        "of nobody": f"Bearer {deployment.token('nobody')}",
        "of a suspended tenant": f"Bearer {deployment.token('initech-app')}",
    }


def check_problem(answer: Answer, method: str) -> None:
    """A refusal as docs/reference/errors.md has it."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    if method == "HEAD":
        return
    members = json.loads(answer.body)
    assert members["code"] in documented(), members
    assert members["status"] == answer.status
    # A handshake may break RFC 6455 in ways that have statuses of their own.
    assert answer.status in (documented()[members["code"]], 426)
    assert members["detail"]
    assert members["action"]
    assert answer.headers["x-correlation-id"] == members["correlation_id"]


def check_success(answer: Answer, kind: str) -> None:
    media = answer.headers["content-type"].partition(";")[0]
    if kind == "pull":
        assert media == "application/json"
        assert json.loads(answer.body).keys() >= {"records", "next_cursor", "gaps"}
    elif kind == "sse":
        assert media == "text/event-stream"
        assert answer.body.startswith(b"retry: ")
    elif kind == "ndjson":
        assert media == "application/x-ndjson"
        assert json.loads(answer.body.split(b"\n")[0])["type"] == "welcome"
    elif kind == "list":
        assert isinstance(json.loads(answer.body)["streams"], list)
    else:
        assert b"info" in answer.body


async def ask_all(node: Node, requests: Sequence[Request], *, ends: bool = False) -> list[Answer | None]:
    host, port = address(node)
    found: list[Answer | None] = []
    for first in range(0, len(requests), AT_ONCE):
        batch = requests[first : first + AT_ONCE]
        found += await asyncio.gather(*[ask(host, port, one.raw, method=one.method, ends=ends) for one in batch])
    return found


async def test_a_request_with_a_fault_is_refused_and_one_without_is_served(gateway_node: Node) -> None:
    chance, known = random.Random(SEED), tokens(gateway_node)
    requests = [sensible_request(chance, known) for _ in range(SENSIBLE)]
    seen: Counter[int] = Counter()
    for request, answer in zip(requests, await ask_all(gateway_node, requests), strict=True):
        told = f"{request.faults} {request.raw[:3000]!r} -> {answer}"
        assert answer is not None, told
        seen[answer.status] += 1
        if request.faults:
            assert 400 <= answer.status < 500, told
            try:
                check_problem(answer, request.method)
            except (AssertionError, KeyError) as error:
                raise AssertionError(told) from error
        else:
            assert answer.status == 200, told
            check_success(answer, request.kind)
    assert seen[200] > SENSIBLE / 5
    assert all(seen[status] > 3 for status in (400, 401, 403, 404, 405, 406, 431)), seen


async def test_no_request_whatsoever_is_a_5xx_or_hangs(gateway_node: Node) -> None:
    chance, token = random.Random(SEED + 1), str(gateway_node.partner().token)
    raws = [wild_request(chance, token) for _ in range(WILD)]
    requests = [Request(raw, "", raw.split(b" ", 1)[0].decode(), ()) for raw in raws]
    seen: Counter[int] = Counter()
    for request, answer in zip(requests, await ask_all(gateway_node, requests), strict=True):
        assert answer is not None, request.raw
        seen[answer.status] += 1
        assert answer.status < 500, (request.raw, answer)
        if answer.status >= 400:
            check_problem(answer, request.method)
    assert seen[200] > 3
    assert min(seen[400], seen[404]) > 20


async def test_a_request_with_damaged_bytes_is_answered_or_dropped(gateway_node: Node) -> None:
    chance, known = random.Random(SEED + 2), tokens(gateway_node)
    raws = [damaged(chance, sensible_request(chance, known).raw) for _ in range(DAMAGED)]
    requests = [Request(raw, "", "HEAD" if b"HEAD" in raw[:20] else "GET", ()) for raw in raws]
    refused = 0
    for request, answer in zip(requests, await ask_all(gateway_node, requests, ends=True), strict=True):
        assert answer is None or answer.status < 500, (request.raw, answer)
        if answer is not None and answer.status >= 400:
            check_problem(answer, request.method)
            refused += 1
    assert refused > DAMAGED / 4


async def test_another_server_gives_no_5xx_and_no_hang_either(hypercorn_node: Node) -> None:
    chance, known = random.Random(SEED + 3), tokens(hypercorn_node)
    requests = [sensible_request(chance, known) for _ in range(80)]
    raws = [wild_request(chance, known["good"]) for _ in range(80)]
    requests += [Request(raw, "", raw.split(b" ", 1)[0].decode(), ()) for raw in raws]
    seen: Counter[int] = Counter()
    for request, answer in zip(requests, await ask_all(hypercorn_node, requests), strict=True):
        assert answer is None or answer.status < 500, (request.raw, answer)
        seen[answer.status if answer is not None else 0] += 1
    assert seen[200] > 10
    assert min(seen[400], seen[401], seen[404]) > 3
    assert seen[0] < 20


async def talk(node: Node, token: str, sent: bytes, close: bytes, *, patient: bool) -> list[tuple[int, bytes]]:
    """The server's frames to a client that sends all of this after the handshake, and then only listens.

    A patient one closes after a heartbeat: by then it was told what it did wrong.
    """
    host, port = address(node)
    reader, writer = await asyncio.open_connection(host, port)
    lines = ["GET /v1/streams/numbers/ws HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *HANDSHAKE, "", ""]
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writer.write("\r\n".join(lines).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            heard = b""
            writer.write(sent)
            while patient and b'"checkpoint"' not in heard and (piece := await reader.read(65_536)):
                heard += piece
            writer.write(close)
            return server_frames(heard + await reader.read(-1))
    finally:
        writer.transport.abort()


async def test_whatever_frames_a_client_sends_it_is_told_and_closed_in_order(gateway_node: Node) -> None:
    chance, token = random.Random(SEED + 4), str(gateway_node.partner().token)
    talks = [made_up_frames(chance) for _ in range(TALKS)]
    codes: Counter[int] = Counter()
    for first in range(0, TALKS, AT_ONCE):
        batch = talks[first : first + AT_ONCE]
        talking = [talk(gateway_node, token, *one, patient=first == 0) for one in batch]
        for (sent, _), frames in zip(batch, await asyncio.gather(*talking), strict=True):
            *before, (opcode, body) = frames
            assert opcode == 8, (sent[:500], frames)
            code = int.from_bytes(body[:2], "big") if body else 1000
            codes[code] += 1
            assert code in CLOSE_CODES, (code, sent[:500])
            assert {kind for kind, _ in before} <= {1, 10}
            events = [json.loads(text)["type"] for kind, text in before if kind == 1]
            assert events[0] == "welcome"
            assert set(events[1:]) <= {"checkpoint", "error", "goodbye"}
            # Whatever comes behind the third may still close it with another code.
            assert ("goodbye" in events) == (events.count("error") == 3)
            assert code != 4400 or "goodbye" in events
            assert events.count("error") <= 3
    assert {1000, 1002, 4400} <= codes.keys(), codes


@pytest.mark.parametrize("suffix", ["/sse", "/ndjson", "/records", ""])
async def test_an_upgrade_where_no_websocket_is_spoken_is_refused_or_served_without(
    gateway_node: Node, suffix: str
) -> None:
    host, port = address(gateway_node)
    lines = [f"GET /v1/streams/numbers{suffix} HTTP/1.1", "Host: x", *HANDSHAKE]
    lines.append(f"Authorization: Bearer {gateway_node.partner().token}")
    answer = await ask(host, port, "\r\n".join([*lines, "", ""]).encode())
    assert answer is not None
    if suffix:
        assert answer.status == 404
        check_problem(answer, "GET")
    else:
        assert answer.status == 101


async def test_after_all_that_the_node_serves_as_before(gateway_node: Node) -> None:
    partner: Partner = gateway_node.partner()
    assert (await partner.pull("numbers", from_="earliest", limit=1))["records"]
    async with partner.ws("numbers", from_="earliest") as stream:
        await stream.next()
        await stream.records(5)
