"""Settings of Redis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from gateway.config.section import Section
from gateway.config.values import RedisUrl, Servers


class RedisSettings(Section):
    """Where limits, tickets and the bell of revocations live."""

    url: RedisUrl | None = Field(
        None,
        description="Address of Redis, with user and password; with sentinels without a host, which they name; of a "
        "cluster the server that is asked first.",
        json_schema_extra={"allowed": "an address that begins with redis://, rediss:// or unix://"},
    )
    mode: Literal["single", "sentinel", "cluster"] = Field("single", description="Topology behind the address.")
    sentinels: Servers = Field(
        (),
        description="Sentinels to ask for the master.",
        json_schema_extra={"allowed": "host:port, separated by commas, or a list of them"},
    )
    sentinel_service: str | None = Field(None, min_length=1, description="What the sentinels call the master.")
    sentinel_username: str | None = Field(None, description="User name at the sentinels, which have their own users.")
    sentinel_password: SecretStr | None = Field(None, description="Password at the sentinels.")
    cluster_nodes: Servers = Field(
        (),
        description="Further servers of a cluster to ask first, where the one of the address is away.",
        json_schema_extra={"allowed": "host:port, separated by commas, or a list of them"},
    )
    ssl_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that may sign the certificates of servers and sentinels; without it "
        "the machine's.",
    )
    ssl_cert_file: Path | None = Field(None, description="PEM file of the gateway's own certificate, for mutual TLS.")
    ssl_key_file: Path | None = Field(None, description="PEM file of the private key of that certificate, unencrypted.")

    @model_validator(mode="after")
    def _topology_is_whole(self) -> Self:
        for mode, names in _REDIS_MODES.items():
            stray = [name for name in names if getattr(self, name) and self.mode != mode]
            if stray:
                raise ValueError(f"{stray[0]} is for mode {mode}, and the mode is {self.mode}")
        if self.url is None:
            if self.mode != "single":
                raise ValueError(f"mode {self.mode} needs url, for its scheme, user and password")
            return self
        parts = urlsplit(self.url.get_secret_value())
        if self.mode == "sentinel":
            if not self.sentinels or self.sentinel_service is None:
                raise ValueError("mode sentinel needs sentinels and sentinel_service")
            if parts.scheme == "unix" or parts.hostname is not None:
                raise ValueError("with mode sentinel url has no host, the sentinels name it: redis://user:password@/0")
        if self.mode == "cluster" and (parts.scheme == "unix" or parts.path.strip("/") not in ("", "0")):
            raise ValueError("with mode cluster url is redis:// or rediss://, of database 0: a cluster has no other")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.ssl_cert_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_cert_file and ssl_key_file must be given together")
        has_files = self.ssl_ca_file is not None or self.ssl_cert_file is not None
        if has_files and self.url is not None and not self.url.get_secret_value().startswith("rediss://"):
            raise ValueError("ssl_ca_file, ssl_cert_file and ssl_key_file need a url that begins with rediss://")
        return self


_REDIS_MODES: Mapping[str, tuple[str, ...]] = {
    "sentinel": ("sentinels", "sentinel_service", "sentinel_username", "sentinel_password"),
    "cluster": ("cluster_nodes",),
}
"""Settings that say nothing in another mode."""
