"""The built-in issuer as partners and operators live with it: two real gateways, their commands, a standard client."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import httpx
import jwt
import pytest
from authlib.integrations.base_client.errors import OAuthError  # type: ignore[import-untyped]
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]
from click.testing import CliRunner
from openapi_spec_validator import validate

from gateway.cli import main
from gateway.transport.middleware import RequestMiddleware, route_app
from gateway.transport.routes import routes
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka

ISSUER = "https://gateway.example"
ADMIN = "admin-token-of-the-tests"
FORM = "application/x-www-form-urlencoded"
SECONDS = 60.0
LISTED = "https://app.example"


@dataclass
class Estate:
    """Two nodes whose settings switch the token endpoint on, and a secret of acme-web's."""

    deployment: Deployment
    one: GatewayProcess
    two: GatewayProcess
    secret: str = ""

    def run(self, *arguments: str, code: int = 0) -> str:
        """A command of ours against the nodes' database; its stdout, or stderr where it has to fail."""
        options = ["--config", str(self.deployment.directory / "one.toml")]
        done = CliRunner().invoke(main, [*arguments, *options])
        assert done.exit_code == code, done.output
        return done.stderr if code else done.stdout.strip()

    async def ask(
        self,
        form: dict[str, str] | str | bytes,
        *,
        node: GatewayProcess | None = None,
        source: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """POST to the token endpoint; from another address of this machine where ``source`` names one."""
        transport = httpx.AsyncHTTPTransport(local_address=source or None)
        async with httpx.AsyncClient(trust_env=False, transport=transport, timeout=30) as client:
            url = f"{(node or self.one).base_url}/oauth/token"
            if isinstance(form, dict):
                return await client.post(url, data=form, headers=headers)
            return await client.post(url, content=form, headers={"Content-Type": FORM} | dict(headers or {}))

    async def token(self, *, node: GatewayProcess | None = None, secret: str = "", **more: str) -> str:
        body = grant(client_secret=secret or self.secret, **more)
        answer = await self.ask(body, node=node)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def until_known(self, secret: str, *, client_id: str = "acme-web", known: bool = True) -> None:
        """Both nodes have seen the change of a command."""
        for node in (self.one, self.two):
            deadline = time.monotonic() + SECONDS
            while True:
                # Each from an address of its own: waiting must not look like guessing.
                source = f"127.1.{time.monotonic_ns() // 1000 % 250}.{time.monotonic_ns() % 250 + 1}"
                form = grant(client_id=client_id, client_secret=secret)
                answer = await self.ask(form, node=node, source=source)
                if (answer.status_code == 200) is known and answer.status_code != 429:
                    break
                assert time.monotonic() < deadline, answer.text
                await asyncio.sleep(0.7)


def grant(**members: str) -> dict[str, str]:
    return {"grant_type": "client_credentials", "client_id": "acme-web"} | members


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


@pytest.fixture(scope="module")
def estate(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    folder = tmp_path_factory.mktemp("issuer")
    topic = f"issuer.{folder.name}.{id(folder)}"
    asyncio.run(kafka.create_topic(topic, 1))
    asyncio.run(kafka.produce(topic, [b'{"n":0}'], partition=0))
    told = catalog(["s", "t"])
    for tenant in told["tenants"]:
        for application in tenant["applications"]:
            application["issuer"] = "builtin"
    told["tenants"][0]["applications"][0]["origins"] = [LISTED]
    told["tenants"][0]["applications"].append({"client_id": "acme+batch%", "title": "Odd", "issuer": "builtin"})
    contracts = [
        contract("s", topic, partitions=1, scopes=["streams:read"]),
        contract("t", topic, partitions=1, scopes=["streams:read", "t:read"], visibility="entitled"),
        contract("other", topic, partitions=1, scopes=["other:read"]),
    ]
    settings = {
        "admin": {"port": 0, "tokens": [ADMIN]},
        "auth": {
            "builtin.token_endpoint": True,
            "builtin.issuer": ISSUER,
            "builtin.token_seconds": 900,
            "builtin.sealing_keys": ["a sealing key for the tests"],
        },
    }
    deployment = Deployment(folder / "d", kafka.bootstrap, contracts, told, settings)
    with ExitStack() as stack:
        one, two = (stack.enter_context(deployment.gateway(name)) for name in ("one", "two"))
        found = Estate(deployment, one, two)
        found.secret = found.run("secrets", "add", "--client-id", "acme-web")
        asyncio.run(found.until_known(found.secret))
        yield found


async def read(node: GatewayProcess, token: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.get(
            f"{node.base_url}/v1/streams/s/records",
            params={"from": "earliest"},
            headers={"Authorization": f"Bearer {token}"},
        )


# ---- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_standard_client_finds_the_issuer_gets_a_token_and_reads_by_it(estate: Estate, method: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as plain:
        resource = (await plain.get(f"{estate.one.base_url}/.well-known/oauth-protected-resource")).json()
        assert ISSUER in resource["authorization_servers"]
        # Where a proxy would bring a request for the issuer's own address.
        server = (await plain.get(f"{estate.one.base_url}/.well-known/oauth-authorization-server")).json()
    assert server == {
        "issuer": ISSUER,
        "token_endpoint": f"{estate.one.base_url}/oauth/token",
        "jwks_uri": f"{estate.one.base_url}/oauth/jwks",
        "scopes_supported": ["other:read", "streams:read"],
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }
    with OAuth2Session("acme-web", estate.secret, token_endpoint_auth_method=method, scope="streams:read") as client:
        client.trust_env = False
        token = client.fetch_token(server["token_endpoint"], grant_type="client_credentials")
        assert token["scope"] == "streams:read"
        answer = client.get(f"{estate.two.base_url}/v1/streams/s/records", params={"from": "earliest"})
        assert answer.status_code == 200
        assert [one["data"] for one in answer.json()["records"]] == [{"n": 0}]


def test_a_standard_client_understands_a_refusal(estate: Estate) -> None:
    with OAuth2Session("acme-web", "wrong") as client, pytest.raises(OAuthError) as caught:
        client.trust_env = False
        client.fetch_token(f"{estate.one.base_url}/oauth/token", grant_type="client_credentials")
    assert caught.value.error == "invalid_client"


async def test_a_token_is_an_rfc_9068_one_that_the_published_keys_verify(estate: Estate) -> None:
    answer = await estate.ask(grant(client_secret=estate.secret, unknown="is passed over", scope=""))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    told = answer.json()
    assert (told["token_type"], told["expires_in"]) == ("Bearer", 900)
    # Nothing asked for is all that there is; nothing of streams that the organisation has no right to.
    assert told["scope"] == "streams:read t:read"
    async with httpx.AsyncClient(trust_env=False) as client:
        published = await client.get(f"{estate.two.base_url}/oauth/jwks")
    assert "max-age" in published.headers["cache-control"]
    assert not {"d", "k"} & {name for key in published.json()["keys"] for name in key}
    header = jwt.get_unverified_header(told["access_token"])
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
    key = jwt.PyJWKSet.from_dict(published.json())[header["kid"]]
    claims = jwt.decode(told["access_token"], key, algorithms=["ES256"], audience="urn:gateway", issuer=ISSUER)
    assert claims["sub"] == claims["client_id"] == "acme-web"
    assert claims["exp"] - claims["iat"] == 900
    assert claims["scope"] == told["scope"]
    assert claims["jti"] != jwt.decode(await estate.token(), options={"verify_signature": False})["jti"]


async def test_an_application_gets_no_scope_that_its_organisations_streams_do_not_ask_for(estate: Estate) -> None:
    assert jwt.decode(await estate.token(scope="t:read"), options={"verify_signature": False})["scope"] == "t:read"
    for scope in ("other:read", "streams:read admin", "t:read other:read", "streams:read\tt:read"):
        answer = await estate.ask(grant(client_secret=estate.secret, scope=scope))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope"), scope


async def test_names_and_secrets_are_form_encoded_within_the_header(estate: Estate) -> None:
    secret = estate.run("secrets", "add", "--client-id", "acme+batch%")
    await estate.until_known(secret, client_id="acme+batch%")
    form = "grant_type=client_credentials"
    answer = await estate.ask(form, headers={"Authorization": basic("acme+batch%", secret)})
    assert answer.status_code == 200
    assert jwt.decode(answer.json()["access_token"], options={"verify_signature": False})["sub"] == "acme+batch%"


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        ("", {}, 401, "invalid_client"),
        ("client_id=acme-web&client_secret=SECRET", {}, 400, "invalid_request"),
        ("grant_type=password&client_id=acme-web&client_secret=SECRET", {}, 400, "unsupported_grant_type"),
        ("grant_type=client_credentials&client_id=acme-web", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=acme-web&client_secret=", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=acme-web&client_secret=wrong", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=nobody&client_secret=SECRET", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=globex-app&client_secret=SECRET", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=a%00b&client_secret=SECRET", {}, 401, "invalid_client"),
        ("GOOD&grant_type=client_credentials", {}, 400, "invalid_request"),
        ("GOOD&x=1&x=2", {}, 400, "invalid_request"),
        ("GOOD&x=1&x=", {}, 400, "invalid_request"),
        ("GOOD", {"Authorization": "BASIC"}, 400, "invalid_request"),
        ("GOOD", {"Content-Type": "application/json"}, 400, "invalid_request"),
        ("GOOD&x=%ff", {}, 400, "invalid_request"),
        (b"GOOD&x=\xff", {}, 400, "invalid_request"),
        ("GOOD" + "".join(f"&x{n}=1" for n in range(60)), {}, 400, "invalid_request"),
        ("GOOD&client_assertion=x&client_assertion_type=y", {}, 401, "invalid_client"),
        ("GOOD&x=" + "y" * 70_000, {}, 413, None),
        ("grant_type=client_credentials&client_id=globex-app", {"Authorization": "BASIC"}, 400, "invalid_request"),
        ("grant_type=client_credentials", {"Authorization": "Basic !!!"}, 401, "invalid_client"),
        ("grant_type=client_credentials", {"Authorization": "Basic YWJj"}, 401, "invalid_client"),
        ("grant_type=client_credentials", {"Authorization": "Bearer abc"}, 401, "invalid_client"),
    ],
)
async def test_a_refusal_says_what_rfc_6749_has_for_it(
    estate: Estate, body: str | bytes, headers: dict[str, str], status: int, error: str | None
) -> None:
    good = f"grant_type=client_credentials&client_id=acme-web&client_secret={estate.secret}"
    if isinstance(body, bytes):
        body = body.replace(b"GOOD", good.encode())
    else:
        body = body.replace("GOOD", good).replace("SECRET", estate.secret)
    spelt = {name: basic("acme-web", estate.secret) if value == "BASIC" else value for name, value in headers.items()}
    answer = await estate.ask(body, source="127.0.2.1", headers=spelt)
    assert answer.status_code == status, answer.text
    if error is None:
        return
    assert set(answer.json()) == {"error", "error_description"}
    assert answer.json()["error"] == error
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("www-authenticate", "").startswith("Basic ") is (status == 401)
    assert estate.secret not in answer.text


async def test_an_unknown_client_and_a_wrong_secret_get_the_same_answer(estate: Estate) -> None:
    forms = [grant(client_secret="x"), grant(client_id="nobody", client_secret="x"), grant(client_secret="gws_y")]
    answers = [await estate.ask(form, source="127.0.3.1") for form in forms]
    assert len({answer.content for answer in answers}) == 1
    dropped = {"date", "x-correlation-id"}
    assert len({str([pair for pair in one.headers.items() if pair[0] not in dropped]) for one in answers}) == 1


async def test_credentials_in_the_address_are_refused(estate: Estate) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"{estate.one.base_url}/oauth/token"
        answer = await client.post(url, params=grant(client_secret=estate.secret), headers={"Content-Type": FORM})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        answer = await client.get(url)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_page_that_the_application_does_not_list_gets_no_token(estate: Estate) -> None:
    for origin in ("https://elsewhere.example", "null"):
        answer = await estate.ask(grant(client_secret=estate.secret), headers={"Origin": origin})
        assert (answer.status_code, answer.json()["error"]) == (403, "unauthorized_client"), origin
        assert set(answer.json()) == {"error", "error_description"}
        assert "access-control-allow-origin" not in answer.headers
        # Who does not know the secret does not learn what the application lists.
        guess = await estate.ask(grant(client_secret="x"), source="127.0.5.1", headers={"Origin": origin})
        assert (guess.status_code, guess.json()["error"]) == (401, "invalid_client")
    for origin in (LISTED, estate.one.base_url):
        answer = await estate.ask(grant(client_secret=estate.secret), headers={"Origin": origin})
        assert answer.status_code == 200, origin
        assert answer.headers["access-control-allow-origin"] == origin


async def test_who_guesses_is_told_when_to_come_back_and_others_are_not_held_up(estate: Estate) -> None:
    guesses = [
        await estate.ask(grant(client_id="globex-app", client_secret=f"guess-{n}"), source="127.0.4.1")
        for n in range(11)
    ]
    assert {one.status_code for one in guesses[:9]} == {401}
    last = guesses[-1]
    assert (last.status_code, last.json()["error"]) == (429, "temporarily_unavailable")
    assert int(last.headers["retry-after"]) >= 1
    # A good secret is no way around it, and nobody else's trouble.
    assert (await estate.ask(grant(client_secret=estate.secret))).status_code == 200


# ---- operators -----------------------------------------------------------------------------------------------------


async def test_a_secret_is_rotated_without_a_refused_request(estate: Estate) -> None:
    old = json.loads(estate.run("secrets", "list", "--client-id", "acme-web", "--format", "json"))["secrets"]
    new = estate.run("secrets", "add", "--client-id", "acme-web")
    assert "has 2 secrets already" in estate.run("secrets", "add", "--client-id", "acme-web", code=2)
    await estate.until_known(new)
    assert await estate.token()
    before, estate.secret = estate.secret, new
    assert new not in estate.run("secrets", "list")
    estate.run("secrets", "remove", "--client-id", "acme-web", old[0]["id"])
    await estate.until_known(before, known=False)
    assert await estate.token()
    assert "no such application" in estate.run("secrets", "add", "--client-id", "nobody", code=2)


async def test_a_rotation_of_the_signing_keys_fails_no_request_on_any_node(estate: Estate) -> None:
    def kid(token: str) -> str:
        return str(jwt.get_unverified_header(token)["kid"])

    nodes = (estate.one, estate.two)
    first = await estate.token()
    made = json.loads(estate.run("keys", "rotate", "--lead", "3s", "--format", "json"))["kid"]
    assert "does not sign yet" in estate.run("keys", "rotate", code=2)
    deadline, signers, tokens = time.monotonic() + SECONDS, {kid(first)}, [first]
    switched: set[str] = set()
    while len(switched) < len(nodes):
        for node in nodes:
            token = await estate.token(node=node)
            tokens.append(token)
            signers.add(kid(token))
            if kid(token) == made:
                switched.add(node.base_url)
            for reader in nodes:
                assert (await read(reader, token)).status_code == 200
        assert time.monotonic() < deadline
    assert signers == {kid(first), made}
    for node in nodes:
        assert (await read(node, first)).status_code == 200
    listed = json.loads(estate.run("keys", "list", "--format", "json"))["keys"]
    assert [one["kid"] for one in listed] == [kid(first), made]
    estate.run("keys", "remove", kid(first))
    while (await read(estate.one, first)).status_code != 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert (await read(estate.one, tokens[-1])).status_code == 200


async def test_a_suspended_organisation_gets_no_token_and_only_the_client_itself_learns_why(estate: Estate) -> None:
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {ADMIN}"}) as admin:
        url = f"{estate.one.admin_url}/admin/tenants/acme"
        assert (await admin.put(url, json={"status": "suspended"})).status_code == 200
        try:
            answer = await estate.ask(grant(client_secret=estate.secret))
            assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
            answer = await estate.ask(grant(client_secret="x"), source="127.0.5.1")
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        finally:
            assert (await admin.put(url, json={"status": "active"})).status_code == 200


def test_no_secret_and_no_token_is_in_any_log(estate: Estate) -> None:
    token = asyncio.run(estate.token())
    log = estate.one.log() + estate.two.log()
    assert '"route": "/oauth/token"' in log
    assert '"reason": "invalid_client"' in log
    assert "gws_" not in log
    assert token.split(".")[1] not in log


async def test_what_was_issued_and_refused_is_counted(estate: Estate) -> None:
    async def counts() -> dict[str, float]:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            text = (await client.get(f"{estate.one.admin_url}/metrics")).text
        found = re.findall(r'^gateway_tokens_issued_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return {outcome: float(number) for outcome, number in found}

    before = await counts()
    await estate.token()
    await estate.ask(grant(client_secret=estate.secret, scope="foreign:read"))
    after = await counts()
    assert after["issued"] == before["issued"] + 1
    assert after["invalid_scope"] == before.get("invalid_scope", 0) + 1


async def test_the_openapi_document_tells_of_the_issuer(estate: Estate) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        document = (await client.get(f"{estate.one.base_url}/openapi.json")).json()
        for path in ("/oauth/jwks", "/.well-known/oauth-authorization-server"):
            assert (await client.get(estate.one.base_url + path)).status_code == 200
            assert set(document["paths"][path]) == {"get"}
    validate(document)
    told = document["paths"]["/oauth/token"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    assert "invalid_scope" in told["properties"]["error"]["enum"]


@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/jwks", "/.well-known/oauth-authorization-server"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_the_setting_the_addresses_are_not_there(path: str, method: str) -> None:
    gate: Any = SimpleNamespace(authority=None)
    app: Any = RequestMiddleware(route_app(routes(gate)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
