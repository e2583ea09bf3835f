"""What a tenant is told of its own account, as OpenAPI tells it: usage and statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway.catalog.documents.events import Schema, members, ref
from gateway.catalog.documents.usage import USAGE_HEADERS, USAGE_MEDIA, USAGE_PARAMETERS

Refusals = Callable[[Iterable[int]], dict[str, Any]]
"""The answers of these statuses, by status."""

STATEMENT_FORMS: Final = ("application/json", "text/csv", "text/html", "application/pdf")
_BEARER: Final[list[dict[str, list[str]]]] = [{"bearer": []}]
_TEXT: Final[Schema] = {"type": "string"}
_OBJECT: Final[Schema] = {"type": "object"}
_MOMENT: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_STATEMENT: Final = members(
    {"id": _TEXT, "number": {"type": ["string", "null"]}, "status": _TEXT, "currency": _TEXT, "total": _TEXT},
    ("number", "status"),
    description="Quantities and amounts of money are strings.",
)
_LIMIT: Final = {"limit": "The most on a page.", "next": "Where the page before says to go on."}


def account_paths(refusals: Refusals, *, always: Iterable[int]) -> dict[str, Any]:
    """Paths by address; ``always`` are the statuses that every route may refuse with."""
    statuses = tuple(always)
    missing = {
        "description": "- `statement_not_found`: there is none of this number or id for you.",
        "content": {
            "application/problem+json": {
                "schema": {"allOf": [ref("Problem"), members({"code": {"enum": ["statement_not_found"]}})]}
            }
        },
    }
    return {
        "/v1/usage": {
            "get": _operation(
                "read-usage",
                "What your organisation has read.",
                USAGE_MEDIA,
                refusals(statuses),
                query=USAGE_PARAMETERS,
                headers=USAGE_HEADERS,
            )
        },
        "/v1/statements": {
            "get": _operation(
                "list-statements",
                "What your organisation was and will be charged, the newest first.",
                {
                    "application/json": members(
                        {"statements": {"type": "array", "items": _STATEMENT}, "next": _TEXT}, ("statements",)
                    )
                },
                refusals(statuses),
                query=_LIMIT,
            )
        },
        "/v1/statements/{number}": {
            "get": _operation(
                "read-statement",
                "One statement, in the form that `Accept`, `format` or a suffix of the address asks for.",
                {one: _STATEMENT if one == "application/json" else _TEXT for one in STATEMENT_FORMS},
                {**refusals(statuses), "404": missing},
                query={"format": "`json`, `csv`, `html` or `pdf`."},
                place={"number": "Its number, or its id."},
            )
        },
    }


def _operation(
    name: str,
    summary: str,
    content: Mapping[str, Schema],
    refused: Mapping[str, Any],
    *,
    query: Mapping[str, str | tuple[str, Schema]] | None = None,
    place: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One operation; a parameter of ``query`` without a schema is text."""
    parameters: list[dict[str, Any]] = [{"$ref": "#/components/parameters/correlation-id"}]
    parameters += [
        {"name": one, "in": "path", "required": True, "description": told, "schema": _TEXT}
        for one, told in (place or {}).items()
    ]
    parameters += [
        {"name": one, "in": "query", "description": told, "schema": schema}
        for one, (told, schema) in (
            (one, (told, _TEXT) if isinstance(told, str) else told) for one, told in (query or {}).items()
        )
    ]
    return {
        "operationId": name,
        "summary": summary,
        "security": _BEARER,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": {
                    one: {"$ref": f"#/components/headers/{one}"} for one in ("X-Correlation-Id", "Cache-Control")
                }
                | {one: {"description": told, "schema": _TEXT} for one, told in (headers or {}).items()},
                "content": {media: {"schema": schema} for media, schema in content.items()},
            },
            **refused,
        },
    }
