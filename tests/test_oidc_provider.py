"""Tokens of an authorization server that others wrote: the gateway takes them, and follows its keys."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import or_left_out
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.oidc import AUDIENCE, CLIENT_ID, OidcProvider, ask_token, oidc_provider
from tests.parts.partner import Partner, problem
from tests.parts.tokens import decode

READERS = 3
AIRPORTS = ("ORD", "SEA", "LAX", "ORD")
ROTATIONS = (("one-RS256", "two-RS256"), ("two-RS256", "three-ES256"), ("three-ES256", "four-PS256"))
"""Which key follows which; an issuer may change its algorithm this way."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oidc")


@pytest.fixture(scope="module")
def provider(folder: Path) -> Iterator[OidcProvider]:
    with or_left_out(oidc_provider(folder, signs="one-RS256")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(kafka: Kafka, folder: Path, provider: OidcProvider) -> Iterator[GatewayProcess]:
    """One that believes the provider: a stream filtered by a claim, in it a record for each of the airports."""
    topic = f"oidc-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    asyncio.run(kafka.produce(topic, [b'{"origin":"%s"}' % one.encode() for one in AIRPORTS], partition=0))
    told = provider.discover()
    assert told["issuer"] == provider.issuer
    believed = {"name": "oidc", "issuer": told["issuer"], "audience": AUDIENCE, "jwks_url": told["jwks_uri"]}
    flights = contract(
        "flights",
        topic,
        partitions=1,
        payload={"type": "object", "properties": {"origin": {"type": "string"}}},
        filters={"origin": {"pointer": "/origin", "type": "string"}},
        row_filter={"field": "origin", "claim": "airport"},
    )
    deployment = Deployment(
        folder / "deployed",
        kafka.bootstrap,
        [flights],
        catalog(["flights"]),
        settings={"auth": {"issuers": [believed]}, "auth.jwks": {"cooldown_seconds": 0.1, "refresh_seconds": 0.3}},
    )
    with deployment.gateway() as running:
        yield running


def header_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(decode(token.partition(".")[0]))
    return found


async def test_its_tokens_open_reads_and_its_claims_choose_the_rows(
    gateway: GatewayProcess, provider: OidcProvider
) -> None:
    endpoint = provider.discover()["token_endpoint"]
    async with httpx.AsyncClient(trust_env=False) as client:
        token = await ask_token(client, endpoint)
        foreign = await ask_token(client, endpoint, resource="https://elsewhere.example")
    assert header_of(token)["typ"] == "at+jwt"
    claims = json.loads(decode(token.split(".")[1]))
    assert claims.keys() >= {"iss", "sub", "aud", "exp", "iat", "jti", "client_id"}, "RFC 9068 §2.2"
    assert claims["client_id"] == CLIENT_ID
    partner = Partner(gateway.base_url, token)
    page = await partner.pull("flights", from_="earliest", wait=10)
    expected = [one for one in AIRPORTS if one in claims["airport"]]
    assert [record["data"]["origin"] for record in page["records"]] == expected
    for protocol in ("sse", "ws", "ndjson"):
        async with partner.open(protocol, "flights", from_="earliest") as stream:
            heard = await stream.records(len(expected))
            assert [one.data["data"]["origin"] for one in heard] == expected
    problem(await Partner(gateway.base_url, foreign).get("/v1/streams"), 401, "token_invalid")


async def test_its_keys_rotate_under_load_and_no_request_fails(gateway: GatewayProcess, provider: OidcProvider) -> None:
    endpoint = provider.discover()["token_endpoint"]
    answers: list[tuple[str, int]] = []
    ended = asyncio.Event()

    async def ask_and_read() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            while not ended.is_set():
                token = await ask_token(client, endpoint)
                answer = await client.get(
                    f"{gateway.base_url}/v1/streams", headers={"Authorization": f"Bearer {token}"}, timeout=60
                )
                answers.append((header_of(token)["kid"], answer.status_code))

    async def is_taken(change: str, *, times: int) -> None:
        """The gateway, which looks by itself, has seen so many of these changes."""
        await eventually(lambda: gateway.log().count(f"keys of oidc changed: {change}") >= times, seconds=60)

    def signed_by(kid: str) -> int:
        return sum(1 for one, _ in answers if one == kid)

    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(ask_and_read())
        for number, (old, new) in enumerate(ROTATIONS, 1):
            await eventually(lambda old=old: signed_by(old) >= 5, seconds=60)  # type: ignore[misc]
            # As issuers do it: the next one is published, then it signs, then the old one goes.
            await asyncio.to_thread(provider.rotate, signs=old, publishes=[old, new])
            await is_taken("2 now, 1 new, 0 gone", times=number)
            await asyncio.to_thread(provider.rotate, signs=new, publishes=[old, new])
            await eventually(lambda new=new: signed_by(new) >= 5, seconds=60)  # type: ignore[misc]
            await asyncio.to_thread(provider.rotate, signs=new, publishes=[new])
            await is_taken("1 now, 0 new, 1 gone", times=number)
        ended.set()
    assert {status for _, status in answers} == {200}, answers
    assert {kid for kid, _ in answers} == {"one-RS256", *(new for _, new in ROTATIONS)}
