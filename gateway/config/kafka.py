"""Settings of Kafka clusters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from gateway.config.section import Section
from gateway.config.values import Name, Servers, TokenUrl

MAIN_CLUSTER = "main"


class ClusterSettings(Section):
    """How to reach one Kafka cluster."""

    bootstrap_servers: Servers = Field(
        (),
        description="Brokers to ask first, for the whole cluster.",
        json_schema_extra={"allowed": "host:port, separated by commas, or a list of them"},
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How connections are protected."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="How the gateway proves who it is, with a SASL protocol."
    )
    sasl_username: str | None = Field(None, description="User name for SASL.")
    sasl_password: SecretStr | None = Field(None, description="Password for SASL.")
    sasl_oauth_token_url: TokenUrl | None = Field(
        None,
        description="Endpoint that gives tokens for OAUTHBEARER, by client credentials (RFC 6749 §4.4).",
        json_schema_extra={"allowed": "an http or https address"},
    )
    sasl_oauth_client_id: str | None = Field(None, description="Who asks that endpoint.")
    sasl_oauth_client_secret: SecretStr | None = Field(None, description="Secret of that client.")
    sasl_oauth_scope: str | None = Field(None, description="Scope to ask for, where the endpoint wants one.")
    ssl_cafile: Path | None = Field(
        None, description="PEM file of the authorities that may sign brokers' certificates; without it the machine's."
    )
    ssl_certfile: Path | None = Field(None, description="PEM file of the gateway's own certificate, for mutual TLS.")
    ssl_keyfile: Path | None = Field(None, description="PEM file of the private key of that certificate, unencrypted.")

    @model_validator(mode="after")
    def _security_is_whole(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            self._sasl_is_whole()
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile must be given together")
        return self

    def _sasl_is_whole(self) -> None:
        if self.sasl_mechanism == "OAUTHBEARER":
            needed = ("sasl_oauth_token_url", "sasl_oauth_client_id", "sasl_oauth_client_secret")
        else:
            needed = ("sasl_mechanism", "sasl_username", "sasl_password")
        if not all(getattr(self, name) for name in needed):
            what = "sasl_mechanism OAUTHBEARER" if "sasl_mechanism" not in needed else ""
            what = what or f"security_protocol {self.security_protocol}"
            raise ValueError(f"{what} needs {needed[0]}, {needed[1]} and {needed[2]}")


class KafkaSettings(ClusterSettings):
    """The cluster named ``main``, and any others by name."""

    clusters: dict[Name, ClusterSettings] = Field(
        default_factory=dict,
        description="Further clusters by name, each with the settings of kafka itself; a contract's server names one.",
        json_schema_extra={"shown_default": "none", "allowed": "tables by name"},
    )

    @model_validator(mode="after")
    def _main_is_not_twice(self) -> Self:
        if MAIN_CLUSTER in self.clusters:
            raise ValueError(f"the cluster named {MAIN_CLUSTER} is kafka itself; give kafka.clusters another name")
        return self

    def by_name(self) -> Mapping[str, ClusterSettings]:
        """Every configured cluster, ``main`` among them where it has servers."""
        main = {MAIN_CLUSTER: self} if self.bootstrap_servers else {}
        return {**main, **self.clusters}
