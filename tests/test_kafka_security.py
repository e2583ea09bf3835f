"""TLS, SASL and rights against a real broker behind locks: what opens, and what is said where it does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from confluent_kafka.admin import AclOperation

from gateway.clock import SystemClock
from gateway.errors import ConfigurationProblems
from gateway.kafka.cluster import ClusterSettings, KafkaCluster
from gateway.kafka.faults import AccessDenied, KafkaUnavailable, LoginRefused, NoToken, NotTrusted, TokenMissing
from gateway.kafka.oauth import TokenEndpoint, TokenSource
from gateway.kafka.offsets import Offsets
from gateway.kafka.reader import TopicReader
from gateway.metering.ledger import Ledger
from gateway.pem import PemFiles
from tests.conftest import or_left_out
from tests.parts import token_endpoint as endpoint_part
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.kafka_secured import AUDIENCE, ISSUER, PASSWORD, Authority, SecuredKafka, secured
from tests.parts.metering import new_database, total
from tests.parts.partner import Partner, problem
from tests.parts.ports import free_port
from tests.parts.sink import RecordingSink
from tests.parts.token_endpoint import CLIENT, SECRET

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def locked() -> Iterator[SecuredKafka]:
    with or_left_out(secured()) as broker:
        yield broker


@pytest.fixture
async def topic(locked: SecuredKafka) -> str:
    """A topic that ``reader`` may read, however it comes, with one record."""
    name = f"secured-{uuid.uuid4().hex}"
    await locked.create_topic(name)
    for user in ("reader", "CN=reader", CLIENT):
        await asyncio.to_thread(locked.allow, user, name)
    await locked.produce(name, [b"first"])
    return name


@pytest.fixture
def tokens() -> Iterator[endpoint_part.TokenEndpoint]:
    with endpoint_part.token_endpoint() as endpoint:
        yield endpoint


def by_token(locked: SecuredKafka, tokens: endpoint_part.TokenEndpoint, *, secret: str = SECRET) -> ClusterSettings:
    return ClusterSettings(
        locked.at("TOKEN"),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        token_endpoint=TokenEndpoint(tokens.url, CLIENT, secret, scope="kafka"),
    )


def by_password(locked: SecuredKafka, mechanism: str, *, user: str = "reader", word: str = PASSWORD) -> ClusterSettings:
    behind_tls = mechanism == "SCRAM-SHA-512"
    return ClusterSettings(
        locked.at("LOCKED" if behind_tls else "PASSWORD"),
        security_protocol="SASL_SSL" if behind_tls else "SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_username=user,
        sasl_password=word,
        tls=PemFiles(ca=str(locked.authority.file)),
    )


def by_certificate(locked: SecuredKafka, listener: str, *, ca: Path | None = None, shown: bool = True) -> Any:
    cert, key = locked.certificate if shown else (None, None)
    files = PemFiles(str(ca or locked.authority.file), cert and str(cert), key and str(key))
    return ClusterSettings(locked.at(listener), security_protocol="SSL", tls=files)


def token_for(locked: SecuredKafka, **claims: Any) -> dict[str, Any]:
    now = int(time.time())
    held = {"sub": CLIENT, "scope": "kafka", "iat": now, "exp": now + 300, "aud": AUDIENCE, "iss": ISSUER, **claims}
    signed = jwt.encode(held, locked.signing_key, algorithm="RS256", headers={"kid": "1"})
    return {"access_token": signed, "token_type": "Bearer", "expires_in": 300}


@pytest.fixture
async def made() -> AsyncIterator[list[KafkaCluster]]:
    clusters: list[KafkaCluster] = []
    yield clusters
    for cluster in clusters:
        await cluster.close()


async def read_first(settings: ClusterSettings, topic: str) -> bytes | None:
    """The topic's first record, read as the product reads it."""
    cluster = KafkaCluster(settings, clock=CLOCK)
    sink = RecordingSink()
    reader = TopicReader(
        cluster, Offsets(cluster), topic, sink=sink, prefill_records=10, prefill_bytes=1 << 20, clock=CLOCK
    )
    task = asyncio.create_task(reader.run())
    try:
        await eventually(lambda: sink.is_live or reader.status.state == "down")
        assert sink.is_live, reader.status.reason
        return sink.values()[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


async def refusal(settings: ClusterSettings, topic: str, made: list[KafkaCluster]) -> KafkaUnavailable:
    """What is said of a topic that cannot be had."""
    cluster = KafkaCluster(settings, clock=CLOCK)
    made.append(cluster)
    with pytest.raises(KafkaUnavailable) as refused:
        await Offsets(cluster).check_readable(topic)
    assert PASSWORD not in str(refused.value)
    assert refused.value.status == 503
    assert "127.0.0.1" not in refused.value.detail
    return refused.value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_opens(locked: SecuredKafka, topic: str, mechanism: str) -> None:
    assert await read_first(by_password(locked, mechanism), topic) == b"first"


@pytest.mark.parametrize("listener", ["TLS", "MUTUAL"])
async def test_tls_opens(locked: SecuredKafka, topic: str, listener: str) -> None:
    if listener == "TLS":
        await asyncio.to_thread(locked.allow, "ANONYMOUS", topic)
    assert await read_first(by_certificate(locked, listener, shown=listener == "MUTUAL"), topic) == b"first"


async def test_a_token_opens_and_one_is_enough_for_all_connections(
    locked: SecuredKafka, topic: str, tokens: endpoint_part.TokenEndpoint
) -> None:
    tokens.answer = lambda: token_for(locked)
    assert await read_first(by_token(locked, tokens), topic) == b"first"
    assert tokens.asked == [{"grant_type": ["client_credentials"], "scope": ["kafka"]}]


async def test_a_wrong_password_is_named(locked: SecuredKafka, topic: str, made: list[KafkaCluster]) -> None:
    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        said = await refusal(by_password(locked, mechanism, word="wrong-horse"), topic, made)
        assert isinstance(said, LoginRefused), said
        assert "correct kafka.sasl_username and sasl_password" in str(said)
        assert "wrong-horse" not in str(said)


async def test_a_mechanism_that_is_not_offered_is_named(
    locked: SecuredKafka, topic: str, made: list[KafkaCluster]
) -> None:
    settings = ClusterSettings(
        locked.at("TOKEN"),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="reader",
        sasl_password=PASSWORD,
    )
    said = await refusal(settings, topic, made)
    assert isinstance(said, LoginRefused)
    assert "do not offer kafka.sasl_mechanism" in str(said)


async def test_what_tls_lacks_is_named(
    locked: SecuredKafka, topic: str, made: list[KafkaCluster], tmp_path: Path
) -> None:
    foreign = Authority(tmp_path, "somebody else").file
    said = await refusal(by_certificate(locked, "TLS", ca=foreign), topic, made)
    assert isinstance(said, NotTrusted)
    assert "give its authority as kafka.ssl_cafile" in str(said)

    elsewhere = by_certificate(locked, "TLS")
    by_name = ClusterSettings(
        elsewhere.bootstrap_servers.replace("127.0.0.1", "localhost"), security_protocol="SSL", tls=elsewhere.tls
    )
    said = await refusal(by_name, topic, made)
    assert isinstance(said, NotTrusted)
    assert "certificate is for another name" in str(said)

    said = await refusal(by_certificate(locked, "MUTUAL", shown=False), topic, made)
    assert isinstance(said, NotTrusted), said
    assert "kafka.ssl_certfile" in str(said)

    plain = ClusterSettings(locked.bootstrap, security_protocol="SSL", tls=elsewhere.tls)
    said = await refusal(plain, topic, made)
    assert "kafka.security_protocol" in str(said)

    said = await refusal(ClusterSettings(locked.at("TLS")), topic, made)
    assert "kafka.security_protocol" in str(said)


async def test_a_topic_without_rights_is_named_and_others_are_read(
    locked: SecuredKafka, topic: str, made: list[KafkaCluster]
) -> None:
    closed = f"closed-{uuid.uuid4().hex}"
    await locked.create_topic(closed)
    settings = by_password(locked, "SCRAM-SHA-256")
    said = await refusal(settings, closed, made)
    assert isinstance(said, AccessDenied)
    assert f"reader may not read topic {closed}: give it READ and DESCRIBE" in str(said)
    # To look is allowed then, to fetch is not: an idle topic would seem well for ever.
    await asyncio.to_thread(locked.allow, "reader", closed, AclOperation.DESCRIBE)
    await eventually(lambda: describes(made[-1], closed))
    said = await refusal(settings, closed, made)
    assert isinstance(said, AccessDenied)
    sink = RecordingSink()
    reader = TopicReader(
        made[-1], Offsets(made[-1]), closed, sink=sink, prefill_records=0, prefill_bytes=1, clock=CLOCK
    )
    task = asyncio.create_task(reader.run())
    try:
        await eventually(lambda: reader.status.state == "down")
        assert "may not read" in reader.status.reason
        assert await read_first(settings, topic) == b"first"
        assert sink.names() == ["down"]
        await asyncio.to_thread(locked.allow, "reader", closed)
        await eventually(lambda: sink.is_live)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def describes(cluster: KafkaCluster, topic: str) -> bool:
    try:
        return bool(await Offsets(cluster).partitions(topic))
    except AccessDenied:
        return False


async def test_a_right_that_is_taken_while_reading_is_named(
    locked: SecuredKafka, topic: str, made: list[KafkaCluster]
) -> None:
    cluster = KafkaCluster(by_password(locked, "SCRAM-SHA-256"), clock=CLOCK)
    made.append(cluster)
    sink = RecordingSink()
    reader = TopicReader(cluster, Offsets(cluster), topic, sink=sink, prefill_records=0, prefill_bytes=1, clock=CLOCK)
    task = asyncio.create_task(reader.run())
    try:
        await eventually(lambda: sink.is_live)
        await asyncio.to_thread(locked.forbid, "reader", topic)
        await eventually(lambda: reader.status.state == "down")
        assert "may not read topic" in reader.status.reason
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("answer", "secret", "said"),
    [
        (500, SECRET, "it answers 500"),
        (307, SECRET, "it answers 307"),
        (dict, SECRET, "its answer holds no access_token"),
        (dict, "wrong", "it answers 401 invalid_client: correct sasl_oauth_client_id"),
    ],
)
async def test_an_endpoint_that_gives_no_token_is_named(
    locked: SecuredKafka,
    topic: str,
    made: list[KafkaCluster],
    tokens: endpoint_part.TokenEndpoint,
    answer: Any,
    secret: str,
    said: str,
) -> None:
    tokens.answer = answer
    found = await refusal(by_token(locked, tokens, secret=secret), topic, made)
    assert isinstance(found, TokenMissing)
    assert said in str(found)
    assert "kafka.sasl_oauth_token_url" in str(found)
    assert SECRET not in str(found)


