"""Fixtures of the black-box tests of the partner's API.

A test module that says ``pytest_plugins = ("tests.parts.served",)`` gets ``served``: a node, once as ``gateway serve``
and once as ``gateway.asgi:app`` under hypercorn, an ASGI server without the direct writer. Both share Kafka, contracts,
catalog and database, so that a cursor of one is good on the other. A plugin, not a module to import from: so the nodes
are started once for all modules of a run.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.parts.estate import Estate, Node, contracts, fill, hypercorn, tenants
from tests.parts.gateway import Deployment
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner

SERVERS = ("gateway serve", "hypercorn")


@pytest.fixture(scope="session")
def estate(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """Contracts, catalog, topics with their records; no node yet."""
    prefix = f"estate.{uuid.uuid4().hex[:8]}"
    documents = contracts(prefix)
    deployment = Deployment(
        tmp_path_factory.mktemp("estate"),
        kafka.bootstrap,
        documents,
        tenants([next(iter(document["channels"])) for document in documents]),
        settings={"stream": {"heartbeat_seconds": 1, "drain_seconds": 10}},
    )
    estate = Estate(deployment, kafka, prefix, int(time.time() * 1000) - 600_000)
    asyncio.run(fill(estate))
    return estate


@pytest.fixture(scope="session")
def gateway_node(estate: Estate) -> Iterator[Node]:
    """``gateway serve``."""
    with estate.deployment.gateway("estate") as process:
        yield Node("gateway serve", process.base_url, estate, process.admin_url)


@pytest.fixture(scope="session")
def hypercorn_node(estate: Estate) -> Iterator[Node]:
    """``hypercorn gateway.asgi:app``."""
    with hypercorn(estate.deployment) as (base_url, admin_url):
        yield Node("hypercorn", base_url, estate, admin_url)


@pytest.fixture(scope="session", params=SERVERS)
def served(request: pytest.FixtureRequest) -> Node:
    """A node, once under each server: what a partner sees must be the same."""
    node: Node = request.getfixturevalue("gateway_node" if request.param == SERVERS[0] else "hypercorn_node")
    return node


@pytest.fixture
def acme(served: Node) -> Partner:
    """An entitled partner of the node."""
    return served.partner()
