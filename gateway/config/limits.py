"""Settings of limits that no plan has."""

from __future__ import annotations

from pydantic import Field

from gateway.config.section import Section
from gateway.config.values import Network


class LimitsSettings(Section):
    """Limits that hold before it is known who asks; what a tenant may is in its plan."""

    refused_credentials_per_minute: int = Field(
        60,
        ge=0,
        le=1_000_000,
        description="How many refused tokens and tickets an address (of IPv6, a /64) may bring in a minute, to each "
        "process; what comes on top is answered 429 before it is looked at. 0: any number.",
    )
    exempt_addresses: tuple[Network, ...] = Field(
        ("127.0.0.0/8", "::1/128"),
        description="Addresses and networks that this does not hold for. A proxy in front that is not in "
        "http.trusted_proxies stands for all partners.",
        json_schema_extra={"shown_default": "127.0.0.0/8, ::1/128", "allowed": "a list of IP addresses or networks"},
    )
