"""Every setting: its meaning, unit, bounds and default, and whether it is a secret.

The pages in docs/reference and the text of every configuration error are made from these fields, so a setting is
described here once. A value that is derived when absent says so in ``shown_default``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config.auth import AuthSettings
from gateway.config.billing import BillingSettings
from gateway.config.limits import AlertsSettings, LimitsSettings
from gateway.config.metering import MeteringSettings
from gateway.config.section import Section
from gateway.config.values import (
    BearerToken,
    CursorKey,
    DatabaseUrl,
    Name,
    Network,
    OtlpHeader,
    PublicUrl,
    RedisUrl,
    Servers,
    Size,
    TokenUrl,
    address_of,
)

MAIN_CLUSTER = "main"


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


class DatabaseSettings(Section):
    """The store of catalog, keys and revocations."""

    url: DatabaseUrl = Field(
        SecretStr(""),
        description="SQLAlchemy address of the database.",
        json_schema_extra={
            "shown_default": "sqlite:///{data.dir}/gateway.db",
            "allowed": "an address that begins with sqlite:/// or postgresql+psycopg://",
        },
    )
    auto_upgrade: bool = Field(
        True,
        description="Whether serve and apply make or upgrade the schema; if not, `gateway db upgrade` has to.",
    )
    start_seconds: float = Field(
        10.0, ge=0, le=3600, description="How long a start waits for a database that is away, in seconds; then exit 1."
    )
    pool_size: int = Field(5, ge=1, le=100, description="Most connections of a process to the database.")
    pool_timeout_seconds: float = Field(
        3.0, ge=0.1, le=300, description="Longest wait for a connection to be free, in seconds."
    )
    connect_timeout_seconds: int = Field(
        3, ge=2, le=300, description="Longest time to connect to Postgres, in seconds, for each host of the address."
    )
    statement_timeout_seconds: float = Field(
        5.0,
        ge=0.1,
        le=3600,
        description="Longest time for a statement, in seconds; on SQLite the longest wait for the file's lock.",
    )


class DataSettings(Section):
    """What this process keeps on disk."""

    dir: Path = Field(Path("data"), description="Directory of this process's own files; one per process.")


class ContractsSettings(Section):
    """The streams that may be exposed."""

    dir: Path = Field(Path("asyncapi"), description="Directory of the AsyncAPI files, with streams/*.yaml in it.")


class CursorSettings(Section):
    """The secrets that seal partners' cursors."""

    keys: tuple[CursorKey, ...] = Field(
        (),
        description="Secrets of 16 characters or more; the first seals, all of them open, so that keys can be rotated.",
        json_schema_extra={"shown_default": "made once and kept in the database"},
    )


class StreamSettings(Section):
    """Bounds of the engine. Small values are legal."""

    heartbeat_seconds: float = Field(
        15.0, ge=0.1, le=300, description="Time between checkpoints on an idle stream, in seconds."
    )
    ring_bytes: Size = Field(
        64 << 20,
        ge=64 << 10,
        description="Most bytes of records kept in memory per topic.",
        json_schema_extra={"shown_default": "64 MiB"},
    )
    ring_records: int = Field(100_000, ge=1, le=100_000_000, description="Most records kept in memory per topic.")
    drain_seconds: float = Field(
        20.0,
        ge=0,
        le=3600,
        description="Longest time from SIGTERM to the exit, in seconds, and 5 at the least; open streams end in it.",
    )
    linger_seconds: float = Field(
        30.0, ge=0, le=86_400, description="How long a topic stays in memory after its last reader left, in seconds."
    )
    max_record_bytes: Size = Field(
        10 << 20,
        ge=1 << 10,
        description="Largest record that is delivered, key and payload together, in bytes; in the place of a larger "
        "one readers get a gap.",
        json_schema_extra={"shown_default": "10 MiB"},
    )
    max_batch_bytes: Size = Field(
        32 << 20,
        ge=1 << 10,
        description="Most bytes that one compressed batch of records may unpack to; in the place of a larger one "
        "readers get a gap.",
        json_schema_extra={"shown_default": "32 MiB"},
    )
    memory_bytes: Size = Field(
        1 << 30,
        ge=1 << 20,
        description="Most bytes of rings, views and replays of the process; at the bound idle views go first, then "
        "what replays hold for late readers, then the oldest parts of rings, then new replays are refused with 503.",
        json_schema_extra={"shown_default": "1 GiB"},
    )

    @model_validator(mode="after")
    def _ring_fits(self) -> Self:
        if self.ring_bytes > self.memory_bytes:
            raise ValueError(
                f"ring_bytes ({self.ring_bytes}) must not be larger than memory_bytes ({self.memory_bytes})"
            )
        return self

    @model_validator(mode="after")
    def _records_fit_batches(self) -> Self:
        if self.max_record_bytes > self.max_batch_bytes:
            raise ValueError(
                f"max_record_bytes ({self.max_record_bytes}) must not be larger than "
                f"max_batch_bytes ({self.max_batch_bytes})"
            )
        return self


