"""Every setting: its meaning, unit, bounds and default, and whether it is a secret.

The pages in docs/reference and the text of every configuration error are made from these fields, so a setting is
described here once. A value that is derived when absent says so in ``shown_default``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config.auth import AuthSettings
from gateway.config.billing import BillingSettings
from gateway.config.http import AdminSettings, HttpSettings
from gateway.config.kafka import KafkaSettings
from gateway.config.limits import AlertsSettings, LimitsSettings
from gateway.config.metering import MeteringSettings
from gateway.config.redis import RedisSettings
from gateway.config.section import Section
from gateway.config.values import (
    CursorKey,
    DatabaseUrl,
    Network,
    OtlpHeader,
    PublicUrl,
    Size,
)


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
