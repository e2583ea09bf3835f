"""The parts of a load test: one Kafka, one gateway on its own core, tokens to read by."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtests.machine import CLIENT_CORE, SERVER_CORE, on_core
from loadtests.readers import Protocol, Readers, request
from loadtests.source import Payload, Source, value
from tests.parts.certificates import make_certificate
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import KafkaBroker, broker

TOKENS = 200
TENANTS_AT_ONCE = 2000
"""So many fit into a catalog file, which may have a megabyte."""

STREAM = "flights"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stream, its producer, and the gateway that serves it."""

    deployment: Deployment
    gateway: GatewayProcess
    source: Source
    tokens: list[str]

    @property
    def port(self) -> int:
        port = urlsplit(self.gateway.base_url).port
        assert port is not None
        return port

    @property
    def pid(self) -> int:
        return self.gateway.pid

    def readers(
        self, count: int, *, protocol: Protocol = "sse", query: str | Sequence[str] = "", **options: Any
    ) -> Readers:
        """Readers from the stream's end on, or from where ``query`` says; ``first`` says what that is by partition.

        Of several queries each reader has the next one.
        """
        queries = [query] * len(self.tokens) if isinstance(query, str) else query
        requests = [
            request(STREAM, self.tokens[at % len(self.tokens)], protocol=protocol, query=one)
            for at, one in enumerate(queries)
        ]
        first = options.pop("first", self.source.vector)
        options.setdefault("tls", self.gateway.base_url.startswith("https:"))
        return Readers(self.port, count=count, requests=requests, first=first, **options)

    def writes(self) -> float:
        """Slices written to readers so far, as the gateway counts them. Asking costs the gateway a little."""
        with urllib.request.urlopen(f"{self.gateway.admin_url}/metrics", timeout=10) as answer:
            found = re.search(r"(?m)^gateway_pump_slices_total (\S+)$", answer.read().decode())
        assert found is not None
        return float(found[1])

    def one_chunk(self) -> bytes:
        """The next record as an SSE reader gets it, in its HTTP chunk."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(request(STREAM, self.tokens[0]))
            received = b""
            while b"event: checkpoint" not in received:
                received += client.recv(65536)
            self.source.send()
            while b"\n\n\r\n" not in received.partition(b"\r\nid: ")[2]:
                received += client.recv(65536)
        start = received.rindex(b"\r\n", 0, received.index(b"\r\nid: ")) + 2
        return received[start:]


@contextlib.contextmanager
def kafka() -> Iterator[KafkaBroker]:
    """A broker beside the clients."""
    with on_core(CLIENT_CORE), broker() as running:
        yield running


@contextlib.contextmanager
def stage(
    running: KafkaBroker,
    topic: str,
    *,
    partitions: int = 4,
    linger_ms: int = 0,
    payload: Payload = value,
    exposed: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
    redis_url: str | None = None,
    tls: bool = False,
    clients: Sequence[str] = ("acme-web",),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **stream: Any,
) -> Iterator[Stage]:
    """A new topic and a gateway that exposes it; ``stream`` are settings of that section, ``settings`` of others,
    ``exposed`` parts of its contract. With ``tls`` it ends TLS itself, with an ECDSA key (P-256).

    Tokens are of these ``clients`` of the ``catalog`` in turn, at least one of each.
    """
    asyncio.run(running.create_topic(topic, partitions))
    with on_core(CLIENT_CORE):
        source = Source(running.bootstrap, topic, partitions=partitions, linger_ms=linger_ms, payload=payload)
    first, *others = _pieces(catalog)
    with tempfile.TemporaryDirectory(prefix="loadtest-") as directory:
        deployment = Deployment(
            Path(directory),
            running.bootstrap,
            [contract(STREAM, topic, partitions=partitions, **(exposed or {}))],
            catalog=first,
            settings=({"stream": stream} if stream else {})
            | ({"http": _certificate(Path(directory))} if tls else {})
            | ({"redis": {"url": redis_url}} if redis_url else {})
            | dict(settings or {}),
        )
        for piece in others:
            _apply(deployment, piece)
        tokens = [deployment.token(clients[at % len(clients)]) for at in range(max(TOKENS, len(clients)))]
        process = GatewayProcess(deployment, "a")
        with on_core(SERVER_CORE):
            process.start()
        try:
            yield Stage(deployment, process, source, tokens)
        finally:
            process.stop()


def _pieces(catalog: Mapping[str, Any] | None) -> list[Mapping[str, Any] | None]:
    """The catalog in files that are not too large: each with everything but tenants, and some of those."""
    tenants = [] if catalog is None else catalog["tenants"]
    if catalog is None or len(tenants) <= TENANTS_AT_ONCE:
        return [catalog]
    starts = range(0, len(tenants), TENANTS_AT_ONCE)
    return [{**catalog, "tenants": tenants[start : start + TENANTS_AT_ONCE]} for start in starts]


def _apply(deployment: Deployment, catalog: Mapping[str, Any] | None) -> None:
    """Add to the deployment's catalog."""
    file = deployment.directory / "more.yaml"
    # JSON is YAML, but for dates.
    file.write_text(json.dumps(catalog).replace('"2020-01-01"', "2020-01-01"))
    command = [sys.executable, "-m", "gateway", "apply", *deployment.options("apply"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)


def _certificate(directory: Path) -> dict[str, Any]:
    cert_file, key_file = make_certificate(directory, name="loadtest")
    return {"tls_cert_file": str(cert_file), "tls_key_file": str(key_file)}