async def test_a_token_that_the_broker_refuses_is_asked_for_anew(
    locked: SecuredKafka, topic: str, made: list[KafkaCluster], tokens: endpoint_part.TokenEndpoint
) -> None:
    answers = [token_for(locked, aud="another"), token_for(locked)]
    tokens.answer = lambda: answers.pop(0)
    said = await refusal(by_token(locked, tokens), topic, made)
    assert isinstance(said, LoginRefused)
    assert "sasl_oauth_" in str(said)
    assert await Offsets(made[-1]).check_readable(topic) == 1


async def test_tokens_are_renewed_before_their_end_and_shared_meanwhile(tokens: endpoint_part.TokenEndpoint) -> None:
    class Hands:
        def __init__(self) -> None:
            self.at = 0.0

        def monotonic(self) -> float:
            return self.at

        def now(self) -> float:
            return self.at

    clock = Hands()
    source = TokenSource(TokenEndpoint(tokens.url, CLIENT, SECRET), clock=clock)
    tokens.answer = lambda: {"access_token": f"t{len(tokens.asked)}", "expires_in": 100}
    assert await asyncio.gather(*(source.token() for _ in range(5))) == ["t1"] * 5
    clock.at = 79
    assert await source.token() == "t1"
    clock.at = 81
    assert await source.token() == "t2"
    tokens.answer = 503
    source.forget()
    with pytest.raises(NoToken):
        await source.token()
    tokens.answer = lambda: {"access_token": "back"}
    assert await source.token() == "back"


