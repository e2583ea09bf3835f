"""Contracts and audiences for the tests of documents: written as files and loaded as the gateway loads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from gateway.catalog.contracts import Contracts, load_contracts
from gateway.catalog.documents.asyncapi import asyncapi_document
from gateway.catalog.documents.offer import Audience, Offer
from gateway.catalog.documents.openapi import openapi_document
from gateway.catalog.documents.spelling import spell_json, spell_yaml
from gateway.model import Plan
from tests.parts.gateway import contract

URL = "https://api.example.com"

SECRET = "zzsecret"
"""Stands in everything of ``hostile_contract`` that is internal."""

MARKUP = (
    "<script>alert(1)</script> [x](javascript:alert(2)) ]]> ' \" ` ${x} {{x}} \\u2028 \u2028 \U0001f600 </textarea>"
)


def loaded(folder: Path, documents: Sequence[Mapping[str, Any]]) -> Contracts:
    """The contracts of these AsyncAPI documents."""
    streams = folder / "asyncapi" / "streams"
    streams.mkdir(parents=True)
    for number, document in enumerate(documents):
        (streams / f"{number:03}.yaml").write_text(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))
    return load_contracts(folder / "asyncapi")


def everyone(contracts: Contracts, *, plan: Plan | None = None) -> Audience:
    """An audience that may read all of them."""
    return Audience(tuple(Offer(one, plan) for one in contracts.values()), is_tenant=plan is not None)


def spelled(audience: Audience, *, public_url: str = URL) -> dict[str, bytes]:
    """The documents as they are served, by file name."""
    asyncapi = asyncapi_document(audience, public_url=public_url)
    return {
        "asyncapi.json": spell_json(asyncapi),
        "asyncapi.yaml": spell_yaml(asyncapi),
        "openapi.json": spell_json(openapi_document(audience, public_url=public_url)),
    }


def hostile_contract() -> dict[str, Any]:
    """Markup in every text that is shown, ``SECRET`` in everything that is not, and names that trip up tools."""
    document = contract(
        "constructor",
        f"{SECRET}.topic",
        owner=f"{SECRET}-owner@example.com",
        projection=["/shown", "/a~1b", "/t~0~1x", "/__proto__", "/nested/kept", "/either", "/toString"],
        filters={
            "shown": {"pointer": "/shown", "type": "string"},
            f"{SECRET}_row": {"pointer": f"/{SECRET}_row", "type": "string"},
        },
        row_filter={"field": f"{SECRET}_row", "claim": f"{SECRET}_claim"},
        headers=["trace<b>"],
        lifecycle="deprecated",
        deprecated_on=date(2026, 1, 15),
        sunset_on=date(2031, 6, 30),
        sla={"note": SECRET},
    )
    document["info"] |= {
        "title": MARKUP,
        "description": MARKUP * 3,
        "termsOfService": f"https://{SECRET}.example.com",
        "contact": {"name": MARKUP, "email": "team@example.com", "url": f"https://{SECRET}.example.com"},
        "x-internal": SECRET,
    }
    document["servers"] = {
        f"{SECRET}cluster": {
            "host": f"{SECRET}.broker:9092",
            "protocol": "kafka",
            "description": SECRET,
            "bindings": {"kafka": {"schemaRegistryUrl": f"https://{SECRET}.registry"}},
        }
    }
    (channel,) = document["channels"].values()
    channel["servers"] = [{"$ref": f"#/servers/{SECRET}cluster"}]
    channel |= {"title": MARKUP, "tags": [{"name": SECRET}], "summary": SECRET, "x-note": SECRET}
    document["components"]["schemas"] = {"Shown": {"type": "string", "description": MARKUP, "x-of": SECRET}}
    document["components"]["messages"]["event"] |= {
        "title": MARKUP,
        "summary": f"Also {SECRET}_field.",
        "description": f"Also {SECRET}_field.",
        "headers": {"type": "object", "properties": {f"{SECRET}_header": {"type": "string"}}},
        "bindings": {"kafka": {"schemaIdLocation": SECRET, "key": {"description": SECRET}}},
        "payload": _hostile_payload(),
        "examples": [
            {
                "name": f"\u2028{SECRET}",
                "summary": SECRET,
                "headers": {f"{SECRET}_header": "x"},
                "payload": {
                    "shown": MARKUP,
                    "a/b": 1,
                    "__proto__": {"x": 123456789012345678901234567890},
                    "nested": {"kept": 1.10, f"{SECRET}_deep": 5},
                    f"{SECRET}_field": 5,
                    "either": None,
                },
            },
            {"name": "wrong", "payload": {"shown": 5}},
            {"name": "no mapping", "payload": [SECRET]},
        ],
    }
    return document


def _hostile_payload() -> dict[str, Any]:
    hidden = f"{SECRET}_field"
    return {
        "type": "object",
        "title": f"With {hidden}",
        "description": f"With {hidden}",
        "$comment": SECRET,
        "$id": f"https://{SECRET}.registry/1",
        "x-registry": SECRET,
        "required": ["shown", hidden, "nested", "either"],
        "minProperties": 9,
        "additionalProperties": {"description": SECRET},
        "patternProperties": {f"^{SECRET}": {"type": "string"}},
        "propertyNames": {"enum": ["shown", hidden]},
        "dependencies": {"shown": [hidden]},
        "dependentRequired": {"shown": [hidden]},
        "default": {hidden: 1},
        "examples": [{hidden: 1}],
        "enum": [{hidden: 1}, {"shown": "x"}],
        "discriminator": hidden,
        "externalDocs": {"url": f"https://{SECRET}.example.com"},
        "if": {"required": [hidden]},
        "then": {"properties": {hidden: {"const": 1}, "toString": {"type": "string", "description": MARKUP}}},
        "allOf": [{"required": [hidden]}, {"properties": {hidden: {}, "either": {"type": ["string", "null"]}}}],
        "oneOf": [{"required": ["shown"]}, {"properties": {hidden: {"type": "integer"}}}],
        "not": {"required": [f"{SECRET}_never"]},
        "properties": {
            "shown": {"$ref": "#/components/schemas/Shown"},
            "a/b": {"type": "integer", "minimum": 0, "x-unit": SECRET, "$comment": SECRET},
            "t~/x": True,
            "__proto__": {"type": "object", "description": MARKUP, "properties": {"constructor": {"type": "string"}}},
            hidden: {"type": "integer", "description": SECRET},
            f"{SECRET}_row": {"type": "string"},
            "nested": {
                "type": "object",
                "description": f"Holds {hidden}",
                "required": ["kept", f"{SECRET}_deep"],
                "properties": {"kept": {"type": "number", "default": "wrong"}, f"{SECRET}_deep": {"type": "integer"}},
            },
        },
    }


def wide_contract(fields: int) -> dict[str, Any]:
    """A payload of very many fields, every second one shown."""
    names = [f"f{number:05}" for number in range(fields)]
    properties: dict[str, Any] = {name: {"type": "integer"} for name in names}
    properties["f00000"]["description"] = "The first of them."
    document = contract(
        "wide",
        "wide-topic",
        payload={"type": "object", "properties": properties, "required": names},
        projection=[f"/{name}" for name in names[::2]],
        transports=["sse", "pull"],
    )
    document["components"]["messages"]["event"]["examples"] = [{"payload": dict.fromkeys(names, 1)}]
    return document
