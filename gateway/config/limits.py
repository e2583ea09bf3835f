"""Settings of limits that no plan has."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from gateway.config.section import Section
from gateway.config.values import Network

LEAST_SECRET_CHARACTERS = 16


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


class AlertsSettings(Section):
    """Telling a system of yours that a tenant has used 50, 80 or 100 percent of a quota or of its spend limit; off
    without an address."""

    webhook_url: SecretStr | None = Field(
        None,
        description="Address that alerts are posted to; redirects are not followed.",
        json_schema_extra={"allowed": "an http or https address"},
    )
    secret: SecretStr | None = Field(
        None, description="Signs what is posted, HMAC-SHA256 as in Standard Webhooks; 16 characters or more."
    )

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if self.webhook_url is None:
            return self
        parts = urlsplit(self.webhook_url.get_secret_value())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("webhook_url must be an http or https address")
        if self.secret is None or len(self.secret.get_secret_value()) < LEAST_SECRET_CHARACTERS:
            raise ValueError(f"webhook_url needs secret, of at least {LEAST_SECRET_CHARACTERS} characters")
        return self
