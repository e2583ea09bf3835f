"""The built-in issuer as one thing: two nodes with a data directory each, one database, one set of signing keys."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from click.testing import CliRunner, Result

from gateway.auth.issuer import DevelopmentIssuer
from gateway.cli import main
from gateway.clock import SystemClock
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Partner

DEFAULTS = {"issuer": "urn:gateway:builtin", "audience": "urn:gateway"}


@dataclass
class Pair:
    """The nodes, and the commands of the first one's machine."""

    deployment: Deployment
    nodes: list[GatewayProcess]
    in_file: str
    """A token by the key file that the first node found in its data directory."""

    def run(self, *arguments: str) -> Result:
        config = self.deployment.options("one")
        return CliRunner().invoke(main, [*arguments, *config], prog_name="gateway")

    def token(self) -> str:
        done = self.run("token", "--client-id", "acme-web", "--scope", "streams:read")
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout.strip()

    def kids(self) -> list[str]:
        done = self.run("keys", "list", "--format", "json")
        assert done.exit_code == 0, done.stderr
        return [one["kid"] for one in json.loads(done.stdout)["keys"]]

    async def statuses(self, token: str) -> list[int]:
        return [(await Partner(node.base_url, token).get("/v1/streams/s/records")).status_code for node in self.nodes]


@pytest.fixture(scope="module")
def pair(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    topic = f"builtin-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    told = catalog(["s"])
    told["tenants"][0]["applications"][0]["issuer"] = "builtin"
    folder = tmp_path_factory.mktemp("builtin") / "d"
    settings = {"auth": {"builtin.enabled": True}}
    deployment = Deployment(folder, kafka.bootstrap, [contract("s", topic, partitions=1)], told, settings)
    own = DevelopmentIssuer(folder / "data-one", **DEFAULTS, clock=SystemClock())
    with deployment.gateway("one") as one, deployment.gateway("two") as two:
        yield Pair(deployment, [one, two], own.mint("acme-web", scope="streams:read"))


async def test_a_token_of_one_nodes_machine_is_good_on_all_nodes(pair: Pair) -> None:
    assert await pair.statuses(pair.token()) == [200, 200]
    assert not (pair.deployment.directory / "data-two" / "issuer.json").exists(), "no node has a key of its own"


async def test_keys_are_rotated_and_no_token_fails(pair: Pair) -> None:
    before, (first,) = pair.token(), pair.kids()
    rotated = pair.run("keys", "rotate", "--lead", "1s", "--format", "json")
    assert rotated.exit_code == 0, rotated.stderr
    second = json.loads(rotated.stdout)["kid"]
    assert pair.kids() == [first, second]

    async def signs() -> bool:
        token = pair.token()
        assert await pair.statuses(token) == [200, 200]
        return token.partition(".")[0] != before.partition(".")[0]

    await eventually(signs)
    assert await pair.statuses(before) == [200, 200]
    assert pair.run("keys", "remove", first).exit_code == 0

    async def is_over() -> bool:
        return await pair.statuses(before) == [401, 401]

    await eventually(is_over)


async def test_a_key_file_goes_on_being_accepted_by_the_node_that_has_it(pair: Pair) -> None:
    assert await pair.statuses(pair.in_file) == [200, 401]


def test_client_secrets_are_the_token_endpoints_alone(pair: Pair) -> None:
    refused = pair.run("secrets", "list")
    assert refused.exit_code == 2
    assert "auth.builtin.token_endpoint = False: must be true" in refused.stderr


def test_the_commands_want_the_issuer_switched_on(pair: Pair) -> None:
    for command in (["token", "--client-id", "acme-web"], ["keys", "rotate"], ["keys", "list"]):
        refused = pair.run(*command, "--set", "auth.builtin.enabled=false")
        assert refused.exit_code == 2
        assert "auth.builtin.enabled" in refused.stderr


def test_the_token_endpoint_alone_is_the_issuer_switched_on(pair: Pair) -> None:
    directory = pair.deployment.directory
    endpoint = {
        "auth.builtin.enabled": "false",
        "auth.builtin.token_endpoint": "true",
        "auth.builtin.issuer": "https://issuer.example",
        "auth.builtin.sealing_keys": '["a sealing key for the tests"]',
        "database.url": f"sqlite:///{directory / 'other.db'}",
    }
    options = [part for name, value in endpoint.items() for part in ("--set", f"{name}={value}")]
    done = pair.run("token", "--client-id", "acme-web", *options)
    assert (done.exit_code, done.stdout.count(".")) == (0, 2), done.stderr
