"""One stream's payload as its documents show it: the schema of ``data`` and samples, projected and masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.catalog.documents.fitting import fits
from gateway.catalog.documents.masking import masked_sample, masked_schema
from gateway.catalog.documents.schema import Dialect, SchemaCut, follow, project
from gateway.model import Contract, Masks
from gateway.subscription.projection import tree

_JSON_FORMATS: Final = ("application/schema+json", "application/vnd.aai.asyncapi", "application/schema+yaml")
_MOST_EXAMPLES: Final = 10
_LABEL: Final = re.compile(r"[\x20-\x7e]{1,100}")


class Payload:
    """What the contract's one message says of its payload; one that is not JSON shows no schema and no samples."""

    def __init__(self, contract: Contract, dialect: Dialect, *, masks: Masks = ()) -> None:
        message = _message(contract)
        title = message.get("title")
        self.title = title if isinstance(title, str) and title.strip() else contract.message_name
        self._masks = masks
        self._tree = None if contract.projection is None else tree(contract.projection)
        self.schema: Any = True
        self.examples: list[tuple[str, Any]] = []
        if not contract.is_json:
            return
        cut = SchemaCut(contract.document, dialect)
        node = _json_schema(contract.document, message.get("payload"))
        self.schema = masked_schema(cut.whole(node) if self._tree is None else cut.part(node, self._tree), masks)
        self.examples = list(self._samples(message.get("examples")))[:_MOST_EXAMPLES]

    def _samples(self, examples: Any) -> list[tuple[str, Any]]:
        """Samples with a label each, those that fit the schema: a wrong one would make the whole document invalid."""
        found: list[tuple[str, Any]] = []
        for number, one in enumerate(examples if isinstance(examples, list) else (), start=1):
            if not isinstance(one, dict) or "payload" not in one:
                continue
            value = one["payload"] if self._tree is None else project(one["payload"], self._tree)
            value = masked_sample(value, self._masks)
            name = one.get("name")
            label = name if isinstance(name, str) and _LABEL.fullmatch(name) else f"example {number}"
            if fits(value, self.schema):
                found.append((label, value))
        return found


def _message(contract: Contract) -> Mapping[str, Any]:
    """The message of the contract's channel."""
    document = contract.document
    channels = document.get("channels")
    for node in channels.values() if isinstance(channels, dict) else ():
        channel = follow(document, node)
        exposed = channel.get("x-gateway") if isinstance(channel, dict) else None
        if isinstance(exposed, dict) and exposed.get("stream") == contract.stream:
            messages = channel.get("messages")
            for message in messages.values() if isinstance(messages, dict) else ():
                followed = follow(document, message)
                return followed if isinstance(followed, dict) else {}
    return {}


def _json_schema(document: Mapping[str, Any], payload: Any) -> Any:
    """The payload's schema where it is JSON Schema; True, which says nothing, where it is in another language."""
    payload = follow(document, payload)
    if not isinstance(payload, dict) or "schemaFormat" not in payload:
        return payload
    named = payload["schemaFormat"]
    is_json = isinstance(named, str) and named.startswith(_JSON_FORMATS)
    return payload.get("schema") if is_json else True
