"""One address before several servers, on the level of TCP: a connection goes to the first of them that takes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit


@contextlib.asynccontextmanager
async def switch(upstreams: Sequence[str]) -> AsyncIterator[str]:
    """The address. What is cut on one side is cut on the other."""
    places = [urlsplit(one) for one in upstreams]
    passing: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        passing[task] = writer
        try:
            for place in places:
                with contextlib.suppress(OSError):
                    await _join(reader, writer, *await asyncio.open_connection(place.hostname, place.port))
                    return
        finally:
            writer.transport.abort()
            del passing[task]

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # Cut and not cancelled: a connection's task that is cancelled is an error to asyncio's streams.
        for writer in passing.values():
            writer.transport.abort()
        if passing:
            await asyncio.wait(list(passing))


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    ways = [asyncio.create_task(_pass(reader, far_writer)), asyncio.create_task(_pass(far_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        far_writer.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
