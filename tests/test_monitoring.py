"""The dashboard and the alerts that we hand out speak of metrics that exist, in expressions that can be evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.observability.engine_metrics import READER_STATES
from gateway.observability.metrics import LEVELS
from tests.parts.promql import Metric, Wrong, check, parse, selectors
from tests.test_docs import anchors
from tests.test_metrics import filled

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "streaming-gateway.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
SCRAPE = yaml.safe_load((ROOT / "deploy" / "prometheus" / "scrape.yaml").read_text(encoding="utf-8"))
PAGE = ROOT / "docs" / "operations" / "observability.md"
VALUES = {
    ("gateway_reader_state", "state"): set(READER_STATES),
    ("gateway_dependency_state", "state"): set(LEVELS),
    ("gateway_dependency_state", "dependency"): {"contracts", "kafka", "database", "redis"},
}
"""Labels whose values are known: an alert on any other would never fire."""


@cache
def known() -> dict[str, Metric]:
    """The metrics of the product by the names that a scrape gives their samples, and what Prometheus adds."""
    found = {"up": Metric("gauge", frozenset())}
    for family in filled().registry.collect():
        for sample in family.samples:
            kind = "gauge" if family.type == "gauge" else "counter"
            before = found.get(sample.name, Metric(kind, frozenset())).labels
            found[sample.name] = Metric(kind, before | sample.labels.keys())
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def drawn() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


EXPRESSIONS = [*drawn(), *((rule["alert"], rule["expr"]) for rule in alerts())]


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_expression_is_about_metrics_and_labels_that_exist(title: str, expression: str) -> None:
    node = parse(expression)
    check(node, known())
    for selector in selectors(node):
        for label, operator, wanted in selector.matchers:
            if operator in ("=", "!=") and (selector.name, label) in VALUES:
                assert wanted in VALUES[selector.name, label], title


@pytest.mark.parametrize(
    "expression",
    [
        "gateway_open_streamz",
        'gateway_open_streams{topic="x"}',
        "rate(gateway_open_streams[5m])",
        "delta(gateway_opens_total[5m])",
        "rate(gateway_opens_total)",
        "sum by (topic) (gateway_open_streams)",
        "histogram_quantile(0.99, sum by (instance) (rate(gateway_loop_lag_seconds_bucket[5m])))",
        "gateway_ready == 0 and gateway_reader_lag_records > 0",
        "sum(gateway_ready",
        "gateway_ready ==",
        "summ(gateway_ready)",
    ],
)
def test_the_check_sees_an_expression_that_would_stay_empty(expression: str) -> None:
    with pytest.raises(Wrong):
        check(parse(expression), known())


def test_every_metric_of_ours_is_drawn_or_alerted_on_but_for_these() -> None:
    used = {selector.name for _, expression in EXPRESSIONS for selector in selectors(parse(expression))}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known() if name.startswith("gateway_")}
    left = ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert left <= {
        "gateway_fetches_total",
        "gateway_key_fetches_total",
        "gateway_log_limit_bytes",
        "gateway_log_limit_records",
        "gateway_log_records",
        "gateway_pump_slices_total",
        "gateway_reloads_total",
        "gateway_replay_slices_running",
        "gateway_replays_total",
        "gateway_spans_total",
        "gateway_stream_info",
        "gateway_tenant_delivered_records_total",
        "gateway_tenant_open_streams",
        "gateway_tokens_accepted_total",
        "gateway_tokens_issued_total",
        "gateway_topic_users",
        "gateway_views",
    }


def test_every_alert_says_what_is_wrong_where_and_has_a_place_that_says_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) >= 15
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert ROOT / page == PAGE
        assert anchor == rule["alert"].lower()
        assert anchor in anchors(PAGE), rule["alert"]
    headings = set(re.findall(r"^### (Gateway\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert headings == set(names)


def test_what_an_alert_says_is_made_of_labels_that_it_has() -> None:
    for rule in alerts():
        labels = check(parse(rule["expr"]), known())
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert named <= labels, rule["alert"]


def test_the_alerts_look_at_the_job_that_is_scraped() -> None:
    jobs = {job["job_name"] for job in SCRAPE["scrape_configs"]}
    asked = {
        wanted
        for _, expression in EXPRESSIONS
        for selector in selectors(parse(expression))
        for label, _, wanted in selector.matchers
        if label == "job"
    }
    assert asked == jobs
    assert SCRAPE["rule_files"] == ["alerts.yaml"]


def test_the_dashboard_is_laid_out_and_asks_the_data_source_that_is_chosen() -> None:
    taken: set[tuple[int, int]] = set()
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert '"$instance"' in target["expr"], panel["title"]
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            labels = check(parse(target["expr"].replace("$__rate_interval", "1m")), known())
            assert named <= labels, panel["title"]
