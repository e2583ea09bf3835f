"""Every combination of the conditions of access, asked of a gateway over three protocols.

What is expected is said here once more, from the partner's documentation alone: tests/test_policy.py asks the rule.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.raw import UPGRADE, RawAnswer, ask

LIFECYCLES = ("draft", "published", "deprecated", "retired")
STATUSES = ("active", "suspended")
ENTITLEMENTS = ("none", "past", "in force", "future")
SCOPES = ("held", "missing")
CLAIMS = ("present", "absent", "wrong")
OFFERS = ("offered", "not offered")
VISIBILITIES = ("public", "entitled")
PROTOCOLS = ("sse", "ws", "pull")
AT_ONCE = 12


@dataclass(frozen=True)
class Case:
    """One combination."""

    lifecycle: str
    status: str
    entitlement: str
    scope: str
    claim: str
    offer: str
    visibility: str

    @property
    def stream(self) -> str:
        return f"{self.lifecycle}-{self.offer.replace(' ', '-')}-{self.visibility}"

    @property
    def client_id(self) -> str:
        return f"{self.status}-{self.entitlement.replace(' ', '-')}"

    def expected(self) -> tuple[int, str]:
        """The status and code that the partner's documentation promises; 200 where the read is granted."""
        if self.status == "suspended":
            return 403, "tenant_suspended"
        absent = 404, "stream_not_found"
        if self.lifecycle == "draft":
            return absent
        is_entitled = self.entitlement == "in force"
        if not is_entitled and self.visibility != "public":
            return absent
        if self.lifecycle == "retired":
            return 410, "stream_retired"
        if not is_entitled:
            return 403, "not_entitled"
        if self.scope == "missing":
            return 403, "insufficient_scope"
        if self.offer == "not offered":
            return 403, "transport_not_offered"
        if self.claim != "present":
            return 403, "claim_missing"
        return 200, ""


CASES = [Case(*each) for each in itertools.product(
    LIFECYCLES, STATUSES, ENTITLEMENTS, SCOPES, CLAIMS, OFFERS, VISIBILITIES
)]  # fmt: skip


def contracts(topic: str) -> list[dict[str, Any]]:
    """One for each that the cases name, all over one topic."""
    found = {one.stream: one for one in CASES}
    documents = []
    for stream, one in found.items():
        more: dict[str, Any] = {}
        if one.lifecycle in ("deprecated", "retired"):
            more["deprecated_on"] = datetime(2026, 1, 15, tzinfo=UTC).date()
        transports = ["sse", "ws", "pull", "ndjson"] if one.offer == "offered" else ["ndjson"]
        documents.append(
            contract(
                stream,
                topic,
                partitions=1,
                payload={"type": "object", "properties": {"origin": {"type": "string"}}},
                lifecycle=one.lifecycle,
                visibility=one.visibility,
                transports=transports,
                filters={"origin": {"pointer": "/origin", "type": "string"}},
                row_filter={"field": "origin", "claim": "airport"},
                **more,
            )
        )
    return documents


def tenants() -> list[dict[str, Any]]:
    today = datetime.now(UTC).date()
    days = {
        "past": {"from": today - timedelta(60), "to": today - timedelta(30)},
        "in force": {"from": today - timedelta(30), "to": today + timedelta(30)},
        "future": {"from": today + timedelta(30)},
    }
    found = []
    for one in {each.client_id: each for each in CASES}.values():
        right = [{"product": "all", "plan": "open", **days[one.entitlement]}] if one.entitlement != "none" else []
        found.append(
            {
                "name": one.client_id,
                "title": one.client_id,
                "status": one.status,
                "time_zone": "Europe/Berlin",
                "applications": [{"client_id": one.client_id, "title": "App"}],
                "entitlements": right,
            }
        )
    return found


@pytest.fixture(scope="module")
def running(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, GatewayProcess]]:
    topic = f"rule.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, 1))
    documents = contracts(topic)
    told = catalog([next(iter(one["channels"])) for one in documents]) | {"tenants": tenants()}
    deployment = Deployment(tmp_path_factory.mktemp("rule") / "d", kafka.bootstrap, documents, told)
    with deployment.gateway() as process:
        yield deployment, process


async def answered(base_url: str, token: str, stream: str, protocol: str) -> RawAnswer:
    headers = {"Authorization": f"Bearer {token}"} | (UPGRADE if protocol == "ws" else {})
    suffix = "records" if protocol == "pull" else protocol
    return await ask(base_url, f"/v1/streams/{stream}/{suffix}", headers=headers)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_every_combination_is_granted_or_refused_as_it_is_documented(
    running: tuple[Deployment, GatewayProcess], protocol: str
) -> None:
    deployment, process = running
    claims: dict[str, dict[str, Any]] = {"present": {"airport": ["ORD"]}, "absent": {}, "wrong": {"airport": [7]}}
    tokens = {
        (client_id, scope, claim): deployment.token(
            client_id, scope="streams:read" if scope == "held" else "other:read", **claims[claim]
        )
        for client_id, scope, claim in itertools.product({one.client_id for one in CASES}, SCOPES, CLAIMS)
    }
    waiting = iter(CASES)
    wrong: list[tuple[Case, tuple[int, str]]] = []
    seen: Counter[tuple[int, str]] = Counter()

    async def work() -> None:
        for case in waiting:
            token = tokens[case.client_id, case.scope, case.claim]
            answer = await answered(process.base_url, token, case.stream, protocol)
            got = (200 if answer.status == 101 else answer.status), answer.code
            seen[got] += 1
            if got != case.expected():
                wrong.append((case, got))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    assert wrong == []
    assert sum(seen.values()) == len(CASES) == 768
    assert seen[200, ""] == 4, "published and deprecated, public and not"
    assert len(seen) == 8, "each outcome is met"