def test_files_of_tls_are_checked_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "not.pem").write_text("no PEM")
    cert, key = Authority(tmp_path, "x").issue("one")
    _, other = Authority(tmp_path, "x").issue("two")
    PemFiles(str(tmp_path / "ca.pem"), str(cert), str(key)).check(ca_setting="a", pair_settings="b")
    with pytest.raises(ConfigurationProblems) as refused:
        PemFiles(str(tmp_path / "not.pem"), str(cert), str(other)).check(
            ca_setting="kafka.clusters.eu.ssl_cafile", pair_settings="kafka.clusters.eu.ssl_certfile and ssl_keyfile"
        )
    assert len(refused.value.problems) == 2
    assert all(problem.startswith("kafka.clusters.eu.ssl_") for problem in refused.value.problems)


async def test_a_renewed_certificate_is_taken_without_a_restart(
    locked: SecuredKafka, topic: str, made: list[KafkaCluster], tmp_path: Path
) -> None:
    await asyncio.to_thread(locked.allow, "ANONYMOUS", topic)
    ca = tmp_path / "renewed.pem"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    ca.write_bytes(Authority(foreign, "somebody else").file.read_bytes())
    said = await refusal(by_certificate(locked, "TLS", ca=ca, shown=False), topic, made)
    assert isinstance(said, NotTrusted)
    ca.write_bytes(locked.authority.file.read_bytes())
    assert await Offsets(made[-1]).check_readable(topic) == 1


