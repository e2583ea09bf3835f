"""Requests made up from the OpenAPI document against a running gateway: no answer is one that it leaves out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import date
from typing import Any, ClassVar

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka

EXAMPLES = 25
"""Requests of each sort for each route."""

LONGEST_WAIT = "0.05"
PROMISED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
READS = [
    f"/v1/streams/{stream}{suffix}" for stream in ("open", "ageing") for suffix in ("", "/records", "/sse", "/ndjson")
]
POSTS = ["/v1/sessions/{session}/token", "/v1/tickets"]
ACCOUNT = ["/v1/limits", "/v1/usage", "/v1/statements", "/v1/statements/{number}"]
RESOURCE = ["/.well-known/oauth-protected-resource"]
ROUTES = ["/v1/streams", *ACCOUNT, *READS, *RESOURCE, "/openapi.json", "/asyncapi.json", "/asyncapi.yaml"]
ACCEPTS = ["*/*", "application/json", "text/event-stream", "application/x-ndjson", "text/html"]
HOSTILE = [
    ("open", "filter", "id:eq:" + "9" * 400),
    ("open", "filter", "id:in:" + "1," * 200),
    ("open", "filter", "zzz:eq:1"),
    ("open", "filter", ":::"),
    ("open", "fields", "/" * 3000),
    ("open", "fields", "/id,,/id"),
    ("open", "shard", "64/64"),
    ("open", "from", "9" * 15),
    ("open", "from", "0000-01-01T00:00:00Z"),
    ("open", "cursor", "A" * 4000),
    ("open", "limit", "1e9"),
    ("open", "max_bytes", "-1"),
    ("open", "wait", "nan"),
    ("ageing", "envelope", "NONE"),
    ("absent", "from", "latest"),
]


class FirstBytes(HTTPAdapter):
    """Takes the first bytes of a stream for the whole: it has no end."""

    asked: ClassVar[int] = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        type(self).asked += 1
        response = super().send(request, **{**kwargs, "stream": True, "timeout": 30})
        if response.headers.get("content-type", "").startswith(("text/event-stream", "application/x-ndjson")):
            response._content = response.raw.read1(65536)
            response.close()
        return response


@pytest.fixture(scope="module")
def node(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, GatewayProcess]]:
    prefix = f"made-up.{uuid.uuid4().hex[:8]}"
    payload = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "note": {"type": "string"}, "hidden": {"type": "string"}},
    }
    filters = {"id": {"pointer": "/id", "type": "integer"}, "note": {"pointer": "/note", "type": "string"}}
    both = {"payload": payload, "projection": ["/id", "/note"], "filters": filters}
    old = {
        "lifecycle": "deprecated",
        "deprecated_on": date(2026, 1, 15),
        "sunset_on": date(2031, 6, 30),
        "successor": "open",
    }
    documents = [contract("open", f"{prefix}.open", **both), contract("ageing", f"{prefix}.open", **both, **old)]
    for document in documents:
        document["components"]["messages"]["event"]["examples"] = [{"payload": {"id": 1, "note": "n"}}]

    async def fill() -> None:
        await kafka.create_topic(f"{prefix}.open", 4)
        for partition in range(4):
            values = [b'{"id":%d,"note":"n","hidden":"h"}' % number for number in range(20)]
            await kafka.produce(f"{prefix}.open", [*values, b"broken", b"{}"], partition=partition)

    asyncio.run(fill())
    deployment = Deployment(tmp_path_factory.mktemp("made-up"), kafka.bootstrap, documents)
    with deployment.gateway() as process:
        yield deployment, process


@pytest.fixture(scope="module")
def session(node: tuple[Deployment, GatewayProcess]) -> Iterator[requests.Session]:
    deployment, _ = node
    with requests.Session() as opened:
        opened.trust_env = False
        opened.mount("http://", FirstBytes())
        opened.headers["Authorization"] = f"Bearer {deployment.token('acme-web')}"
        yield opened


@pytest.fixture(scope="module")
def schema(node: tuple[Deployment, GatewayProcess], session: requests.Session) -> Any:
    document = session.get(f"{node[1].base_url}/openapi.json").json()
    assert sorted(document["paths"]) == sorted(ROUTES + POSTS)
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(
    ("route", "mode"),
    [
        *(pytest.param(route, GenerationMode.POSITIVE, id=f"{route} allowed") for route in ROUTES + POSTS),
        pytest.param("/v1/tickets", GenerationMode.NEGATIVE, id="/v1/tickets refused"),
        # The others take anything in their headers and nothing in their query.
        *(pytest.param(route, GenerationMode.NEGATIVE, id=f"{route} refused") for route in READS),
    ],
)
def test_every_answer_is_one_that_the_document_tells_of(
    route: str, mode: GenerationMode, node: tuple[Deployment, GatewayProcess], session: requests.Session, schema: Any
) -> None:
    operation = schema[route]["POST" if route in POSTS else "GET"]
    headers = {"Authorization": str(session.headers["Authorization"])}
    checks = [*PROMISED, *([negative_data_rejection] if mode is GenerationMode.NEGATIVE else [])]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), accept=st.sampled_from(ACCEPTS))
    def ask(case: Any, accept: str) -> None:
        # The second credential that a ticket is would be all that is told; tickets have tests of their own.
        (case.query or {}).pop("ticket", None)
        # A wait that is allowed would be kept; what it may be is tested elsewhere.
        if "wait" in (case.query or {}) and str(case.query["wait"]).replace(".", "", 1).isdigit():
            case.query["wait"] = LONGEST_WAIT
        case.call_and_validate(
            base_url=node[1].base_url, session=session, headers=headers | {"Accept": accept}, checks=checks
        )

    FirstBytes.asked = 0
    ask()
    # With all routes some hundreds; that they were really sent is not schemathesis's word.
    assert FirstBytes.asked >= EXAMPLES


@pytest.mark.parametrize(("stream", "name", "value"), HOSTILE)
def test_absurd_values_are_refused_with_a_documented_problem(
    stream: str, name: str, value: str, node: tuple[Deployment, GatewayProcess], session: requests.Session, schema: Any
) -> None:
    route = f"/v1/streams/{stream}/records"
    answer = session.get(f"{node[1].base_url}{route}", params={name: value})
    assert 400 <= answer.status_code < 500
    assert answer.json()["code"]
    told = schema[READS[1]]["GET"].definition.raw["responses"]
    assert str(answer.status_code) in told


def test_the_document_of_nobody_tells_the_truth_to_nobody(
    node: tuple[Deployment, GatewayProcess], session: requests.Session
) -> None:
    """Without a token every route but the documents answers the 401 that it tells of."""
    base_url = node[1].base_url
    with requests.Session() as anonymous:
        anonymous.trust_env = False
        document = anonymous.get(f"{base_url}/openapi.json").json()
        for path, methods in document["paths"].items():
            (method,) = methods
            answer = anonymous.request(method, f"{base_url}{path}")
            expected = 401 if path.startswith("/v1/") else 200
            assert answer.status_code == expected, path
            assert str(expected) in methods[method]["responses"]
            if expected == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer")
