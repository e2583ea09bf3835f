"""Where an issuer publishes its keys, as a real server on a loopback port: obliging, slow, dead, lying, at will.

with KeyServer() as server:
    server.publish(issuer.jwks())
    server.behave = hang
"""

from __future__ import annotations

import contextlib
import gzip
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

Behaviour = Callable[["Exchange"], None]


class Exchange:
    """One connection whose request has been read."""

    def __init__(self, server: KeyServer, connection: socket.socket, head: bytes) -> None:
        self.server = server
        self.head = head
        self.sent = 0
        self._connection = connection

    def send(self, data: bytes) -> bool:
        """Whether the client still takes it."""
        try:
            self._connection.sendall(data)
        except OSError:
            return False
        self.sent += len(data)
        return True

    def answer(self, body: bytes, *, status: str = "200 OK", **headers: str) -> None:
        lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        self.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body)

    def wait(self, seconds: float) -> bool:
        """Whether the client is still there after so long; at once where it leaves or the server closes."""
        ends_at = time.monotonic() + seconds
        while not self.server.closing.is_set() and time.monotonic() < ends_at:
            readable, _, _ = select.select([self._connection], [], [], 0.02)
            if readable:
                with contextlib.suppress(OSError):
                    if self._connection.recv(1024):
                        continue
                return False
        return not self.server.closing.is_set()


class KeyServer:
    """Counts what it is asked. ``behave`` may be set at any time; without it the published document is answered."""

    def __init__(self, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.behave: Behaviour = oblige
        self.document = b'{"keys": []}'
        self.headers: dict[str, str] = {}
        self.asked_at: list[float] = []
        self.exchanges: list[Exchange] = []
        self.closing = threading.Event()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*map(str, certificate))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{self.port}/jwks"
        self._serving: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)

    @property
    def asked(self) -> int:
        return len(self.asked_at)

    def publish(self, document: bytes, **headers: str) -> None:
        """Answer this from now on."""
        self.document, self.headers, self.behave = document, headers, oblige

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._accepting.join()
        self._listener.close()
        for thread in self._serving:
            thread.join()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._serving.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            if self._context is not None:
                # The plain socket is detached by it.
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self._talk(secure)
            else:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(4096)
            if not data:
                return
            head += data
            if not head.startswith(b"G"):
                # No GET: somebody speaks TLS to a plain port.
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return
        exchange = Exchange(self, connection, head)
        self.exchanges.append(exchange)
        self.asked_at.append(time.monotonic())
        self.behave(exchange)


def oblige(exchange: Exchange) -> None:
    exchange.answer(exchange.server.document, **exchange.server.headers)


def hang(exchange: Exchange) -> None:
    exchange.wait(60)


def slow(seconds: float) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        if exchange.wait(seconds):
            oblige(exchange)

    return behave


def drip_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while exchange.wait(0.02) and exchange.send(b"x"):
        pass


def drip_body(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while exchange.wait(0.02) and exchange.send(b" "):
        pass


def endless(exchange: Exchange) -> None:
    """A hundred megabytes of an answer that does not say how long it is."""
    exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    _pour(exchange, b" " * (1 << 20))


def endless_chunks(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _pour(exchange, b"10000\r\n" + b" " * (1 << 16) + b"\r\n")


def endless_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    _pour(exchange, b"X-More: " + b"m" * 1000 + b"\r\n")


def endless_informing(exchange: Exchange) -> None:
    _pour(exchange, b"HTTP/1.1 100 Continue\r\n\r\n" * 2000)


def told_huge(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
    _pour(exchange, b" " * (1 << 20))


def bomb(exchange: Exchange) -> None:
    exchange.answer(gzip.compress(b'{"keys": [' + b" " * (64 << 20) + b"]}"), Content_Encoding="gzip")


def cut(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + exchange.server.document[:20])


def cut_at_once(exchange: Exchange) -> None:
    """The request is read, nothing is answered."""


def not_http(exchange: Exchange) -> None:
    exchange.send(b"220 mail.example ESMTP\r\n\x00\xff\x1b[31m\r\n\r\n")


def redirect(to: str, status: str = "302 Found") -> Behaviour:
    return lambda exchange: exchange.answer(b"", status=status, Location=to)


def refuse(status: str) -> Behaviour:
    return lambda exchange: exchange.answer(b"<html>no</html>", status=status)


def _pour(exchange: Exchange, data: bytes) -> None:
    while exchange.sent < 100 << 20 and not exchange.server.closing.is_set() and exchange.send(data):
        pass
