"""Metrics: plain counts come out as Prometheus reads them, and every name is documented."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.counters import UNKNOWN, Counters, Distribution, Total
from gateway.observability.health import Check, Health, Level, Status
from gateway.observability.metrics import Metrics
from gateway.observability.tenants import TenantLabels
from gateway.status import (
    EngineStatus,
    MemoryStatus,
    MeteringStatus,
    ReplayStatus,
    StreamPlace,
    TopicStatus,
    UpkeepStatus,
)

DOCUMENT = Path(__file__).parent.parent / "docs/reference/metrics.md"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def labels_of(metrics: Metrics, name: str, *, by: str = "tenant") -> dict[str, float]:
    """The samples of a metric by the value of one label."""
    return {dict(labels)[by]: number for (sample, labels), number in samples(metrics).items() if sample == name}


def filled() -> Metrics:
    """A sample in every family, with every label."""
    counters = Counters()
    counters.begin_read("flights", protocol="sse", plan="gold", tenant="acme")
    counters.stream("flights")
    counters.topic("main", "flights.v1")
    counters.count_open("flights", protocol="sse")
    counters.count_close("flights", protocol="ws", reason="draining")
    counters.count_request("/v1/streams", method="GET", status=200)
    counters.count_refused_token("expired")
    counters.count_limited("connections", plan="free")
    counters.key_fetches["main", "ok"] += 1
    counters.tokens_issued["issued"] += 1
    engine = EngineStatus(
        streams=(StreamPlace("flights", "1.0.0", "published", "main", "flights.v1"),),
        topics=(TopicStatus("main", "flights.v1", "live", age_seconds=0.5, head_age_seconds=1.5, lag_records=2),),
        replays=(ReplayStatus("main", 1, 2),),
        memory=MemoryStatus(),
        sockets={"http": 3},
        pump_turns=Distribution((0.001, 0.01)),
        catalog_revision=4,
        spans={"exported": 5, "dropped": 0},
    )
    health = Health([Check("kafka", required=True, status=lambda: Status("ok"))])
    return Metrics(
        counters,
        version="1.2.3",
        engine=lambda: engine,
        health=health,
        metering=lambda: MeteringStatus(unpublished_seconds=0.5, lag=3),
        upkeep=lambda: UpkeepStatus(drifts=0),
    )


def test_counts_show_at_the_next_scrape() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1.2.3")
    tally = counters.begin_read("flights", protocol="sse", plan="gold", tenant="acme")
    tally.records += 3
    tally.bytes += 720
    kind = {"stream": "flights", "protocol": "sse", "plan": "gold"}
    assert value(metrics, "gateway_delivered_records_total", **kind) == 3
    assert value(metrics, "gateway_delivered_bytes_total", **kind) == 720
    assert value(metrics, "gateway_open_streams", **kind) == 1
    tally.records += 1
    assert value(metrics, "gateway_delivered_records_total", **kind) == 4


def test_what_ended_reads_gave_stays_counted_and_is_not_counted_twice() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1.2.3")
    kind = {"stream": "flights", "protocol": "ws", "plan": "gold"}
    for records in (2, 5):
        tally = counters.begin_read("flights", protocol="ws", plan="gold", tenant="acme")
        tally.records += records
        counters.end_read(tally)
        counters.end_read(tally)
    going_on = counters.begin_read("flights", protocol="ws", plan="gold", tenant="acme")
    going_on.records += 10
    assert value(metrics, "gateway_delivered_records_total", **kind) == 17
    assert value(metrics, "gateway_open_streams", **kind) == 1
    assert value(metrics, "gateway_tenant_delivered_records_total", tenant="acme") == 17


def test_the_largest_tenants_have_a_label_and_the_others_share_one() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1", tenants=2)
    for number, size in enumerate((100, 300, 200, 50)):
        tally = counters.begin_read("flights", protocol="sse", plan="gold", tenant=f"t{number}")
        tally.bytes += size
    shown = labels_of(metrics, "gateway_tenant_delivered_bytes_total")
    assert shown == {"t1": 300, "t2": 200, "other": 150}
    assert labels_of(metrics, "gateway_tenant_open_streams") == {"t1": 1, "t2": 1, "other": 2}


def test_without_labels_for_tenants_all_of_them_are_others() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1", tenants=0)
    counters.begin_read("flights", protocol="sse", plan="gold", tenant="acme").records += 3
    assert labels_of(metrics, "gateway_tenant_delivered_records_total") == {"other": 3}


def test_a_tenant_named_like_the_others_is_one_of_them() -> None:
    totals = {"other": Total(), "acme": Total()}
    totals["other"].add(5, 500)
    assert {label: total.records for label, total in TenantLabels(5).of(totals)} == {"acme": 0, "other": 5}


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 100)), max_size=12), st.integers(0, 4))
def test_no_tenants_counter_goes_down_and_together_they_are_the_whole(rounds: list[dict[str, int]], limit: int) -> None:
    totals: dict[str, Total] = {}
    labels = TenantLabels(limit)
    highest: dict[str, int] = {}
    given_away: Counter[str] = Counter()
    for given_now in rounds:
        for tenant, size in given_now.items():
            totals.setdefault(tenant, Total()).add(size, size)
        shown = {label: total.bytes for label, total in labels.of(totals)}
        assert len(shown) <= limit + 1
        for label, size in shown.items():
            assert size >= highest.get(label, 0), "a counter went down"
            given_away[label] += size - highest.get(label, 0)
            highest[label] = size
    assert sum(given_away.values()) == sum(total.bytes for total in totals.values())


def test_a_streams_and_a_topics_counts_are_one_object() -> None:
    counters = Counters()
    assert counters.stream("flights") is counters.stream("flights")
    assert counters.topic("main", "t") is counters.topic("main", "t")
    counters.stream("flights").replayed_records += 9
    counters.topic("main", "t").rebuilds += 2
    metrics = Metrics(counters, version="1")
    assert value(metrics, "gateway_replay_records_total", stream="flights") == 9
    assert value(metrics, "gateway_reader_rebuilds_total", cluster="main", topic="t") == 2


def test_every_kind_of_count_has_its_labels() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1.2.3")
    counters.count_open("flights", protocol="sse")
    counters.count_open("flights", protocol="sse")
    counters.count_open(None, protocol="pull", outcome="stream_not_found")
    counters.count_close("flights", protocol="sse", reason="draining")
    counters.count_close("flights", protocol="sse")
    counters.count_request("/v1/streams/{stream}", method="GET", status=404)
    counters.count_refused_token("expired")
    counters.count_reload("refused")
    closes = {"stream": "flights", "protocol": "sse"}
    assert value(metrics, "gateway_opens_total", stream="flights", protocol="sse", outcome="ok") == 2
    assert value(metrics, "gateway_opens_total", stream=UNKNOWN, protocol="pull", outcome="stream_not_found") == 1
    assert value(metrics, "gateway_closes_total", reason="draining", **closes) == 1
    assert value(metrics, "gateway_closes_total", reason="client_gone", **closes) == 1
    assert value(metrics, "gateway_requests_total", route="/v1/streams/{stream}", method="GET", status="404") == 1
    assert value(metrics, "gateway_tokens_refused_total", reason="expired") == 1
    assert value(metrics, "gateway_reloads_total", outcome="refused") == 1
    assert value(metrics, "gateway_reloads_total", outcome="ok") == 0


def test_the_engine_is_asked_at_the_scrape_and_what_is_unknown_is_left_out() -> None:
    states = [TopicStatus("main", "t", "starting")]
    metrics = Metrics(Counters(), version="1", engine=lambda: EngineStatus(topics=tuple(states)))
    topic = {"cluster": "main", "topic": "t"}
    assert value(metrics, "gateway_reader_state", state="starting", **topic) == 1
    assert value(metrics, "gateway_reader_state", state="live", **topic) == 0
    assert labels_of(metrics, "gateway_topic_head_age_seconds", by="topic") == {}
    states[0] = TopicStatus(
        "main",
        "t",
        "live",
        age_seconds=0.5,
        head_age_seconds=1.5,
        lag_records=4,
        readers=8,
        log_records=5,
        log_bytes=6,
        evicted_records=9,
        views=2,
        view_bytes=7,
        replay_bytes=10,
    )
    assert value(metrics, "gateway_reader_state", state="live", **topic) == 1
    assert value(metrics, "gateway_reader_state", state="starting", **topic) == 0
    assert value(metrics, "gateway_reader_last_fetch_age_seconds", **topic) == 0.5
    assert value(metrics, "gateway_topic_head_age_seconds", **topic) == 1.5
    assert value(metrics, "gateway_reader_lag_records", **topic) == 4
    assert value(metrics, "gateway_topic_users", **topic) == 8
    assert value(metrics, "gateway_log_records", **topic) == 5
    assert value(metrics, "gateway_log_bytes", **topic) == 6
    assert value(metrics, "gateway_log_evicted_records_total", **topic) == 9
    assert value(metrics, "gateway_views", **topic) == 2
    assert value(metrics, "gateway_view_bytes", **topic) == 7
    assert value(metrics, "gateway_replay_bytes", **topic) == 10


def test_health_is_a_number_too() -> None:
    level: list[Level] = ["ok"]
    health = Health([Check("kafka", required=True, status=lambda: Status(level[0]))])
    metrics = Metrics(Counters(), version="1", health=health)
    kafka = {"dependency": "kafka", "required": "true"}
    assert value(metrics, "gateway_ready") == 1
    assert value(metrics, "gateway_dependency_state", state="ok", **kafka) == 1
    level[0] = "down"
    assert value(metrics, "gateway_ready") == 0
    assert value(metrics, "gateway_dependency_state", state="ok", **kafka) == 0
    assert value(metrics, "gateway_dependency_state", state="down", **kafka) == 1
    assert value(metrics, "gateway_draining") == 0
    health.drain()
    assert value(metrics, "gateway_draining") == 1


def test_a_distribution_shows_as_a_histogram_whose_bounds_are_inclusive() -> None:
    turns = Distribution((0.001, 0.01))
    for seconds in (0.0005, 0.001, 0.002, 5.0):
        turns.add(seconds)
    metrics = Metrics(Counters(), version="1", engine=lambda: EngineStatus(pump_turns=turns))
    assert value(metrics, "gateway_pump_turn_seconds_bucket", le="0.001") == 2
    assert value(metrics, "gateway_pump_turn_seconds_bucket", le="0.01") == 3
    assert value(metrics, "gateway_pump_turn_seconds_bucket", le="+Inf") == 4
    assert value(metrics, "gateway_pump_turn_seconds_count") == 4
    assert value(metrics, "gateway_pump_turn_seconds_sum") == pytest.approx(5.0035)


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in filled().registry.collect():
        assert re.fullmatch(r"(gateway|process)(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith(".") or family.name.startswith("process_"), family.name
        # Base units only, and a unit is the end of the name.
        assert not re.search(r"_(ms|millis|milliseconds|minutes|kb|mb|kilobytes|megabytes)(_|$)", family.name)
        assert "_total" not in family.name.removesuffix("_total")


def test_two_processes_worth_of_metrics_live_side_by_side() -> None:
    first, second = Counters(), Counters()
    first.count_refused_token("expired")
    one, other = Metrics(first, version="1"), Metrics(second, version="1")
    assert value(one, "gateway_tokens_refused_total", reason="expired") == 1
    assert ("gateway_tokens_refused_total", (("reason", "expired"),)) not in samples(other)


async def test_a_blocked_loop_shows_as_lag() -> None:
    metrics = Metrics(Counters(), version="1", lag_interval_seconds=0.001)
    task = asyncio.create_task(metrics.watch_loop_lag())

    def sampled() -> float:
        return value(metrics, "gateway_loop_lag_seconds_count")

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - a condition that nothing announces
                await asyncio.sleep(0.001)

    try:
        await until(lambda: sampled() > 0)
        before = value(metrics, "gateway_loop_lag_seconds_sum")
        time.sleep(0.06)  # noqa: ASYNC251 - the blocked loop is what is measured
        await until(lambda: value(metrics, "gateway_loop_lag_seconds_sum") - before > 0.05)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    metrics = filled()
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE))
    shown = {
        family.name + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in metrics.registry.collect()
    }
    assert set(rows) == set(shown)
    for name, labels in shown.items():
        assert set(re.findall(r"`(\w+)`", rows[name])) == labels, name
