"""A whole day of a gateway under observation: what logs, metrics and traces show of it, and what none of them may show.

One real process at the lowest log level, with every protocol, replays, refusals, reloads, a dependency that goes away
and a drain. Everything it lets out for operators is kept, and the tests look at that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import websockets
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import or_left_out
from tests.parts import redis as redis_part
from tests.parts.collector import Collector, collector
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner
from tests.parts.postgres import PostgresServer
from tests.parts.redis import RedisServer
from tests.test_docs import calls, texts

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((ROOT / "docs" / "reference" / "logs.schema.json").read_text())
RECORDS = 600
RING_RECORDS = 40
PASSWORD = "p4ssw0rd-of-a-server"
CURSOR_KEY = "the-key-that-seals-cursors"
ADMIN_TOKEN = "the-token-of-an-operator"
PAYLOAD = "what-is-in-a-record"
COLLECTOR_KEY = "the-key-of-the-collector"
CALLERS_TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHERS_TRACE = "1bf7651916cd43dd8448eb211c80319c"


@dataclass
class Day:
    """What came out of the process, and what must not be in it."""

    log: str = ""
    metrics: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    collector: Collector = field(default_factory=Collector)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def reads(self, transport: str) -> list[dict[str, Any]]:
        return [line for line in self.events("access") if line.get("transport") == transport]

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, at the last scrape."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.metrics[-1])
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no sample of {name} {labels}"
        return sum(found)

    def keep(self, name: str, secret: str | None) -> None:
        assert secret is not None
        self.secrets[name] = secret


@pytest.fixture(scope="module")
def day(kafka: Kafka, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    directory = tmp_path_factory.mktemp("observed")
    topic = f"observed.{uuid.uuid4().hex[:8]}"
    day = Day()
    with collector() as spans, or_left_out(redis_part.server()) as cache:
        day.collector = spans
        with contextlib.closing(redis.Redis(port=cache.port)) as client:
            client.config_set("requirepass", PASSWORD)
        deployment = Deployment(
            directory / "deployment",
            kafka.bootstrap,
            [contract("things", topic), contract("raw", f"{topic}.raw", partitions=1)],
            _offer(),
            settings={
                "log": {"level": "debug"},
                "stream": {"ring_records": RING_RECORDS, "heartbeat_seconds": 0.5, "drain_seconds": 5},
                "redis": {"url": f"redis://:{PASSWORD}@127.0.0.1:{cache.port}/0"},
                "database": {"url": _with_password(postgres_server.create_database())},
                "cursor": {"keys": [CURSOR_KEY]},
                "admin": {"port": 0, "tokens": [ADMIN_TOKEN]},
                "telemetry": {
                    "otlp_endpoint": spans.base_url,
                    "otlp_headers": [f"Authorization: Bearer {COLLECTOR_KEY}"],
                    "sample_ratio": 1,
                    "trusted_callers": ["127.0.0.1"],
                },
                "metrics": {"tenants": 1},
            },
        )
        process = GatewayProcess(deployment, "a")
        try:
            asyncio.run(_live(day, deployment, process, kafka, topic, cache))
        finally:
            process.stop()
            day.log = process.log()
        yield day


def _offer() -> dict[str, Any]:
    """Two tenants with a plan of their own each."""
    offer = catalog(["things", "raw"])
    offer["plans"].append({**offer["plans"][0], "name": "small"})
    offer["tenants"][1]["entitlements"] = [{"product": "all", "plan": "small", "from": "2020-01-01"}]
    return offer


def _with_password(url: str) -> str:
    """The server trusts who comes over its own socket and asks for none; a client is configured with one anyway."""
    return re.sub(r"://(\w+):?@", rf"://\1:{PASSWORD}@", url)


async def _live(
    day: Day, deployment: Deployment, process: GatewayProcess, kafka: Kafka, topic: str, cache: RedisServer
) -> None:
    for name, secret in (("password", PASSWORD), ("cursor key", CURSOR_KEY), ("admin token", ADMIN_TOKEN)):
        day.keep(name, secret)
    day.keep("payload", PAYLOAD)
    day.keep("key of the collector", COLLECTOR_KEY)
    await kafka.create_topic(topic, 4)
    await kafka.create_topic(f"{topic}.raw", 1)
    values = [json.dumps({"n": n, "text": PAYLOAD}).encode() for n in range(RECORDS)]
    for partition in range(4):
        keys = [f"{PAYLOAD}-{n}".encode() for n in range(RECORDS // 4)]
        headers = [("trace", PAYLOAD.encode())]
        await kafka.produce(topic, values[partition::4], partition=partition, keys=keys, headers=headers)
    # No JSON: a gap for partners. What it holds is nobody's business.
    await kafka.produce(f"{topic}.raw", [f"{{{PAYLOAD}".encode(), b"{}"])
    await asyncio.to_thread(process.start)
    acme = Partner(process.base_url, deployment.token())
    globex = Partner(process.base_url, deployment.token("globex-app"))
    day.keep("token", acme.token)
    day.keep("token of another", globex.token)
    await _read(day, acme, globex)
    await _be_refused(day, acme, deployment)
    await _operate(day, deployment, process, cache)
    async with acme.sse("things"), acme.ws("things"), globex.ndjson("things"):
        await _scrape(day, process)
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0


async def _read(day: Day, acme: Partner, globex: Partner) -> None:
    for protocol in ("sse", "ws", "ndjson"):
        async with acme.open(protocol, "things", from_="earliest") as stream:
            await stream.records(RECORDS, seconds=60)
            day.keep(f"cursor of {protocol}", stream.last_cursor)
    page = await acme.as_(acme.token, traceparent=f"00-{CALLERS_TRACE}-b7ad6b7169203331-01").pull(
        "things", from_="earliest", limit=50
    )
    day.keep("cursor of a page", page["next_cursor"])
    await globex.pull("things", cursor=page["next_cursor"], limit=20)
    # Two at once are nobody's: which of them would be meant?
    headers = [("Authorization", f"Bearer {acme.token}")]
    headers += [("traceparent", f"00-{OTHERS_TRACE}-b7ad6b7169203331-01")] * 2
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
        assert (await client.get(acme.url("/v1/streams/things/records", limit=1, wait=0))).status_code == 200
    assert (await acme.pull("raw", from_="earliest"))["gaps"]
    assert (await acme.get("/v1/streams")).status_code == 200
    assert (await acme.get("/asyncapi.json")).status_code == 200


async def _be_refused(day: Day, acme: Partner, deployment: Deployment) -> None:
    expired = deployment.issuer.mint(claims={"client_id": "acme-web", "scope": "streams:read", "exp": 1, "iat": 0})
    day.keep("expired token", expired)
    forged = f"{acme.token}"[:-8] + "AAAAAAAA"
    day.keep("forged token", forged)
    opaque = "opaque-credential-of-somebody"
    day.keep("opaque token", opaque)
    for token in (expired, forged, opaque):
        assert (await acme.as_(token).get("/v1/streams/things/records")).status_code == 401
        assert (await acme.as_(None).get("/v1/streams/things/records", access_token=token)).status_code in (400, 401)
        with contextlib.suppress(websockets.exceptions.InvalidStatus):
            async with acme.as_(None).ws("things", subprotocols=("gateway.v1", f"bearer.{token}")):
                raise AssertionError("let in")
    cursor = day.secrets["cursor of sse"]
    assert (await acme.get("/v1/streams/raw/records", cursor=cursor)).status_code == 400
    assert (await acme.get("/v1/streams/things/sse", cursor=f"{cursor}x")).status_code == 400
    assert (await acme.as_(acme.token, Last_Event_ID=f"x{cursor}").get("/v1/streams/things/sse")).status_code == 400
    assert (await acme.get(f"/v1/streams/{PAYLOAD}/records")).status_code == 404
    assert (await acme.get(f"/{PAYLOAD}", token=acme.token)).status_code == 404


async def _operate(day: Day, deployment: Deployment, process: GatewayProcess, cache: RedisServer) -> None:
    def logged(name: str) -> Callable[[], bool]:
        return lambda: f'"event": "{name}"' in process.log()

    process.signal(signal.SIGHUP)
    await _until(logged("reloaded"))
    broken = deployment.directory / "asyncapi" / "streams" / "things.yaml"
    whole = broken.read_text()
    broken.write_text("asyncapi: 3.0.0\nchannels: nothing\n")
    process.signal(signal.SIGHUP)
    await _until(logged("reload_refused"))
    broken.write_text(whole)
    cache.kill()
    await _until(logged("dependency_away"))
    # What came before is to be seen; what comes while it is away is lost.
    codes = {"token_invalid", "invalid_cursor", "stream_not_found"}
    await _until(lambda: codes <= {span.attributes.get("gateway.code") for span in list(day.collector.spans)})
    day.collector.accepts = False
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) as client:
        await client.get(f"{process.base_url}/v1/streams")
        for path in ("/admin/sessions", "/admin/nothing"):
            await client.get(process.admin_url + path)
        for path in ("/readyz", "/livez"):
            day.health.append((await client.get(process.admin_url + path)).text)
    await _until(logged("telemetry_away"))
    day.collector.accepts = True


async def _scrape(day: Day, process: GatewayProcess) -> None:
    """Until the streams that were just opened show, and those from before do not."""
    async with httpx.AsyncClient(trust_env=False) as client:
        deadline = time.monotonic() + 30
        while True:
            day.metrics.append((await client.get(f"{process.admin_url}/metrics")).text)
            if day.sample("gateway_open_streams") == 3 and day.sample("gateway_replays_running") == 0:
                return
            assert time.monotonic() < deadline, day.metrics[-1]
            await asyncio.sleep(0.05)


async def _until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# ---- nothing secret ------------------------------------------------------------------------------------------------


def parts_of(secret: str) -> set[str]:
    """The secret, and what of it would do harm alone: a token's claims and signature, a cursor's inside."""
    return {secret, *(part for part in secret.split(".") if len(part) > 30)}


def test_no_secret_is_in_any_log_line(day: Day) -> None:
    assert len(day.lines) > 30
    assert {"access", "client_gone"} & {line["event"] for line in day.lines if line["level"] == "DEBUG"}
    _assert_none(day, day.log)


def test_no_secret_is_in_metrics_or_health(day: Day) -> None:
    assert "gateway_opens_total" in day.metrics[-1]
    assert '"redis"' in day.health[0]
    _assert_none(day, *day.metrics, *day.health)


def test_no_secret_is_in_any_span(day: Day) -> None:
    assert len(day.collector.spans) > 10
    _assert_none(day, *(body.decode("latin-1") for body in day.collector.bodies))


def _assert_none(day: Day, *texts: str) -> None:
    assert len(day.secrets) >= 13
    shown = [name for name, secret in day.secrets.items() for part in parts_of(secret) if part in "\n".join(texts)]
    assert not shown


def test_no_secret_is_in_what_a_process_says_that_cannot_come_up(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'''
[kafka]
bootstrap_servers = ["127.0.0.1:9"]
security_protocol = "SASL_PLAINTEXT"
sasl_mechanism = "PLAIN"
sasl_username = "gateway"
sasl_password = "{PASSWORD}"
[redis]
url = "redis://:{PASSWORD}@127.0.0.1:9/0"
[database]
url = "postgresql+psycopg://gateway:{PASSWORD}@127.0.0.1:9/gateway"
start_seconds = 0
[cursor]
keys = ["{CURSOR_KEY}"]
[admin]
tokens = ["{ADMIN_TOKEN}"]
[contracts]
dir = "{ROOT / "asyncapi"}"
[data]
dir = "{tmp_path / "data"}"
[log]
level = "debug"
''',
        encoding="utf-8",
    )
    for command in ("serve", "check"):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "--debug", command, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "database" in said
        assert not [secret for secret in (PASSWORD, CURSOR_KEY, ADMIN_TOKEN) if secret in said], said


# ---- logs ----------------------------------------------------------------------------------------------------------


def test_every_line_is_as_the_schema_says(day: Day) -> None:
    validator = Draft202012Validator(SCHEMA)
    wrong = [(line, [error.message for error in validator.iter_errors(line)]) for line in day.lines]
    assert not [one for one in wrong if one[1]]
    said = {line["event"] for line in day.lines}
    expected = {"serving", "access", "reloaded", "reload_refused", "dependency_away", "telemetry_away", "draining"}
    assert expected | {"stopped"} <= said


def test_the_schema_knows_every_event_and_each_of_its_members() -> None:
    documented: dict[str, Any] = SCHEMA["$defs"]
    logged: dict[str, set[str]] = {}
    for call in calls(name="event"):
        for name in texts(call.args[2:3]):
            members = {keyword.arg for keyword in call.keywords if keyword.arg not in (None, "exception")}
            logged.setdefault(name, set()).update(str(member) for member in members)
    assert logged.keys() == documented.keys() - {"sentence"}
    for name, members in logged.items():
        assert members <= documented[name]["properties"].keys(), name


def test_the_schema_refuses_what_it_does_not_know() -> None:
    validator = Draft202012Validator(SCHEMA)
    line = {"time": "2026-11-22T10:00:00.123Z", "level": "INFO", "logger": "gateway.app", "event": "stopped"}
    assert validator.is_valid(line)
    assert validator.is_valid({**line, "event": "broker 7 is away", "logger": "aiokafka"})
    for wrong in ({"cursor": "x"}, {"event": "not_documented"}, {"level": "LOUD"}, {"time": "now"}):
        assert not validator.is_valid({**line, **wrong}), wrong
    assert not validator.is_valid({name: value for name, value in line.items() if name != "logger"})


def test_a_stream_is_one_line_at_its_end_that_says_who_read_what_and_why_it_ended(day: Day) -> None:
    for transport in ("sse", "ws", "ndjson"):
        finished = [line for line in day.reads(transport) if line["status"] in (101, 200)]
        assert len(finished) == 2, transport
        whole, drained = sorted(finished, key=lambda line: -int(line["records"]))
        assert whole["stream"] == "things"
        assert (whole["tenant"], whole["plan"], whole["client_id"]) == ("acme", "open", "acme-web")
        assert (whole["records"], whole["close_reason"]) == (RECORDS, "client_gone")
        assert whole["bytes"] > RECORDS * len(PAYLOAD)
        assert whole["duration_ms"] > 0
        assert drained["close_reason"] == "draining"
        assert whole["session"] != drained["session"]
    pages = [line for line in day.reads("pull") if line["status"] == 200]
    assert [line["records"] for line in pages[:2]] == [50, 20]
    assert pages[1]["tenant"] == "globex"


def test_a_refusal_is_a_line_that_names_no_stream_of_the_clients_invention(day: Day) -> None:
    refused = [line for line in day.events("access") if line.get("code") == "token_invalid"]
    assert {line["reason"] for line in refused} == {"signature", "not_three_parts", "not_base64url"}
    assert [line for line in day.events("access") if line.get("code") == "token_expired"]
    (unknown,) = [line for line in day.events("access") if line.get("code") == "stream_not_found"]
    assert "stream" not in unknown


def test_nothing_is_logged_for_a_fetch_or_a_record(day: Day) -> None:
    assert len(day.lines) < 120
    assert len(day.events("dependency_away")) == 1
    assert len(day.events("telemetry_away")) == 1


# ---- metrics -------------------------------------------------------------------------------------------------------


def test_deliveries_are_counted_by_stream_protocol_and_plan(day: Day) -> None:
    for protocol in ("sse", "ws", "ndjson"):
        kind = {"stream": "things", "protocol": protocol, "plan": "open"}
        assert day.sample("gateway_delivered_records_total", **kind) == RECORDS
        assert day.sample("gateway_delivered_bytes_total", **kind) > RECORDS * len(PAYLOAD)
    assert day.sample("gateway_delivered_records_total", protocol="pull", plan="small") == 20
    assert day.sample("gateway_open_streams", protocol="ndjson", plan="small") == 1
    assert day.sample("gateway_open_streams", protocol="sse", plan="open") == 1


def test_tenants_beyond_the_largest_are_others(day: Day) -> None:
    assert day.sample("gateway_tenant_open_streams", tenant="acme") == 2
    assert day.sample("gateway_tenant_open_streams", tenant="other") == 1
    assert day.sample("gateway_tenant_delivered_records_total", tenant="other") == 20
    assert "globex" not in day.metrics[-1]


def test_opens_closes_and_replays_are_counted(day: Day) -> None:
    assert day.sample("gateway_opens_total", stream="things", protocol="sse", outcome="ok") == 2
    assert day.sample("gateway_opens_total", outcome="invalid_cursor") >= 3
    assert day.sample("gateway_opens_total", stream="unknown", outcome="stream_not_found") == 1
    assert day.sample("gateway_closes_total", stream="things", reason="client_gone") == 3
    assert day.sample("gateway_replays_total", stream="things") >= 4
    # Readers who are near each other share what is read for them.
    assert day.sample("gateway_replay_records_total", stream="things") >= RECORDS - RING_RECORDS
    assert day.sample("gateway_replay_slices_waiting", cluster="main") == 0


def test_the_inside_can_be_seen(day: Day) -> None:
    (topic,) = {
        sample.labels["topic"]
        for family in text_string_to_metric_families(day.metrics[-1])
        for sample in family.samples
        if sample.name == "gateway_stream_info" and sample.labels["stream"] == "things"
    }
    assert day.sample("gateway_reader_state", topic=topic, state="live") == 1
    assert day.sample("gateway_reader_last_fetch_age_seconds", topic=topic) < 30
    assert day.sample("gateway_reader_lag_records", topic=topic) == 0
    assert day.sample("gateway_topic_head_age_seconds", topic=topic) > 0
    assert day.sample("gateway_fetched_records_total", topic=topic) >= RING_RECORDS
    assert 0 < day.sample("gateway_log_records", topic=topic) <= day.sample("gateway_log_limit_records")
    assert 0 < day.sample("gateway_memory_bytes") < day.sample("gateway_memory_limit_bytes") == 1 << 30
    assert day.sample("gateway_pump_turn_seconds_count") > 0
    assert day.sample("gateway_loop_lag_seconds_count") > 0
    assert day.sample("gateway_sockets", listener="http") >= 3
    assert day.sample("gateway_dependency_state", dependency="redis", state="down") == 1
    assert day.sample("gateway_dependency_state", dependency="kafka", state="ok") == 1
    assert day.sample("gateway_reloads_total", outcome="ok") == 1
    assert day.sample("gateway_reloads_total", outcome="refused") == 1
    assert day.sample("gateway_ready") == 1
    assert day.sample("gateway_draining") == 0
    assert day.sample("process_open_fds") > 0
    assert day.sample("gateway_spans_total", outcome="exported") > 0


# ---- traces --------------------------------------------------------------------------------------------------------


def test_a_connect_is_a_span_that_ends_when_the_stream_flows(day: Day) -> None:
    opened = [span for span in day.collector.named("connect") if "gateway.session" in span.attributes]
    assert {span.attributes["gateway.transport"] for span in opened} == {"sse", "ws", "ndjson"}
    sessions = {line["session"]: line for line in day.events("access") if "session" in line}
    for span in opened:
        line = sessions[str(span.attributes["gateway.session"])]
        assert line["trace_id"] == span.trace_id
        assert line["correlation_id"] == span.attributes["gateway.correlation_id"]
        assert span.seconds * 1000 <= line["duration_ms"]
        assert span.kind == 2
        assert (span.attributes["gateway.stream"], span.attributes["gateway.tenant"]) in {
            ("things", "acme"),
            ("things", "globex"),
        }
        assert span.resource["service.name"] == "streaming-gateway"


def test_a_replay_is_a_part_of_the_read_it_is_for(day: Day) -> None:
    parents = {span.span_id: span for span in day.collector.spans}
    replays = day.collector.named("replay")
    assert len(replays) >= 4
    for span in replays:
        parent = parents[span.parent_id]
        assert parent.name in ("connect", "pull")
        assert parent.trace_id == span.trace_id
    whole = [span for span in replays if parents[span.parent_id].name == "connect"]
    assert sum(int(span.attributes["gateway.records"]) for span in whole) >= RECORDS - 2 * RING_RECORDS


def test_a_pull_goes_on_in_its_callers_trace_if_there_is_one_and_it_is_trusted(day: Day) -> None:
    (span,) = [span for span in day.collector.named("pull") if span.trace_id == CALLERS_TRACE]
    assert span.parent_id == "b7ad6b7169203331"
    assert not [span for span in day.collector.spans if span.trace_id == OTHERS_TRACE]


def test_a_refused_read_is_a_span_with_its_code(day: Day) -> None:
    reads = [*day.collector.named("pull"), *day.collector.named("connect")]
    codes = {span.attributes.get("gateway.code") for span in reads}
    assert {"token_invalid", "invalid_cursor", "stream_not_found"} <= codes


def test_spans_say_nothing_but_what_is_allowed(day: Day) -> None:
    allowed = {
        f"gateway.{name}" for name in ("stream", "transport", "tenant", "plan", "client_id", "issuer", "session")
    }
    allowed |= {"gateway.code", "gateway.records", "gateway.correlation_id", "http.route", "http.response.status_code"}
    names = {name for span in day.collector.spans for name in span.attributes}
    assert names <= allowed
    assert {"gateway.tenant", "gateway.records", "http.route"} <= names


def test_the_collector_gets_its_credentials_and_the_right_path(day: Day) -> None:
    assert day.collector.paths == {"/v1/traces"}
    assert {headers["authorization"] for headers in day.collector.headers} == {f"Bearer {COLLECTOR_KEY}"}
