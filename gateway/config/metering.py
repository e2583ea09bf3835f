"""Settings of metering: where usage goes, how long what is kept, and how finely."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.config.section import Section
from gateway.config.values import Name


class MeteringSettings(Section):
    """Usage: where it goes, and what is kept of it."""

    enabled: bool = Field(True, description="Whether deliveries are counted; without it there is no usage to bill.")
    topic: str = Field(
        "gateway.usage",
        pattern=r"^[a-zA-Z0-9._-]{1,249}$",
        description="Compacted topic that totals are published to; made at the start where rights allow.",
        json_schema_extra={"allowed": "the name of a Kafka topic"},
    )
    cluster: Name | None = Field(
        None,
        description="The Kafka cluster of that topic.",
        json_schema_extra={"shown_default": "main, or the first where there is none of that name"},
    )
    on_failure: Literal["deliver", "stop"] = Field(
        "deliver",
        description="What happens while counts cannot be kept on disk: deliver goes on and counts in memory, stop ends "
        "reads with unavailable.",
    )
    rollup_hours_after_days: int = Field(
        40, ge=1, le=100_000, description="Days after which usage is kept by the hour; totals stay as they are."
    )
    rollup_days_after_days: int = Field(
        400, ge=1, le=100_000, description="Days after which usage is kept by the day of the tenant's zone."
    )
    audit_days: int = Field(
        90,
        ge=0,
        le=100_000,
        description="Days that the evidence of deliveries is kept, for disputes and reconciliation; with 0 none is "
        "kept and nothing is reconciled with it.",
    )

    @model_validator(mode="after")
    def _days_come_after_hours(self) -> Self:
        if self.rollup_days_after_days < self.rollup_hours_after_days:
            raise ValueError(
                f"rollup_days_after_days ({self.rollup_days_after_days}) must not be smaller than "
                f"rollup_hours_after_days ({self.rollup_hours_after_days})"
            )
        return self
