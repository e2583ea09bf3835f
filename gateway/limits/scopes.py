"""Tighter rates within a plan: of one stream, and of each application by itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from gateway.limits.standing import rate_of
from gateway.model import Grant

PACED: Final = ("records_per_second", "replay_records_per_second", "bytes_per_second")
"""The rates that hold a read back, and that may be tighter in a scope."""

RATES: Final = ("requests_per_second", *PACED)
"""All rates of a plan."""

STREAMS: Final = "streams"
EACH_APPLICATION: Final = "each_application"
SCOPES: Final = (STREAMS, EACH_APPLICATION)
"""Members of a plan's limits that are no limits of the whole plan."""


def of_stream(limits: Mapping[str, Any], stream: str) -> Mapping[str, Any]:
    """The rates of all the tenant's reads of this stream together; empty: it has none of its own."""
    found: Mapping[str, Any] = limits.get(STREAMS, {}).get(stream, {})
    return found


def of_each_application(limits: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rates of all reads of one application together; empty: there are none."""
    found: Mapping[str, Any] = limits.get(EACH_APPLICATION, {})
    return found


def name_of_stream(stream: str) -> str:
    """What a stream's own rates are kept by."""
    return f"stream:{stream}"


def name_of_application(issuer: str, client_id: str) -> str:
    """What an application's own rates are kept by."""
    return f"application:{issuer}:{client_id}"


def scope_of(grant: Grant) -> Hashable:
    """Within a tenant's plan the same for all reads that are under the very same limits, and only for them."""
    limits, stream = grant.plan.limits, grant.contract.stream
    application = (grant.principal.issuer, grant.application) if of_each_application(limits) else None
    return grant.plan.revision, stream if of_stream(limits, stream) else None, application


def limits_on(limits: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """What holds an application that reads this stream: of each limit the tightest, as plain data by name."""
    found = {name: _copy(limit) for name, limit in sorted(limits.items()) if name not in SCOPES}
    for narrow in (of_stream(limits, stream), of_each_application(limits)):
        for name, limit in narrow.items():
            known, tighter = rate_of(found, name), rate_of(narrow, name)
            if tighter is not None and (known is None or tighter[0] < known[0]):
                found[name] = _copy(limit)
    return found


def _copy(limit: Any) -> Any:
    return dict(limit) if isinstance(limit, Mapping) else limit
