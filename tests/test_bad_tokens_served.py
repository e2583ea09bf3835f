"""Every bad token of the corpus at a real gateway, over each kind of transport: none opens it, none breaks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway.auth.keys import KeySet
from gateway.auth.tokens import TokenVerifier
from gateway.clock import ManualClock
from gateway.errors import TokenExpired, TokenInvalid
from tests.parts.bad_tokens import BadToken, bad_tokens
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.token_corpus import ALGORITHMS, LEEWAY_SECONDS, MAX_LIFETIME_SECONDS, Corpus

AT_ONCE = 8
STREAM = "/v1/streams/numbers"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CLOSE = "Connection: close\r\n"
DOORS = {"sse": ("/sse", CLOSE), "ws": ("/ws", UPGRADE), "pull": ("/records", CLOSE)}
REFUSED = frozenset({400, 401, 408, 414, 431})


@dataclass
class House:
    """A gateway that believes the corpus's issuer."""

    corpus: Corpus
    gateway: GatewayProcess


@dataclass(frozen=True)
class Answer:
    """``status`` is 0 where the connection was cut without one."""

    status: int
    body: bytes


@pytest.fixture(scope="module")
def house(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    # It stands still, so that all tokens are of one moment, which is not long ago.
    corpus = Corpus(clock=ManualClock(now=time.time()))
    directory = tmp_path_factory.mktemp("bad-tokens")
    topic = f"bad-tokens-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    accepted = corpus.issuer
    issuer = {
        "name": accepted.name,
        "issuer": accepted.issuer,
        "audience": accepted.audience,
        "jwks_file": str(directory / "corpus.json"),
        "algorithms": list(ALGORITHMS),
    }
    auth = {
        "issuers": [issuer],
        "max_token_lifetime_seconds": MAX_LIFETIME_SECONDS,
        "leeway_seconds": LEEWAY_SECONDS,
    }
    (directory / "corpus.json").write_bytes(corpus.jwks)
    everything = catalog(["numbers"])
    clients = [{"client_id": name, "title": name} for name in ("acme-batch", "acme-web")]
    everything["tenants"][0]["applications"] = clients
    contracts = [contract("numbers", topic, partitions=1, scopes=[])]
    deployment = Deployment(directory, kafka.bootstrap, contracts, everything, settings={"auth": auth})
    with deployment.gateway() as gateway:
        yield House(corpus, gateway)


def lasting(corpus: Corpus) -> list[BadToken]:
    """Those that stay bad: not those a second ahead of the leeway, nor a good one between blanks, which HTTP trims."""
    fleeting = tuple(f" {ahead} s ahead" for ahead in (LEEWAY_SECONDS + 0.001, LEEWAY_SECONDS + 1))
    keys = KeySet.parse(corpus.jwks, algorithms=ALGORITHMS)
    verifier = TokenVerifier([corpus.issuer.settings(keys=keys, algorithms=ALGORITHMS)], clock=corpus.issuer.clock)

    def is_bad(token: str) -> bool:
        with contextlib.suppress(TokenInvalid, TokenExpired):
            return not verifier.verify(token.strip(" \t\r\n"))
        return True

    return [bad for bad in bad_tokens(corpus) if not bad.name.endswith(fleeting) and is_bad(bad.token)]


async def knock(gateway: GatewayProcess, token: str, door: str, *, query: str = "") -> Answer:
    """One request as it stands, whatever is in the token."""
    suffix, lines = DOORS[door]
    _, _, port = gateway.base_url.rpartition(":")
    head = f"GET {STREAM}{suffix}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}Authorization: Bearer "
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        try:
            writer.write(head.encode() + token.encode("utf-8", "surrogatepass") + b"\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ")[1])
            length = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].partition(b":")[2])) if length and status != 200 else b""
        except (ConnectionError, asyncio.IncompleteReadError):
            return Answer(0, b"")
        finally:
            # An abort: an open stream would otherwise be waited for.
            writer.transport.abort()
    return Answer(status, body)


@pytest.mark.parametrize("door", DOORS)
async def test_good_tokens_open_the_door(house: House, door: str) -> None:
    """So that a gateway that refuses everybody is not taken for a safe one."""
    for name, token in house.corpus.good_tokens().items():
        client = await knock(house.gateway, token, door)
        # One of them has another subject and application than the catalog knows; all are good to the verifier.
        assert client.status == (101 if door == "ws" else 200), (name, client)


@pytest.mark.parametrize("door", DOORS)
async def test_no_bad_token_opens_it_or_breaks_anything(house: House, door: str) -> None:
    tokens = lasting(house.corpus)
    assert len({bad.token for bad in tokens}) >= 1000
    begun = len(house.gateway.log())
    waiting = list(tokens)
    answers: dict[str, Answer] = {}

    async def knock_on() -> None:
        while waiting:
            bad = waiting.pop()
            answers[bad.name] = await knock(house.gateway, bad.token, door)

    await asyncio.gather(*(knock_on() for _ in range(AT_ONCE)))
    statuses = Counter(answer.status for answer in answers.values())
    odd = [name for name, answer in answers.items() if answer.status not in REFUSED | {0}]
    assert odd == [], statuses
    # Cut without an answer is for what is no HTTP any more; a refusal is what nearly all of them hear.
    assert statuses[401] >= 1000, statuses
    assert statuses[0] <= 30, statuses
    told: dict[str, set[str]] = {}
    for answer in answers.values():
        if answer.status == 401:
            members = json.loads(answer.body)
            del members["correlation_id"]
            told.setdefault(members["code"], set()).add(json.dumps(members, sort_keys=True))
    assert set(told) <= {"token_invalid", "token_expired", "token_missing"}
    assert {code: len(bodies) for code, bodies in told.items()} == dict.fromkeys(told, 1)
    good = house.corpus.good_tokens()["no scope"]
    assert (await knock(house.gateway, good, door)).status in (101, 200)
    check_log(house.gateway.log()[begun:], tokens)


def check_log(log: str, tokens: list[BadToken]) -> None:
    assert '"request_failed"' not in log
    assert '"level": "ERROR"' not in log
    for bad in tokens:
        for part in bad.token.split("."):
            # Shorter ones are words that a log may have for other reasons.
            assert len(part) < 16 or part[:200] not in log, bad.name


async def test_the_reasons_are_counted_and_bounded(house: House) -> None:
    def scraped() -> set[str]:
        with urllib.request.urlopen(f"{house.gateway.admin_url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {line for line in lines if line.startswith("gateway_tokens_refused_total{")}

    await knock(house.gateway, "a.b.c", "pull")
    found = await asyncio.to_thread(scraped)
    assert 1 <= len(found) < 100


async def test_a_token_in_the_query_opens_nothing(house: House) -> None:
    token = house.corpus.good_tokens()["no scope"]
    for name in ("access_token", "token", "jwt"):
        assert (await knock(house.gateway, "a.b.c", "pull", query=f"?{name}={token}")).status in (400, 401)
    assert token not in house.gateway.log()
