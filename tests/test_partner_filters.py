"""Absurd filters: refused before anything is opened, with the name and what is allowed, on every protocol."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.parts.estate import SENSORS, Node
from tests.parts.made_up import ask
from tests.parts.partner import Partner, problem

pytest_plugins = ("tests.parts.served",)

NAMES = ("count", "level", "live", "site")
TERMS: list[tuple[str, str, tuple[str, ...]]] = [
    # the term, the code of the refusal, what its detail names
    ("no op", "site", ("name:op:value",)),
    ("no value", "site:eq", ("name:op:value",)),
    ("no name", ":eq:x", NAMES),
    ("nothing but colons", "::::::::", NAMES),
    ("an unknown name", "altitude:eq:1", ("altitude", *NAMES)),
    ("a name in another case", "Site:eq:x", ("Site", *NAMES)),
    ("a hidden name", "secret:eq:s", ("secret", *NAMES)),
    ("a pointer", "/site:eq:north", ("/site", *NAMES)),
    ("a pointer upwards", "../secret:eq:s", NAMES),
    ("a python name", "__class__:eq:x", ("__class__", *NAMES)),
    ("a name of many characters", "n" * 5000 + ":eq:1", ("nnn…", *NAMES)),
    ("a name of controls", "si\r\nte\0:eq:x", ("si??te?", *NAMES)),
    ("an unknown op", "site:like:%north%", ("like", "prefix", "exists")),
    ("a regular expression", "site:~:(a+)+$", ("'~'", "prefix")),
    ("an op in another case", "site:EQ:north", ("EQ", "eq")),
    ("an op of a string on a number", "level:prefix:1", ("prefix", "level", "ge")),
    ("an order of booleans", "live:gt:false", ("gt", "live", "eq, ne, in, exists")),
    ("text for a number", "level:eq:high", ("level", "high", "number")),
    ("a number of another script", "level:eq:\u0661", ("level", "number")),
    ("no JSON number", "level:eq:.5", ("level", ".5", "number")),
    ("hexadecimal", "level:eq:0x10", ("level", "0x10", "number")),
    ("not a number", "level:eq:NaN", ("level", "NaN", "number")),
    ("infinity", "level:lt:Infinity", ("level", "Infinity", "number")),
    ("beyond all numbers", "level:eq:1e999", ("level", "1e999", "range")),
    ("a number of many digits", "level:eq:" + "9" * 900, ("level", "999…")),
    ("a fraction for an integer", "count:eq:1.5", ("count", "1.5", "integer")),
    ("an exponent for an integer", "count:eq:1e3", ("count", "1e3", "integer")),
    ("null for an integer", "count:eq:null", ("count", "null", "integer")),
    ("an object for an integer", 'count:eq:{"$gt":0}', ("count", "$gt", "integer")),
    ("a number for a boolean", "live:eq:1", ("live", "true, false")),
    ("a boolean in capitals", "live:eq:TRUE", ("live", "true, false")),
    ("a word for existence", "site:exists:perhaps", ("site", "true, false")),
    ("nothing for existence", "site:exists:", ("site", "true, false")),
    ("one bad one among many", "count:in:1,2,x,4", ("count", "'x'", "integer")),
    ("more choices than are allowed", "count:in:" + ",".join(map(str, range(101))), ("count", "100")),
    ("thousands of choices", "count:in:" + "1," * 490 + "1", ("count", "100")),
    ("a value that is too long", "site:eq:" + "x" * 1001, ("site", "1000")),
    ("a string of deep nesting", "site:eq:" + '{"a":[' * 400, ("site", "1000")),
    ("a lone backslash", "site:in:a\\", ("site", "backslash")),
    ("an escape that is none", "site:in:a\\nb", ("site", "backslash")),
]


@pytest.mark.parametrize("suffix", ["records", "sse", "ndjson"])
@pytest.mark.parametrize(("term", "named"), [row[1:] for row in TERMS], ids=[row[0] for row in TERMS])
async def test_an_absurd_filter_is_refused_with_its_name_and_what_is_allowed(
    acme: Partner, suffix: str, term: str, named: tuple[str, ...]
) -> None:
    members = await acme.refused(f"/v1/streams/sensors/{suffix}", 400, "invalid_parameter", filter=term)
    check_reason(members["detail"], named)


@pytest.mark.parametrize(("term", "named"), [row[1:] for row in TERMS], ids=[row[0] for row in TERMS])
async def test_a_websocket_is_refused_an_absurd_filter_in_the_same_words(
    acme: Partner, term: str, named: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with acme.ws("sensors", filter=term):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    members = json.loads(response.body or b"")
    assert members["code"] == "invalid_parameter"
    check_reason(members["detail"], named)


def check_reason(detail: str, named: tuple[str, ...]) -> None:
    assert detail.startswith("filter")
    assert all(text in detail for text in named), detail
    assert len(detail) < 400, "what was sent is quoted in part only"
    assert detail.isprintable()


@pytest.mark.parametrize("suffix", ["records", "sse", "ndjson"])
@pytest.mark.parametrize("count", [21, 100])
async def test_more_terms_than_are_allowed_are_refused_with_the_bound(acme: Partner, suffix: str, count: int) -> None:
    query = [("filter", f"count:ne:{n}") for n in range(count)]
    members = problem(await acme.get(acme.url_of(f"/v1/streams/sensors/{suffix}", query)), 400, "invalid_parameter")
    assert members["detail"] == f"filter is given {count} times; at most 20 terms are allowed."


async def test_hundreds_of_terms_are_too_many_parameters_of_any_kind(acme: Partner) -> None:
    query = [("filter", f"count:ne:{n}") for n in range(300)]
    members = problem(await acme.get(acme.url_of("/v1/streams/sensors/records", query)), 400, "bad_request")
    assert "100 parameters" in members["detail"]


@pytest.mark.parametrize("lines", [(), ("Connection: Upgrade", "Upgrade: websocket")], ids=["http", "upgrade"])
async def test_ten_thousand_terms_are_a_target_that_is_too_long(gateway_node: Node, lines: tuple[str, ...]) -> None:
    target = "/v1/streams/sensors/records?" + "&".join(f"filter=count:ne:{n}" for n in range(10_000))
    url = httpx.URL(gateway_node.base_url)
    head = [f"GET {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {gateway_node.partner().token}", *lines]
    answer = await ask(url.host, url.port or 80, "\r\n".join([*head, "", ""]).encode())
    assert answer is not None
    assert answer.status == 414
    members: dict[str, Any] = json.loads(answer.body)
    assert members["code"] == "uri_too_long"
    assert "8192" in members["detail"]


async def test_what_only_looks_absurd_is_served(acme: Partner) -> None:
    """At the bounds: as many terms, choices and characters as are allowed, and text that means nothing special here."""
    terms = [
        "count:in:" + ",".join(map(str, range(100))),
        "site:ne:" + "x" * 1000,
        "site:ne:' or 1=1 --",
        "site:ne:\r\n\0\u2028",
        "site:ne:${x}{{x}}%s",
        "count:lt:" + "9" * 300,
        "level:gt:-1e308",
        "site:in:a\\,b,\\\\,",
    ]
    for term in terms[:-1]:
        page = await acme.pull("sensors", from_="earliest", filter=term)
        assert page["records"], term
        assert len(page["records"]) <= len(SENSORS)
    assert (await acme.pull("sensors", from_="earliest", filter=terms[-1]))["records"] == []
    query = [("from", "earliest"), *[("filter", f"count:ne:{n}") for n in range(100, 120)]]
    answer = await acme.get(acme.url_of("/v1/streams/sensors/records", query))
    assert len(answer.json()["records"]) == len(SENSORS)


@pytest.mark.parametrize(
    "fields", ["", "site", "/" * 2000, "/~2", ",".join(["/site"] * 101), "/secret", "/at" + "/x" * 40]
)
async def test_absurd_fields_are_refused_with_what_is_allowed(acme: Partner, fields: str) -> None:
    members = await acme.refused("/v1/streams/sensors/records", 400, "invalid_parameter", fields=fields)
    assert "fields" in members["detail"]
    assert len(members["detail"]) < 400
