"""Settings of the two ports."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from gateway.config.section import Section
from gateway.config.values import BearerToken, Network, PublicUrl, address_of


class HttpSettings(Section):
    """The public port, which partners reach."""

    host: str = Field("127.0.0.1", description="Address the public port listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Public port; 0 takes a free one.")
    tls_cert_file: Path | None = Field(
        None, description="PEM file with the certificate chain for TLS in the process; without it a proxy ends TLS."
    )
    tls_key_file: Path | None = Field(None, description="PEM file with the private key of the certificate.")
    public_url: PublicUrl = Field(
        default_factory=lambda data: address_of(
            data.get("host", ""), data.get("port", 0), tls=bool(data.get("tls_cert_file"))
        ),
        description="How partners reach the public port; never taken from a request's Host header.",
        json_schema_extra={"shown_default": "from host and port", "allowed": "an http or https address"},
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (),
        description="Proxies whose Forwarded or X-Forwarded-For and -Proto count for a client's address and scheme; "
        "never for public_url.",
        json_schema_extra={"allowed": "a list of IP addresses or networks"},
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file must be given together")
        return self

    def public_url_at(self, port: int) -> str:
        """The public URL when the process listens on ``port``: as configured, else derived from host and that port."""
        if "public_url" in self.model_fields_set:
            return self.public_url
        return address_of(self.host, port, tls=self.tls_cert_file is not None)


class AdminSettings(Section):
    """The management port: health, metrics and administration, never for partners."""

    host: str = Field("127.0.0.1", description="Address the management port listens on.")
    port: int = Field(9090, ge=0, le=65535, description="Management port; 0 takes a free one.")
    tokens: tuple[BearerToken, ...] = Field(
        (), description="Bearer tokens that open /admin/; with none /admin/ is closed."
    )
    tls_cert_file: Path | None = Field(
        None, description="PEM file with the certificate chain for TLS on the management port; without it plain HTTP."
    )
    tls_key_file: Path | None = Field(None, description="PEM file with the private key of that certificate.")
    tls_client_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that sign clients' certificates: whoever shows none of theirs is "
        "refused, for /metrics and probes too.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file must be given together")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file")
        return self
