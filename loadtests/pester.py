"""A tenant that asks for more than it may: pulls at random moments, whatever the answers say.

    python -m loadtests.pester PORT RATE TARGET TOKEN

Prints a line once its connections are open, and at the end of stdin how often each status came, as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import re
import sys

from loadtests.machine import stand_back

CONNECTIONS = 40
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


async def _ask(port: int, request: bytes, every_seconds: float, first: float, found: collections.Counter[str]) -> None:
    """One connection. Where a request is not answered yet when the next is due, the next one comes as soon as it is."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    print(flush=True)
    due = loop.time() + first
    try:
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            # At a fixed pace it would meet what else keeps one always at the same moment of it, or never.
            due += random.expovariate(1 / every_seconds)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None, head
            await reader.readexactly(int(length[1]))
            found[head[9:12].decode()] += 1
    finally:
        writer.close()


async def _run(port: int, rate: float, request: bytes) -> None:
    found: collections.Counter[str] = collections.Counter()
    every = CONNECTIONS / rate
    asking = [asyncio.create_task(_ask(port, request, every, at / rate, found)) for at in range(CONNECTIONS)]
    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    # What ends early is a failure, and ends the process with it.
    await asyncio.wait([over, *asking], return_when=asyncio.FIRST_COMPLETED)
    for one in asking:
        if one.done():
            one.result()
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one
    print(json.dumps(found), flush=True)


def main() -> None:
    """Ask until stdin ends."""
    stand_back()
    port, rate, target, token = sys.argv[1:]
    lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}", "", ""]
    asyncio.run(_run(int(port), float(rate), "\r\n".join(lines).encode()))


if __name__ == "__main__":
    main()
