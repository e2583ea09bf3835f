"""Protected-resource metadata: what a client without a token may know, and nothing of what is not public."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gateway.auth.tokens import TokenVerifier
from gateway.clock import ManualClock
from gateway.transport.resource import metadata, metadata_url
from tests.parts.estate import Node
from tests.parts.partner import Partner, problem
from tests.parts.tokens import ISSUER, PretendIssuer
from tests.test_policy import contract_of

pytest_plugins = ("tests.parts.served",)

PATH = "/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("public_url", "place"),
    [
        ("https://gateway.example", f"https://gateway.example{PATH}"),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:8080{PATH}"),
        ("https://api.example/streams", f"https://api.example{PATH}/streams"),
        ("https://api.example/a/b/", f"https://api.example{PATH}/a/b"),
    ],
)
def test_the_well_known_path_comes_before_the_resources_own(public_url: str, place: str) -> None:
    assert metadata_url(public_url) == place


def test_scopes_of_what_is_not_public_are_not_told() -> None:
    def one(stream: str, scope: str, **fields: Any) -> Any:
        return dataclasses.replace(contract_of(**fields), stream=stream, scopes=(scope,))

    contracts: Any = {
        each.stream: each
        for each in (
            one("a", "a:read", visibility="public"),
            one("b", "b:read", visibility="entitled"),
            one("c", "c:read", visibility="public", lifecycle="draft"),
            one("d", "d:read", visibility="public", lifecycle="deprecated"),
            one("e", "e:read", visibility="public", lifecycle="retired"),
        )
    }
    clock = ManualClock()
    issuers = [
        PretendIssuer(name="one", clock=clock).settings(),
        PretendIssuer(name="builtin", issuer="urn:gateway:builtin", clock=clock).settings(),
    ]
    verifier = TokenVerifier(issuers, clock=clock)
    assert metadata("https://gateway.example", contracts=contracts, verifier=verifier) == {
        "resource": "https://gateway.example",
        "authorization_servers": [ISSUER],
        "scopes_supported": ["a:read", "d:read"],
        "bearer_methods_supported": ["header"],
    }


async def test_a_client_finds_the_metadata_from_its_first_refusal(served: Node) -> None:
    """RFC 9728 §5: from the challenge to the authorization server, with nothing known before."""
    nobody = Partner(served.base_url, None)
    refused = await nobody.get("/v1/streams/numbers/records")
    problem(refused, 401, "token_missing")
    challenge = refused.headers["www-authenticate"]
    _, _, rest = challenge.partition('resource_metadata="')
    place = rest.partition('"')[0]
    assert place == f"{served.base_url}{PATH}"
    answer = await nobody.get(PATH)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = json.loads(answer.content)
    assert document["resource"] == served.base_url
    assert document["authorization_servers"] == [ISSUER]
    assert "streams:read" in document["scopes_supported"]
    assert document["bearer_methods_supported"] == ["header"]


async def test_refused_tokens_and_missing_scopes_are_told_too(served: Node, acme: Partner) -> None:
    place = f'resource_metadata="{served.base_url}{PATH}"'
    for partner, path in ((acme.as_("nonsense"), "/v1/streams"), (acme, "/v1/streams/guarded/records")):
        assert place in (await partner.get(path)).headers["www-authenticate"]


async def test_the_metadata_is_read_by_get_with_json_and_nothing_else(acme: Partner) -> None:
    problem(await acme.get(PATH, surprise="1"), 400, "unknown_parameter")
    problem(await acme.as_(acme.token, Accept="text/html").get(PATH), 406, "not_acceptable")
