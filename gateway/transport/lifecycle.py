"""Header fields that tell readers of a stream's end."""

from __future__ import annotations

from gateway.model import Grant


def lifecycle_headers(grant: Grant) -> list[tuple[bytes, bytes]]:
    """``Deprecation`` (RFC 9745) and ``Sunset`` (RFC 8594) of a deprecated stream."""
    contract = grant.contract
    headers: list[tuple[bytes, bytes]] = []
    if contract.lifecycle != "deprecated":
        return headers
    if contract.deprecated_on is not None:
        seconds = (contract.deprecated_on.toordinal() - 719_163) * 86_400
        headers.append((b"deprecation", b"@%d" % seconds))
    if contract.sunset_on is not None:
        headers.append((b"sunset", contract.sunset_on.strftime("%a, %d %b %Y 00:00:00 GMT").encode("ascii")))
    return headers
