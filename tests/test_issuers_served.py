"""Issuers that publish their keys at an address, as partners meet them: rotation, outage, lies, a dead one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.parts import keyserver
from tests.parts.certificates import make_certificate
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.keyserver import KeyServer
from tests.parts.partner import Partner, problem
from tests.parts.ports import free_port
from tests.parts.tokens import PretendIssuer, SigningKey

LIST = "/v1/streams"
AUDIENCE = "https://gateway.example"
JWKS: dict[str, Any] = {"cooldown_seconds": 2, "timeout_seconds": 1}


@dataclass
class Idp:
    """An issuer, its address, and its partner in the catalog."""

    issuer: PretendIssuer
    server: KeyServer

    @property
    def name(self) -> str:
        return self.issuer.name

    def publish(self, *keys: SigningKey) -> None:
        self.server.publish(json.dumps({"keys": [key.jwk() for key in keys]}).encode())

    def token(self, *, key: SigningKey | None = None, **claims: Any) -> str:
        return self.issuer.mint(f"{self.name}-app", scope="streams:read", key=key, claims=claims)

    def table(self, **more: Any) -> dict[str, Any]:
        return {
            "name": self.name,
            "issuer": self.issuer.issuer,
            "audience": AUDIENCE,
            "jwks_url": self.server.url,
        } | more


def key(kid: str) -> SigningKey:
    return SigningKey("ES256", kid=kid)


@pytest.fixture
def first() -> Iterator[Idp]:
    with KeyServer() as server:
        yield _idp("first", server)


@pytest.fixture
def second() -> Iterator[Idp]:
    with KeyServer() as server:
        yield _idp("second", server)


def _idp(name: str, server: KeyServer) -> Idp:
    own = key(f"{name}-1")
    idp = Idp(PretendIssuer(own, name=name, issuer=f"https://{name}.example", audience=AUDIENCE), server)
    idp.publish(own)
    return idp


def deploy(kafka: Kafka, directory: Path, *tables: dict[str, Any], jwks: dict[str, Any] | None = None) -> Deployment:
    """One public stream, and an application of each issuer that may read it."""
    topic = f"issuers-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    everything = catalog(["numbers"])
    clients = [
        {"client_id": f"{one['name']}-app", "title": one["name"]} | ({"issuer": one["name"]} if len(tables) > 1 else {})
        for one in tables
    ]
    everything["tenants"] = [everything["tenants"][0] | {"applications": clients}]
    contracts = [contract("numbers", topic, partitions=1)]
    settings = {"auth": {"issuers": list(tables)}, "auth.jwks": JWKS | (jwks or {})}
    return Deployment(directory, kafka.bootstrap, contracts, everything, settings=settings)


async def ask(gateway: GatewayProcess, token: str) -> httpx.Response:
    return await Partner(gateway.base_url, token).get(LIST)


def dependencies(gateway: GatewayProcess) -> dict[str, Any]:
    found = gateway.readiness()[1]["dependencies"]
    assert isinstance(found, dict)
    return found


def said(gateway: GatewayProcess, text: str) -> list[str]:
    events = (json.loads(line)["event"] for line in gateway.log().splitlines() if line.startswith("{"))
    return [event for event in events if text in event]


def test_keys_rotate_under_load_and_no_request_fails(kafka: Kafka, tmp_path: Path, first: Idp) -> None:
    deployment = deploy(kafka, tmp_path, first.table(), jwks={"cooldown_seconds": 0.1})

    async def story(gateway: GatewayProcess) -> list[int]:
        signer = first.issuer.keys[0]
        statuses: list[int] = []
        ended = asyncio.Event()

        async def read() -> None:
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:
                while not ended.is_set():
                    headers = {"Authorization": f"Bearer {first.token(key=signer)}"}
                    answer = await client.get(gateway.base_url + LIST, headers=headers, timeout=60)
                    statuses.append(answer.status_code)

        readers = [asyncio.create_task(read()) for _ in range(4)]
        for number in range(2, 5):
            old, signer_next = signer, key(f"first-{number}")
            # As issuers do it: both are there, then the new one signs, then the old one goes.
            first.publish(old, signer_next)
            signer = signer_next
            seen = len(statuses)
            await eventually(lambda seen=seen: len(statuses) >= seen + 10, seconds=60)  # type: ignore[misc]
            first.publish(signer)
            # No wait for anything: the cooldown, which lies between two fetches, is given its time.
            await asyncio.sleep(0.1)
        ended.set()
        await asyncio.gather(*readers)
        return statuses

    with deployment.gateway() as gateway:
        statuses = asyncio.run(story(gateway))
        assert set(statuses) == {200}, statuses
        changes = said(gateway, "keys of first changed")
        assert len(changes) >= 3


async def _outage(gateway: GatewayProcess, first: Idp, second: Idp) -> None:
    assert (await ask(gateway, first.token())).status_code == 200
    refused = await ask(gateway, second.token())
    members = problem(refused, 503, "unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert members["retry_after_ms"] >= 1000
    assert "www-authenticate" not in refused.headers
    assert second.server.url not in refused.text
    # A token that is wrong in itself is told so, whatever stands with its issuer.
    problem(await ask(gateway, second.token(aud="https://other.example")), 401, "token_invalid")
    problem(await ask(gateway, second.token(iss="https://nobody.example")), 401, "token_invalid")
    status, body = await asyncio.to_thread(gateway.readiness)
    assert (status, body["status"]) == (200, "degraded")
    found = body["dependencies"]
    assert found["keys:first"]["status"] == "ok"
    assert found["keys:first"]["keys"] == 1
    assert (found["keys:second"]["status"], found["keys:second"]["required"]) == ("down", False)
    assert found["keys:second"]["detail"] == "answers 500"
    assert found["keys"]["status"] == "ok"
    second.publish(*second.issuer.keys)

    async def is_let_in() -> bool:
        return (await ask(gateway, second.token())).status_code == 200

    await eventually(is_let_in, seconds=60)
    assert (await asyncio.to_thread(dependencies, gateway))["keys:second"]["status"] == "ok"


def test_a_dead_issuer_hurts_no_other_and_its_own_partners_hear_when_to_come_back(
    kafka: Kafka, tmp_path: Path, first: Idp, second: Idp
) -> None:
    second.server.behave = keyserver.refuse("500 Internal Server Error")
    with deploy(kafka, tmp_path, first.table(), second.table()).gateway() as gateway:
        asyncio.run(_outage(gateway, first, second))
        (away,) = said(gateway, "keys of second cannot be had")
        assert away.endswith(f"{second.server.url}: answers 500; none are known")
        (back,) = said(gateway, "keys of second can be fetched again")
        assert back
        with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=30) as answer:
            metrics = answer.read().decode()
        assert 'gateway_key_fetches_total{issuer="second",outcome="failed"}' in metrics
        assert 'gateway_key_fetches_total{issuer="first",outcome="changed"} 1.0' in metrics
        assert 'gateway_tokens_accepted_total{how="verified"}' in metrics
        assert 'gateway_dependency_state{dependency="keys:second",required="false",state="ok"} 1.0' in metrics


def test_what_an_issuer_sends_later_changes_nothing_for_keys_that_are_known(
    kafka: Kafka, tmp_path: Path, first: Idp
) -> None:
    """It hangs, pours, redirects, lies; meanwhile strangers send tokens with names of keys that do not exist."""
    stranger = key("no-such-key")
    behaviours = [
        keyserver.hang,
        keyserver.endless,
        keyserver.redirect("http://127.0.0.1:1/"),
        keyserver.not_http,
        keyserver.refuse("200 OK"),
    ]

    async def story(gateway: GatewayProcess) -> None:
        remembered = first.token()
        assert (await ask(gateway, remembered)).status_code == 200
        for number, behave in enumerate(behaviours):
            asked = first.server.asked
            first.server.behave = behave

            async def is_asked(asked: int = asked, number: int = number) -> bool:
                strangers = [first.token(key=SigningKey("ES256", kid=f"x-{number}", private=stranger.private))] * 10
                for answer in await asyncio.gather(*(ask(gateway, token) for token in strangers)):
                    problem(answer, 401, "token_invalid")
                return first.server.asked > asked

            await eventually(is_asked, seconds=60)
            for token in (remembered, first.token()):
                assert (await ask(gateway, token)).status_code == 200
        status, body = await asyncio.to_thread(gateway.readiness)
        assert (status, body["dependencies"]["keys:first"]["status"]) == (200, "degraded")

    with deploy(kafka, tmp_path, first.table(), jwks={"cooldown_seconds": 0.5}).gateway() as gateway:
        asyncio.run(story(gateway))


def test_a_reload_asks_for_keys_and_what_was_verified_by_those_gone_is_refused(
    kafka: Kafka, tmp_path: Path, first: Idp
) -> None:
    async def story(gateway: GatewayProcess) -> None:
        token = first.token()
        for _ in range(3):
            assert (await ask(gateway, token)).status_code == 200
        replaced = key("first-2")
        first.publish(replaced)

        async def is_refused() -> bool:
            # One that comes within a second of the last fetch does not ask again.
            gateway.signal(signal.SIGHUP)
            await asyncio.sleep(0.3)
            return (await ask(gateway, token)).status_code == 401

        await eventually(is_refused, seconds=60)
        assert (await ask(gateway, first.token(key=replaced))).status_code == 200

    with deploy(kafka, tmp_path, first.table()).gateway() as gateway:
        asyncio.run(story(gateway))
        assert said(gateway, "reloaded")


def test_without_any_key_a_node_is_not_ready_and_becomes_so(kafka: Kafka, tmp_path: Path, first: Idp) -> None:
    first.server.behave = keyserver.hang
    deployment = deploy(kafka, tmp_path, first.table())
    gateway = GatewayProcess(deployment, "a")
    gateway.start(wait_ready=False)
    try:

        async def is_told() -> bool:
            status, body = await asyncio.to_thread(gateway.readiness)
            keys = body["dependencies"]["keys"]
            others = body["dependencies"]["kafka"]["status"]
            return (status, keys["status"], keys["required"], others) == (503, "down", True, "ok")

        async def is_ready() -> bool:
            return (await asyncio.to_thread(gateway.readiness))[0] == 200

        asyncio.run(eventually(is_told, seconds=60))
        first.publish(*first.issuer.keys)
        asyncio.run(eventually(is_ready, seconds=60))
        assert asyncio.run(ask(gateway, first.token())).status_code == 200
    finally:
        gateway.stop()


def test_check_asks_each_issuer_and_says_what_to_do(kafka: Kafka, tmp_path: Path, first: Idp, second: Idp) -> None:
    (tmp_path / "own").mkdir()
    certificate = make_certificate(tmp_path / "own", name="idp")
    nobody = f"http://127.0.0.1:{free_port()}/jwks"
    with KeyServer(certificate=certificate) as secure:
        good = json.dumps({"keys": [key("a").jwk(), key("b").jwk(use="enc")]}).encode()
        secure.publish(good)
        first.server.publish(good)
        tables = [
            first.table(name="plain"),
            first.table(name="trusted", issuer="i2", jwks_url=secure.url, jwks_ca_file=str(certificate[0])),
            first.table(name="untrusted", issuer="i3", jwks_url=secure.url),
            first.table(name="moved", issuer="i4", jwks_url=second.server.url),
            first.table(name="away", issuer="i5", jwks_url=nobody),
        ]
        second.server.behave = keyserver.redirect(first.server.url)
        deployment = deploy(kafka, tmp_path / "deployed", *tables)
        options = deployment.options("check")
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "check", *options], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "keys of" in line]
    assert f"ok     keys of plain: 1 from {first.server.url}" in lines
    assert "ok     keys of plain: passed over, keys[1] (kid 'b'): its use is 'enc', not 'sig'" in lines
    assert f"ok     keys of trusted: 1 from {secure.url}" in lines
    failed = {line.split()[3].rstrip(":"): line for line in lines if line.startswith("FAILED")}
    assert failed.keys() == {"untrusted", "moved", "away"}
    assert "jwks_ca_file names authorities of your own" in failed["untrusted"]
    assert "set jwks_url to the address it leads to" in failed["moved"]
    assert "cannot connect" in failed["away"]


def test_a_listener_that_never_accepts_delays_no_start_and_no_stop(kafka: Kafka, tmp_path: Path, first: Idp) -> None:
    with contextlib.closing(socket.socket()) as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(0)
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/jwks"
        dead = {"name": "dead", "issuer": "https://dead.example", "audience": AUDIENCE, "jwks_url": url}
        deployment = deploy(kafka, tmp_path, first.table(), dead, jwks={"timeout_seconds": 60})
        with deployment.gateway() as gateway:
            assert asyncio.run(ask(gateway, first.token())).status_code == 200
            gateway.signal(signal.SIGTERM)
            assert gateway.wait(seconds=50) == 0
