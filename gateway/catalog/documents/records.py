"""A stream's records as schemas and samples, in every envelope and around every protocol."""

from __future__ import annotations

from typing import Any, Final

from gateway.catalog.documents.events import (
    CURSOR_SAMPLE,
    TIME_SAMPLE,
    UID_SAMPLE,
    Schema,
    members,
    page_gap,
    ref,
)
from gateway.catalog.documents.payload import Payload
from gateway.model import Contract
from gateway.subscription.request import ENVELOPES

_TEXT: Final[Schema] = {"type": "string"}
_BASE64: Final[Schema] = {"type": "string", "contentEncoding": "base64"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time", "description": "Kafka's time of the record, UTC."}
_UID: Final[Schema] = {
    "type": "string",
    "maxLength": 24,
    "description": "The record's identity, the same on every node, protocol and delivery: for finding duplicates.",
}

_BOOLEANS: Final[dict[bool, Schema]] = {True: {}, False: {"not": {}}}


class RecordSchemas:
    """The schemas of one stream's records, by names that begin with the stream's."""

    def __init__(self, contract: Contract, payload: Payload, *, stream_url: str) -> None:
        self._contract = contract
        self._payload = payload
        self._url = stream_url
        self.envelopes = ENVELOPES

    def name(self, kind: str) -> str:
        """The schema's name. ``kind``: data, event (SSE), item (in a page), frame, cloudevent, payload, page."""
        return f"{self._contract.stream}.{kind}"

    def schemas(self) -> dict[str, Schema]:
        """All of them."""
        contract, name = self._contract, self.name
        found: dict[str, Any] = {}
        if contract.is_json:
            # Not a bare boolean: generators of code want an object to name.
            found[name("data")] = (
                _BOOLEANS.get(self._payload.schema) if isinstance(self._payload.schema, bool) else self._payload.schema
            )
        found[name("event")] = self._record({})
        found[name("item")] = self._record({"id": ref("Cursor")})
        found[name("frame")] = self._record({"type": {"const": "record"}, "id": ref("Cursor")})
        kinds = ["item"]
        if "cloudevents" in self.envelopes:
            found[name("cloudevent")] = self._cloudevent()
            kinds.append("cloudevent")
        if "none" in self.envelopes:
            found[name("payload")] = self._bare()
            kinds.append("payload")
        found[name("page")] = self._page([ref(name(kind)) for kind in kinds])
        return found

    def _data(self) -> tuple[dict[str, Schema], list[str]]:
        if self._contract.is_json:
            tombstone = {"type": "null", "description": "The record was deleted under its key."}
            return {"data": {"anyOf": [ref(self.name("data")), tombstone]}}, ["data"]
        media = self._contract.content_type
        return {
            "data_base64": {**_BASE64, "contentMediaType": media, "description": "The payload's bytes."},
            "data": {
                "type": "null",
                "description": "Instead of `data_base64` where the record was deleted under its key.",
            },
        }, []

    def _bare(self) -> Schema:
        if self._contract.is_json:
            return {"anyOf": [ref(self.name("data")), {"type": "null"}]}
        return {"anyOf": [dict(_BASE64), {"type": "null"}]}

    def _record(self, head: dict[str, Schema]) -> Schema:
        data, required = self._data()
        properties = {**head, "uid": _UID}
        if self._contract.key_exposed:
            properties["key"] = {**_TEXT, "description": "The record's key, where it has one."}
            properties["key_base64"] = {**_BASE64, "description": "The same, where the key is not UTF-8."}
        if self._contract.headers:
            properties["headers"] = members(dict.fromkeys(self._contract.headers, _TEXT))
        properties |= {"time": _TIME, **data}
        return members(properties, [*head, "uid", "time", *required])

    def _cloudevent(self) -> Schema:
        data, required = self._data()
        contract = self._contract
        properties: dict[str, Schema] = {
            "specversion": {"const": "1.0"},
            "id": _UID,
            "source": {"const": self._url},
            "type": {"const": f"{contract.id}.{contract.message_name}"},
            "time": _TIME,
            "datacontenttype": _TEXT,
            "cursor": ref("Cursor"),
            **data,
        }
        if contract.key_exposed:
            properties["partitionkey"] = {**_TEXT, "description": "The record's key, where it has one."}
        required = ["specversion", "id", "source", "type", "time", "cursor", *required]
        return members(properties, required, description="CloudEvents 1.0 in structured JSON.")

    def _page(self, records: list[Schema]) -> Schema:
        properties: dict[str, Schema] = {
            "records": {"type": "array", "items": records[0] if len(records) == 1 else {"anyOf": records}},
            "next_cursor": ref("Cursor"),
            "behind_ms": {"type": "integer", "minimum": 0, "description": "Age of the next record, 0 at the head."},
            "throttled_ms": {
                "type": "integer",
                "minimum": 0,
                "description": "0, or when there may be more: the plan's rate made this page shorter.",
            },
            "gaps": {"type": "array", "items": page_gap()},
        }
        if self._contract.row_filter is None:
            properties["lag"] = {"type": "integer", "minimum": 0, "description": "Records from here to the head."}
        return members(properties, ("records", "next_cursor", "behind_ms", "throttled_ms", "gaps"))

    def samples(self, kind: str) -> list[tuple[str, Any]]:
        """The contract's examples wrapped as a record of that kind."""
        return [(label, self._sample(kind, data)) for label, data in self._payload.examples]

    def _sample(self, kind: str, data: Any) -> Any:
        if kind == "payload":
            return data
        if kind == "page":
            page = {"records": [self._sample("item", data)], "next_cursor": CURSOR_SAMPLE, "behind_ms": 0}
            return {**page, "throttled_ms": 0, "gaps": []}
        if kind == "cloudevent":
            attributes = {"id": UID_SAMPLE, "source": self._url, "time": TIME_SAMPLE, "cursor": CURSOR_SAMPLE}
            kind_of_event = f"{self._contract.id}.{self._contract.message_name}"
            return {"specversion": "1.0", "type": kind_of_event, **attributes, "data": data}
        head = {"frame": {"type": "record", "id": CURSOR_SAMPLE}, "item": {"id": CURSOR_SAMPLE}}.get(kind, {})
        return {**head, "uid": UID_SAMPLE, "time": TIME_SAMPLE, "data": data}