# ---- a gateway over several clusters ---------------------------------------------------------------------------------

AWAY = ("lost", "refused", "closed")


def on(cluster: str, document: dict[str, Any]) -> dict[str, Any]:
    """The contract with its topic on another cluster."""
    (channel,) = document["channels"].values()
    channel["servers"] = [{"$ref": f"#/servers/{cluster}"}]
    return document | {"servers": {cluster: {"host": "kafka.internal:9092", "protocol": "kafka-secure"}}}


def scram(locked: SecuredKafka, word: str = PASSWORD) -> dict[str, Any]:
    return {
        "bootstrap_servers": [locked.at("LOCKED")],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "reader",
        "sasl_password": word,
        "ssl_cafile": str(locked.authority.file),
    }


def check(deployment: Deployment, node: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """``gateway check``: the exit code, and what it says by name."""
    command = [sys.executable, "-m", "gateway", "check", *deployment.options(node), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["checks"]}


async def test_each_stream_comes_from_its_own_cluster_and_one_that_is_away_hurts_no_other(
    kafka: Kafka, locked: SecuredKafka, tmp_path: Path
) -> None:
    topic = f"shared-name-{uuid.uuid4().hex}"
    closed = f"closed-{uuid.uuid4().hex}"
    for broker, said in ((kafka, b'"main"'), (locked, b'"locked"')):
        await broker.create_topic(topic)
        await broker.produce(topic, [said])
    await locked.create_topic(closed)
    await asyncio.to_thread(locked.allow, "reader", topic)
    deployment = Deployment(
        tmp_path / "several",
        kafka.bootstrap,
        [
            contract("open", topic, partitions=1),
            on("locked", contract("vault", topic, partitions=1)),
            on("locked", contract("closed", closed, partitions=1)),
            on("gone", contract("lost", topic, partitions=1)),
            on("mistaken", contract("refused", topic, partitions=1)),
        ],
        settings={
            "kafka.clusters.locked": scram(locked),
            "kafka.clusters.gone": {"bootstrap_servers": [f"127.0.0.1:{free_port()}"]},
            "kafka.clusters.mistaken": scram(locked, "wrong-horse"),
            "stream": {"heartbeat_seconds": 1},
        },
    )
    node = GatewayProcess(deployment, "one")
    await asyncio.to_thread(node.start)
    try:
        partner = Partner(node.base_url, deployment.token())
        async with partner.open("sse", "open", from_="earliest") as stream:
            assert (await stream.records(1))[0].data["data"] == "main"
            # While the others wait for theirs and are refused, this one goes on.
            answers = await asyncio.gather(*(partner.get(f"/v1/streams/{name}/records") for name in AWAY))
            for answer in answers:
                members = problem(answer, 503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1
                assert not any(word in json.dumps(members) for word in (topic, "127.0.0.1", "reader", "wrong-horse"))
            await kafka.produce(topic, [b'"main again"'])
            assert (await stream.records(1))[0].data["data"] == "main again"
        (record,) = (await partner.pull("vault", from_="earliest"))["records"]
        assert record["data"] == "locked"

        status, body = node.readiness()
        assert status == 200
        assert body["status"] == "degraded"
        stands = {name: one["status"] for name, one in body["dependencies"].items() if name.startswith("kafka")}
        assert stands == {
            "kafka": "ok",
            "kafka:main": "ok",
            "kafka:locked": "ok",
            "kafka:gone": "down",
            "kafka:mistaken": "down",
        }
        assert "kafka.clusters.mistaken.sasl_username" in body["dependencies"]["kafka:mistaken"]["detail"]
        reasons = {one["stream"]: one["reason"] for one in body["readers"]}
        assert "may not read topic" in reasons["closed"]
        assert reasons["open"] == reasons["vault"] == ""
    finally:
        await asyncio.to_thread(node.stop)
    assert "may not read topic" in node.log()
    assert "wrong-horse" not in node.log()
    assert PASSWORD not in node.log()

    code, said_by_name = await asyncio.to_thread(check, deployment, "check")
    assert code == 1
    assert [said_by_name[f"kafka {name}"]["ok"] for name in ("main", "locked", "gone", "mistaken")] == [
        True,
        True,
        False,
        False,
    ]
    assert "correct kafka.clusters.mistaken.sasl_username" in said_by_name["kafka mistaken"]["details"][0]
    assert "give it READ and DESCRIBE" in said_by_name[f"topic {closed}"]["details"][0]


async def test_a_cluster_that_nobody_configured_is_told_at_the_start(kafka: Kafka, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "none", kafka.bootstrap, [on("mian", contract("lost", "t"))])
    with pytest.raises(RuntimeError, match=r"is no configured Kafka cluster, got 'mian'.*main"):
        await asyncio.to_thread(GatewayProcess(deployment, "one").start)


async def test_usage_waits_for_a_topic_that_the_gateway_may_not_make_and_says_who_makes_it_how(
    locked: SecuredKafka, topic: str, tmp_path: Path
) -> None:
    usage = f"{topic}.usage"
    await locked.produce(topic, [b"{}"])
    # Everything but the right to make it.
    rights = (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE)
    await asyncio.to_thread(locked.allow, "reader", usage, *rights)
    kafka = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "reader",
        "sasl_password": PASSWORD,
    }
    settings = {"metering": {"topic": usage}}
    deployment = Deployment(
        tmp_path / "d",
        locked.at("PASSWORD"),
        [contract("open", topic, partitions=1)],
        settings={**settings, "kafka": kafka},
    )

    with deployment.gateway() as node:
        partner = Partner(node.base_url, deployment.token())

        def standing() -> dict[str, Any]:
            status, body = node.readiness()
            assert status == 200, "reads go on"
            found: dict[str, Any] = body["dependencies"]["metering"]
            return found

        def counted() -> bool:
            database = new_database(tmp_path / "d" / "gateway.db")
            try:
                found = total(Ledger(database))
                return found.get("records", 0) + found.get("replayed_records", 0) == 1
            finally:
                database.close()

        async def says(words: str) -> bool:
            return words in (await asyncio.to_thread(standing)).get("detail", "")

        await eventually(lambda: says("gateway usage create-topic"), seconds=60)
        assert standing()["status"] == "degraded"
        assert "gateway_metering_healthy 0.0" in (await asyncio.to_thread(scrape, node.admin_url))
        (line,) = (json.loads(one) for one in node.log().splitlines() if "gateway usage create-topic" in one)
        assert line["level"] == "ERROR"
        assert usage in line["event"]
        assert [one["data"] for one in (await partner.pull("open", from_="earliest"))["records"]] == [{}]
        # Somebody who may does what it says.
        theirs = Deployment(
            tmp_path / "o", locked.bootstrap, [contract("open", topic, partitions=1)], settings=settings
        )
        command = [sys.executable, "-m", "gateway", "usage", "create-topic", *theirs.options("o")]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

        async def is_well() -> bool:
            return bool((await asyncio.to_thread(standing))["status"] == "ok")

        await eventually(is_well, seconds=60)
        # What was counted meanwhile waited.
        await eventually(lambda: asyncio.to_thread(counted), seconds=60)


def scrape(admin_url: str) -> str:
    with urllib.request.urlopen(f"{admin_url}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text
