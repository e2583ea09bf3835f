"""One HTTP/1.1 GET whose body is read as it comes; knows a whole answer from one that was cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httptools

from gateway.client.outcome import ConnectionEnd, StreamInterrupted, StreamRefused

READ_BYTES: Final = 64 * 1024
HEAD_BYTES: Final = 64 * 1024


class HttpAnswer:
    """The answer to one request, on a connection of its own. Header names in lower case, repeated ones joined."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._begun = False
        self._complete = False

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises StreamInterrupted where the connection ends before."""
        while not self._body and not self._complete:
            await self._fill()
        body = b"".join(self._body)
        self._body.clear()
        return body

    async def read_all(self, *, limit_bytes: int) -> bytes:
        """The rest of the body, at most so much of it and a read more. Raises StreamInterrupted."""
        body = b""
        while len(body) < limit_bytes and (piece := await self.read()):
            body += piece
        return body

    async def close(self) -> None:
        """Leave at once; what is still on its way is not waited for. Idempotent."""
        self.abort()
        # A connection that ends badly has ended all the same.
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Drop the connection as a broken line would."""
        self._writer.transport.abort()

    async def read_head(self) -> None:
        """Wait for status and headers. Raises StreamInterrupted, or StreamRefused for what is not HTTP."""
        size = 0
        while not self._begun:
            size += await self._fill()
            if size > HEAD_BYTES and not self._begun:
                raise StreamRefused("Not a gateway", detail=f"the answer's head is over {HEAD_BYTES} bytes")

    async def _fill(self) -> int:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise StreamInterrupted(f"the connection was cut: {_said(error)}") from error
        if not data:
            if self._begun and self._ends_with_connection():
                self._complete = True
                return 0
            raise StreamInterrupted("the connection was cut")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise self._not_http(str(error)) from error
        return len(data)

    def _ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body (RFC 9112 §6.3)."""
        return "content-length" not in self.headers and "chunked" not in self.headers.get("transfer-encoding", "")

    def _not_http(self, reason: str) -> ConnectionEnd:
        if self._begun:
            return StreamInterrupted(f"the answer's body is broken: {reason}")
        return StreamRefused("Not a gateway", detail=f"the answer is not HTTP: {reason}")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        # 1xx comes before the answer and is none.
        self._begun = self.status >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._complete = self._begun


async def get(url: str, headers: Mapping[str, str]) -> HttpAnswer:
    """Ask, and come back when status and headers are there.

    Raises StreamInterrupted where the server cannot be reached, StreamRefused where it must not be trusted or does not
    speak HTTP. Environment proxies are not used. Certificates are checked against the system's authorities
    (``SSL_CERT_FILE`` names others).
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=4 * READ_BYTES)
    except OSError as error:
        raise outcome_of_failed_open(host, port, error) from error
    answer = HttpAnswer(reader, writer)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = {"Host": parts.netloc, "Accept-Encoding": "identity", "Connection": "close", **headers}
        head = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
        writer.write("\r\n".join(head).encode("ascii"))
        await answer.read_head()
    except BaseException:
        answer.abort()
        raise
    return answer


def outcome_of_failed_open(host: str, port: int, error: OSError) -> ConnectionEnd:
    """What it means that no connection came about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        action = "Check the address; SSL_CERT_FILE names certificates of authorities to trust."
        return StreamRefused("Certificate not trusted", detail=f"{host}: {error.verify_message}", action=action)
    return StreamInterrupted(f"cannot connect to {host}:{port}: {_said(error)}")


def _said(error: OSError) -> str:
    if isinstance(error, ConnectionError) and error.errno:
        # asyncio's own words name the address a second time and not the reason.
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