class LogSettings(Section):
    """What is written to stderr."""

    format: Literal["json", "text"] = Field("json", description="One JSON object a line, or lines for people.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least grave event written.")


class MetricsSettings(Section):
    """What ``/metrics`` on the management port shows."""

    tenants: int = Field(
        20,
        ge=0,
        le=10_000,
        description="How many tenants, the largest ones, have a label of their own; the rest are together in other.",
    )


class TelemetrySettings(Section):
    """OpenTelemetry traces of connects, pulls and replays; off without an endpoint. Needs the extra ``otel``."""

    otlp_endpoint: PublicUrl | None = Field(
        None,
        description="Address of a collector that takes OTLP over HTTP, before /v1/traces; without it traces are off.",
        json_schema_extra={"allowed": "an http or https address"},
    )
    otlp_headers: tuple[OtlpHeader, ...] = Field(
        (), description="Headers for the collector, each as Name: value; for its credentials."
    )
    sample_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of traces that begin here and are recorded; 1 is all of them."
    )
    service_name: str = Field("streaming-gateway", min_length=1, description="What this service is called in traces.")
    trusted_callers: tuple[Network, ...] = Field(
        (),
        description="Addresses or networks whose traceparent header counts: their requests go on in the caller's "
        "trace, recorded if the caller records it.",
        json_schema_extra={"allowed": "a list of IP addresses or networks"},
    )

    def headers(self) -> dict[str, str]:
        """The headers opened."""
        pairs = (header.get_secret_value().partition(":") for header in self.otlp_headers)
        return {name.strip(): value.strip() for name, _, value in pairs}


class Settings(BaseSettings):
    """All settings of a process. Made by :func:`gateway.config.load_settings`; tests may construct it directly."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    http: HttpSettings = Field(default_factory=HttpSettings)
    admin: AdminSettings = AdminSettings()
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    redis: RedisSettings = RedisSettings()
    data: DataSettings = DataSettings()
    database: DatabaseSettings = DatabaseSettings()
    contracts: ContractsSettings = ContractsSettings()
    auth: AuthSettings = AuthSettings()
    cursor: CursorSettings = CursorSettings()
    stream: StreamSettings = StreamSettings()
    limits: LimitsSettings = LimitsSettings()
    alerts: AlertsSettings = AlertsSettings()
    metering: MeteringSettings = MeteringSettings()
    billing: BillingSettings = BillingSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller gives: the environment is read by the loader, which can tell where a value came from."""
        return (init_settings,)

    @model_validator(mode="after")
    def _database_is_in_the_data_directory(self) -> Self:
        if not self.database.url.get_secret_value():
            url = SecretStr(f"sqlite:///{self.data.dir / 'gateway.db'}")
            object.__setattr__(self, "database", self.database.model_copy(update={"url": url}))
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.http.port and (self.http.host, self.http.port) == (self.admin.host, self.admin.port):
            raise ValueError(f"http.port and admin.port must differ: both are {self.http.port} on {self.http.host}")
        return self
