"""How many different filters a partner may have open at once: refused by name beyond it, the rest unharmed."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from gateway.subscription.registry import MAX_SHAPES_PER_TENANT
from tests.parts.estate import SENSORS, Node
from tests.parts.partner import Partner, problem

pytest_plugins = ("tests.parts.served",)


async def opened(partner: Partner, term: str) -> tuple[int, asyncio.StreamWriter]:
    """The status of an NDJSON read with one filter, which stays open; a bare socket, since there are many."""
    url = urlsplit(partner.url("/v1/streams/sensors/ndjson", filter=term))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    lines = [f"GET {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name}: {value}" for name, value in partner.all_headers().items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), writer


async def test_one_filter_more_than_a_tenant_may_have_is_429_and_what_is_open_stays(gateway_node: Node) -> None:
    acme = gateway_node.partner()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(MAX_SHAPES_PER_TENANT):
            status, writer = await opened(acme, f"count:lt:{-number}")
            stack.push_async_callback(closed, writer)
            assert status == 200, number
        answer = await acme.get("/v1/streams/sensors/ndjson", filter="count:lt:-99999")
        said = problem(answer, 429, "too_many_views")
        assert str(MAX_SHAPES_PER_TENANT) in said["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        # One that is open already, and what the stream offers everybody, cost nothing more.
        status, writer = await opened(acme, "count:lt:-7")
        stack.push_async_callback(closed, writer)
        assert status == 200
        async with acme.ndjson("sensors", **{"from": "earliest"}) as stream:
            await stream.until("welcome")
            assert len(await stream.records(len(SENSORS))) == len(SENSORS)
    # When others have gone there is room again.
    for _ in range(600):
        status = (await acme.get("/v1/streams/sensors/records", filter="count:lt:-99999")).status_code
        if status == 200:
            break
        assert status == 429
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("there is no room although all have gone")


async def closed(writer: asyncio.StreamWriter) -> None:
    """Drop a connection and wait until it is gone."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
