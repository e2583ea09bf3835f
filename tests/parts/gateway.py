"""A real gateway for tests: ``gateway serve`` in its own process, with contracts, catalog and tokens to read by."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.parts.process import die_with_parent
from tests.parts.tokens import PretendIssuer

READY_SECONDS = 30.0


def contract(
    stream: str,
    topic: str,
    *,
    partitions: int = 4,
    content_type: str = "application/json",
    payload: Mapping[str, Any] | None = None,
    **gateway: Any,
) -> dict[str, Any]:
    """An AsyncAPI document that exposes ``topic`` as ``stream``; ``gateway`` overrides members of ``x-gateway``."""
    exposed: dict[str, Any] = {
        "stream": stream,
        "lifecycle": "published",
        "owner": "tests@example.com",
        "visibility": "public",
        "scopes": ["streams:read"],
        "transports": ["sse", "ws", "pull", "ndjson"],
        "key": {"expose": True},
        "replay": {"earliest": True, "time": True},
    } | gateway
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:test:{stream}",
        "info": {"title": stream, "version": "1.0.0", "description": "For tests."},
        "defaultContentType": content_type,
        "servers": {"main": {"host": "kafka.internal:9092", "protocol": "kafka"}},
        "channels": {
            stream: {
                "address": topic,
                "servers": [{"$ref": "#/servers/main"}],
                "messages": {"event": {"$ref": "#/components/messages/event"}},
                "bindings": {"kafka": {"topic": topic, "partitions": partitions}},
                "x-gateway": {name: value for name, value in exposed.items() if value is not None},
            }
        },
        "operations": {
            "publish": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{stream}"},
                "messages": [{"$ref": f"#/channels/{stream}/messages/event"}],
            }
        },
        "components": {
            "messages": {
                "event": {
                    "title": "Event",
                    "contentType": content_type,
                    "payload": dict(payload or {"type": "object"}),
                }
            }
        },
    }


UNLIMITED = dict.fromkeys(
    (
        "requests_per_second",
        "connections",
        "records_per_second",
        "bytes_per_second",
        "replay_records_per_second",
    ),
    "unlimited",
)


def catalog(streams: Sequence[str]) -> dict[str, Any]:
    """One product with all streams; tenant acme (application acme-web) is entitled to it, globex to nothing."""
    return {
        "products": [{"name": "all", "title": "All", "streams": list(streams)}],
        "plans": [
            {"name": "open", "revision": 1, "title": "Open", "currency": "EUR", "limits": UNLIMITED, "charges": []}
        ],
        "tenants": [
            {
                "name": "acme",
                "title": "Acme",
                "status": "active",
                "time_zone": "Europe/Berlin",
                "applications": [{"client_id": "acme-web", "title": "Web"}],
                "entitlements": [{"product": "all", "plan": "open", "from": "2020-01-01"}],
            },
            {
                "name": "globex",
                "title": "Globex",
                "status": "active",
                "time_zone": "America/New_York",
                "applications": [{"client_id": "globex-app", "title": "App"}],
                "entitlements": [],
            },
        ],
    }


@dataclass
class Deployment:
    """What several gateways share: contracts, catalog, database, issuer. Files live under ``directory``."""

    directory: Path
    bootstrap: str
    contracts: Sequence[Mapping[str, Any]]
    catalog: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    issuer: PretendIssuer = field(default_factory=PretendIssuer)

    def __post_init__(self) -> None:
        streams = self.directory / "asyncapi" / "streams"
        streams.mkdir(parents=True)
        names = []
        for document in self.contracts:
            name = next(iter(document["channels"].values()))["x-gateway"]["stream"]
            names.append(name)
            (streams / f"{name}.yaml").write_text(yaml.safe_dump(dict(document), sort_keys=False))
        (self.directory / "catalog.yaml").write_text(
            yaml.safe_dump(dict(self.catalog or catalog(names)), sort_keys=False).replace("'2020-01-01'", "2020-01-01")
        )
        self.issuer.write_jwks(self.directory / "jwks.json")
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "apply", *self.options("apply"), str(self.directory / "catalog.yaml")],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def options(self, node: str) -> list[str]:
        """``--config FILE`` for a node of this name, with a data directory of its own."""
        accepted = self.issuer.settings()
        document: dict[str, Any] = {
            "http": {"port": 0},
            "admin": {"port": 0},
            "kafka": {"bootstrap_servers": [self.bootstrap]},
            "contracts": {"dir": str(self.directory / "asyncapi")},
            "database": {"url": f"sqlite:///{self.directory / 'gateway.db'}"},
            "data": {"dir": str(self.directory / f"data-{node}")},
            # Of its own: the Kafka is shared, and a ledger takes in whatever its topic says.
            "metering": {"topic": "usage." + hashlib.sha256(str(self.directory).encode()).hexdigest()[:16]},
            "auth": {
                "issuers": [
                    {
                        "name": accepted.name,
                        "issuer": accepted.issuer,
                        "audience": accepted.audience,
                        "jwks_file": str(self.directory / "jwks.json"),
                    }
                ]
            },
        }
        for section, values in self.settings.items():
            document[section] = document.get(section, {}) | values
        path = self.directory / f"{node}.toml"
        path.write_text(_toml(document))
        return ["--config", str(path)]

    def token(self, client_id: str = "acme-web", *, scope: str = "streams:read", **claims: Any) -> str:
        """An access token that this deployment accepts."""
        return self.issuer.mint(claims={"client_id": client_id, "scope": scope, **claims})

    @contextlib.contextmanager
    def gateway(self, node: str = "a") -> Iterator[GatewayProcess]:
        """A running gateway, ready; stopped at the end."""
        process = GatewayProcess(self, node)
        process.start()
        try:
            yield process
        finally:
            process.stop()


class GatewayProcess:
    """One ``gateway serve``."""

    def __init__(self, deployment: Deployment, node: str, *, within: Sequence[str] = ()) -> None:
        """``within``: a command that runs the one that comes after it, and becomes it."""
        self._deployment = deployment
        self._within = list(within)
        self._log = deployment.directory / f"{node}.log"
        self._options = deployment.options(node)
        self._process: subprocess.Popen[bytes] | None = None
        self.base_url = ""
        self.admin_url = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait_ready: bool = True) -> None:
        """Start and, unless told otherwise, wait until it is ready."""
        with self._log.open("ab") as output:
            skip = output.tell()
            self._process = subprocess.Popen(
                [*self._within, sys.executable, "-m", "gateway", "serve", *self._options],
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"gateway ended with {self._process.returncode}:\n{self.log()}")
            said = [line for line in self.log()[skip:].splitlines() if '"serving"' in line]
            if said:
                serving = json.loads(said[-1])
                self.base_url = serving["url"]
                self.admin_url = f"http://127.0.0.1:{serving['admin_port']}"
                if not wait_ready or self.readiness()[0] == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"gateway not ready after {READY_SECONDS} s:\n{self.log()}")

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and body of ``/readyz``."""
        try:
            with urllib.request.urlopen(f"{self.admin_url}/readyz", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, *, seconds: float = 30) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """SIGTERM and wait; nothing if it has ended already."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _toml(document: Mapping[str, Any]) -> str:
    """A settings file; JSON's spelling of strings, numbers, booleans and lists is TOML's too."""
    lines: list[str] = []
    for section, values in document.items():
        plain = {name: value for name, value in values.items() if not _tables(value)}
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in plain.items())]
        for name, tables in values.items():
            if _tables(tables):
                for table in tables:
                    lines += [f"[[{section}.{name}]]", *(f"{key} = {json.dumps(v)}" for key, v in table.items())]
    return "\n".join(lines) + "\n"


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
