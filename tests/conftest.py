"""The real parts that tests share. One that this machine lacks skips its tests and says why; CI=true fails them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest

from tests.parts import kafka as kafka_part
from tests.parts import postgres as postgres_part
from tests.parts import redis as redis_part
from tests.parts.kafka import PartMissing

Part = TypeVar("Part")


@contextmanager
def or_left_out(part: AbstractContextManager[Part]) -> Iterator[Part]:
    """The part, or a skip with the reason it cannot be had here; under CI=true a failure."""
    try:
        real = part.__enter__()
    except PartMissing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"a real part is missing: {missing}", pytrace=False)
        pytest.skip(f"left out: {missing}")
    try:
        yield real
    finally:
        part.__exit__(None, None, None)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka_part.Kafka]:
    """A real Kafka, one for all processes of a test run, which leave it running; topics are the tests' own."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with or_left_out(kafka_part.shared(folder / "kafka")) as broker:
        yield broker


@pytest.fixture
def own_kafka() -> Iterator[kafka_part.KafkaBroker]:
    """A real Kafka of this test's own: to stop, kill and freeze."""
    with or_left_out(kafka_part.broker()) as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis_part.RedisServer]:
    """A real Redis, shared by the tests of one process, which leave it running; its data is anybody's."""
    with or_left_out(redis_part.server()) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[redis_part.RedisServer]:
    """A real Redis of this test's own: to kill and to freeze."""
    with or_left_out(redis_part.server()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres_part.PostgresServer]:
    """A real Postgres, shared by the tests of one process."""
    with or_left_out(postgres_part.server()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: postgres_part.PostgresServer) -> str:
    """SQLAlchemy address of an empty database of this test's own."""
    return postgres_server.create_database()


@pytest.fixture
def own_postgres() -> Iterator[postgres_part.PostgresServer]:
    """A real Postgres of this test's own: to kill and to freeze."""
    with or_left_out(postgres_part.server()) as server:
        yield server
