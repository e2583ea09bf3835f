"""Clients that partners have already: curl, httpx-sse, websockets and a browser's fetch() each read and resume."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.parts import browser, node
from tests.parts.estate import ALL_NUMBERS, PARTITIONS, PER_PARTITION, Node, numbers_by_partition
from tests.parts.kafka import PartMissing, eventually
from tests.parts.partner import Partner

pytest_plugins = ("tests.parts.served",)

TOTAL = PARTITIONS * PER_PARTITION
HALF = TOTAL // 2


@pytest.fixture(scope="session")
def devtools() -> Iterator[str]:
    """The address of a browser that runs."""
    try:
        with browser.browser() as address:
            yield address
    except PartMissing as missing:
        left_out(str(missing))


def left_out(reason: str) -> None:
    """Skip with the reason; under CI=true fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"a real part is missing: {reason}", pytrace=False)
    pytest.skip(f"left out: {reason}")


# ---- curl ------------------------------------------------------------------------------------------------------------


async def curl(url: str, token: str, *headers: str, until: int, marker: bytes) -> list[str]:
    """Lines that curl prints, up to the one with the ``until``-th ``marker``; then it is ended."""
    program = shutil.which("curl")
    if program is None:
        left_out("no curl in PATH")
        return []
    arguments = ["-sSN", "--noproxy", "*", "-H", f"Authorization: Bearer {token}"]
    for header in headers:
        arguments += ["-H", header]
    process = await asyncio.create_subprocess_exec(program, *arguments, url, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines: list[str] = []
    seen = 0
    try:
        async with asyncio.timeout(20):
            while seen < until:
                line = await process.stdout.readline()
                assert line, f"curl ended after {lines[-5:]}"
                lines.append(line.decode().rstrip("\n"))
                seen += marker in line
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    return lines


def sse_fields(lines: Sequence[str], name: str) -> list[str]:
    return [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]


async def test_curl_reads_and_resumes_server_sent_events(acme: Partner) -> None:
    url = acme.url("/v1/streams/numbers", from_="earliest")
    accept = "Accept: text/event-stream"
    lines = await curl(url, str(acme.token), accept, until=HALF, marker=b"data: {")
    last = sse_fields(lines, "id")[-1]
    rest = await curl(url, str(acme.token), accept, f"Last-Event-ID: {last}", until=TOTAL - HALF, marker=b"data: {")
    records = [json.loads(text) for text in sse_fields([*lines, *rest], "data")]
    assert numbers_by_partition(records) == ALL_NUMBERS


async def test_curl_reads_and_resumes_lines_of_json(acme: Partner) -> None:
    url, marker = "/v1/streams/numbers/ndjson", b'"type":"record"'
    lines = await curl(acme.url(url, from_="earliest"), str(acme.token), until=HALF, marker=marker)
    last = json.loads(lines[-1])["id"]
    lines += await curl(acme.url(url, cursor=last), str(acme.token), until=TOTAL - HALF, marker=marker)
    records = [frame for line in lines if (frame := json.loads(line))["type"] == "record"]
    assert numbers_by_partition(records) == ALL_NUMBERS


# ---- Python libraries ------------------------------------------------------------------------------------------------


async def test_httpx_sse_reads_and_resumes(acme: Partner) -> None:
    url, records = acme.url("/v1/streams/numbers", from_="earliest"), []
    resume: dict[str, str] = {}
    async with httpx.AsyncClient(headers=acme.all_headers(), trust_env=False, verify=False) as client:
        for count in (HALF, TOTAL):
            async with asyncio.timeout(20), aconnect_sse(client, "GET", url, headers=resume) as source:
                async for event in source.aiter_sse():
                    if event.event == "message":
                        records.append(event.json())
                        resume = {"Last-Event-ID": event.id}
                    if len(records) == count:
                        break
    assert numbers_by_partition(records) == ALL_NUMBERS


async def test_the_npm_package_eventsource_reads_and_comes_back_by_itself(acme: Partner) -> None:
    url = acme.url("/v1/streams/numbers/sse", from_="earliest")
    try:
        # Cut in the middle of an event.
        arguments = [url, str(acme.token), str(TOTAL), "2500"]
        printed = await asyncio.to_thread(node.run_script, "read_events.mjs", arguments)
    except PartMissing as missing:
        left_out(str(missing))
        return
    heard = json.loads(printed)
    assert heard["opens"] == 2
    assert numbers_by_partition(heard["records"]) == ALL_NUMBERS


async def test_websockets_reads_and_resumes(acme: Partner) -> None:
    records: list[Any] = []
    start = {"from_": "earliest"}
    for count in (HALF, TOTAL):
        url = acme.url("/v1/streams/numbers", **start).replace("http", "ws", 1)
        async with (
            asyncio.timeout(20),
            connect(
                url,
                additional_headers=acme.all_headers(),
                subprotocols=[Subprotocol("gateway.v1")],
                proxy=None,
                max_queue=None,
            ) as socket,
        ):
            async for message in socket:
                frame = json.loads(message)
                if frame["type"] == "record":
                    records.append(frame)
                if len(records) == count:
                    break
        start = {"cursor": records[-1]["id"]}
    assert numbers_by_partition(records) == ALL_NUMBERS


async def test_websockets_with_its_defaults_comes_through_compression_and_pings(acme: Partner) -> None:
    url = acme.url("/v1/streams/numbers").replace("http", "ws", 1)
    async with asyncio.timeout(10), connect(url, additional_headers=acme.all_headers(), proxy=None) as socket:
        await (await socket.ping())
        assert json.loads(await socket.recv())["type"] == "welcome"


# ---- a browser -------------------------------------------------------------------------------------------------------

READ_SSE = """
const found = {records: [], last: null};
const abort = new AbortController();
const answer = await fetch(URL_, {headers: HEADERS_, signal: abort.signal, cache: "no-store"});
found.status = answer.status;
found.type = answer.headers.get("content-type");
const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
let rest = "";
while (found.records.length < COUNT_) {
  const {value, done} = await reader.read();
  if (done) throw new Error("ended");
  const events = (rest + value).split("\\n\\n");
  rest = events.pop();
  for (const event of events) {
    const fields = Object.fromEntries(event.split("\\n").map(line => line.split(/: (.*)/s).slice(0, 2)));
    if (fields.event || !fields.data || found.records.length === COUNT_) continue;
    found.records.push(JSON.parse(fields.data));
    found.last = fields.id;
  }
}
abort.abort();
return found;
"""

READ_LINES = """
const found = {records: [], last: null};
const abort = new AbortController();
const answer = await fetch(URL_, {headers: HEADERS_, signal: abort.signal, cache: "no-store"});
const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
let rest = "";
while (found.records.length < COUNT_) {
  const {value, done} = await reader.read();
  if (done) throw new Error("ended");
  const lines = (rest + value).split("\\n");
  rest = lines.pop();
  for (const frame of lines.map(line => JSON.parse(line))) {
    if (frame.type !== "record" || found.records.length === COUNT_) continue;
    found.records.push(frame);
    found.last = frame.id;
  }
}
abort.abort();
return found;
"""

OPEN_SOCKET = """
return await new Promise(resolve => {
  const heard = {messages: []};
  const socket = new WebSocket(URL_, ["gateway.v1"]);
  socket.onmessage = event => heard.messages.push(JSON.parse(event.data));
  socket.onclose = event => resolve({...heard, code: event.code, reason: event.reason, protocol: socket.protocol});
});
"""


def script(template: str, **values: Any) -> str:
    for name, value in values.items():
        template = template.replace(f"{name.upper()}_", json.dumps(value))
    return template


async def test_a_browsers_fetch_reads_and_resumes_server_sent_events(
    served: Node, acme: Partner, devtools: str
) -> None:
    url = acme.url("/v1/streams/numbers/sse", from_="earliest")
    headers = {"Authorization": f"Bearer {acme.token}"}
    async with browser.page(devtools, f"{served.base_url}/v1/streams") as page:
        one = await page.run(script(READ_SSE, url=url, headers=headers, count=HALF))
        two = await page.run(
            script(READ_SSE, url=url, headers={**headers, "Last-Event-ID": one["last"]}, count=TOTAL - HALF)
        )
    assert one["status"] == 200
    assert one["type"].startswith("text/event-stream")
    assert numbers_by_partition(one["records"] + two["records"]) == ALL_NUMBERS


async def test_a_browsers_fetch_reads_and_resumes_lines_of_json(served: Node, acme: Partner, devtools: str) -> None:
    headers = {"Authorization": f"Bearer {acme.token}"}
    async with browser.page(devtools, f"{served.base_url}/v1/streams") as page:
        url = acme.url("/v1/streams/numbers/ndjson", from_="earliest")
        one = await page.run(script(READ_LINES, url=url, headers=headers, count=HALF))
        url = acme.url("/v1/streams/numbers/ndjson", cursor=one["last"])
        two = await page.run(script(READ_LINES, url=url, headers=headers, count=TOTAL - HALF))
    assert numbers_by_partition(one["records"] + two["records"]) == ALL_NUMBERS


async def test_a_browsers_page_can_read_why_its_websocket_was_refused(served: Node, devtools: str) -> None:
    url = f"{served.base_url}/v1/streams/numbers/ws".replace("http", "ws", 1)
    async with browser.page(devtools, f"{served.base_url}/v1/streams") as page:
        heard = await page.run(script(OPEN_SOCKET, url=url))
    assert heard["code"] == 4401
    assert heard["reason"] == "token_missing"
    assert heard["protocol"] == "gateway.v1"
    assert [(frame["type"], frame["code"]) for frame in heard["messages"]] == [("goodbye", "token_missing")]


async def test_a_client_that_vanishes_leaves_nothing_open(served: Node, acme: Partner) -> None:
    async def connections() -> float:
        text = (await Partner(served.admin_url, None).get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("gateway_open_streams{")]
        return sum(float(line.split()[-1]) for line in lines)

    async def none_open() -> bool:
        return await connections() == 0

    await eventually(none_open)
    url = acme.url("/v1/streams/numbers/ws").replace("http", "ws", 1)
    socket = await connect(url, additional_headers=acme.all_headers(), proxy=None)
    async with acme.sse("numbers"), acme.ndjson("numbers"):
        assert await connections() == 3
        socket.transport.abort()
    await eventually(none_open)
    await socket.wait_closed()
