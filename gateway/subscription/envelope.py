"""What stands around a payload: the gateway's own record, CloudEvents 1.0 in structured JSON, or nothing.

``spell`` gets the record's parts as JSON text and returns one line of JSON. ``data`` is the payload's JSON, or for
payloads that are not JSON a base64 string; tombstones are ``null`` in either case.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from gateway.model import Contract

FramingName = Literal["sse", "ws", "ndjson", "pull"]
_json = msgspec.json.Encoder().encode


class Envelope(Protocol):
    """How a record's parts become one JSON text."""

    def key(self, key: bytes) -> bytes:
        """The exposed key as a JSON member with its comma."""
        ...

    def headers(self, headers: Mapping[str, bytes]) -> bytes:
        """The exposed headers as a JSON member with its comma."""
        ...

    def spell(self, cursor: bytes, uid: bytes, extras: bytes, time: bytes, data: bytes) -> bytes: ...


class RecordEnvelope:
    """``{"id", "uid", "key", "headers", "time", "data"}``; SSE has the cursor in its own ``id:`` line."""

    def __init__(self, framing: FramingName, *, data_name: bytes) -> None:
        head = {"sse": b"{", "pull": b'{"id":"%b",'}.get(framing, b'{"type":"record","id":"%b",')
        self._has_cursor = framing != "sse"
        self._data_name = data_name
        self._template = head + b'"uid":"%b",%b"time":"%b",%b%b}'

    def key(self, key: bytes) -> bytes:
        try:
            return b'"key":%b,' % _json(key.decode("utf-8"))
        except UnicodeDecodeError:
            return b'"key_base64":"%b",' % base64.b64encode(key)

    def headers(self, headers: Mapping[str, bytes]) -> bytes:
        spelled = {name: value.decode("utf-8", "backslashreplace") for name, value in headers.items()}
        return b'"headers":%b,' % _json(spelled)

    def spell(self, cursor: bytes, uid: bytes, extras: bytes, time: bytes, data: bytes) -> bytes:
        name = b'"data":' if data == b"null" else self._data_name
        if self._has_cursor:
            return self._template % (cursor, uid, extras, time, name, data)
        return self._template % (uid, extras, time, name, data)


class CloudEventsEnvelope:
    """CloudEvents 1.0, structured JSON (CloudEvents JSON format 1.0.2), with the extension attribute ``cursor``.

    An exposed key is ``partitionkey`` (the documented partitioning extension); headers have no place in it.
    """

    def __init__(self, contract: Contract, *, data_name: bytes, stream_url: str) -> None:
        self._data_name = data_name
        fixed = _json({"source": stream_url, "type": f"{contract.id}.{contract.message_name}"})[1:-1]
        self._head = b'{"specversion":"1.0",' + fixed
        self._content = b'"datacontenttype":%b,' % _json(contract.content_type)

    def key(self, key: bytes) -> bytes:
        try:
            text = key.decode("utf-8")
        except UnicodeDecodeError:
            text = base64.b64encode(key).decode("ascii")
        # An attribute's value is a non-empty string (CloudEvents 1.0 §Type System).
        return b'"partitionkey":%b,' % _json(text) if text else b""

    def headers(self, headers: Mapping[str, bytes]) -> bytes:
        return b""

    def spell(self, cursor: bytes, uid: bytes, extras: bytes, time: bytes, data: bytes) -> bytes:
        name = b'"data":' if data == b"null" else self._data_name
        content = self._content
        return b'%b,"id":"%b","time":"%b",%b%b"cursor":"%b",%b%b}' % (
            self._head,
            uid,
            time,
            content,
            extras,
            cursor,
            name,
            data,
        )


class NoEnvelope:
    """The payload alone."""

    def key(self, key: bytes) -> bytes:
        return b""

    def headers(self, headers: Mapping[str, bytes]) -> bytes:
        return b""

    def spell(self, cursor: bytes, uid: bytes, extras: bytes, time: bytes, data: bytes) -> bytes:
        return data


def envelope_of(
    name: Literal["record", "cloudevents", "none"], contract: Contract, framing: FramingName, *, stream_url: str
) -> Envelope:
    """The envelope of that name for one contract and protocol."""
    data_name = b'"data":' if contract.is_json else b'"data_base64":'
    if name == "none":
        return NoEnvelope()
    if name == "cloudevents":
        return CloudEventsEnvelope(contract, data_name=data_name, stream_url=stream_url)
    return RecordEnvelope(framing, data_name=data_name)
