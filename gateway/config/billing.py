"""Settings of billing: how periods close, and who issues what they end in."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.config.section import Section


class LegalIdentitySettings(Section):
    """Who issues. With address and VAT number, and the customer's address, what is issued is called an invoice."""

    name: str = Field("", max_length=200, description="Full name of who issues; without it statements name nobody.")
    address: tuple[str, ...] = Field((), max_length=8, description="Full address, line by line.")
    vat_id: str = Field("", max_length=40, description="VAT identification number.")
    registration: str = Field("", max_length=200, description="Company register and number, where these are asked for.")
    contact: str = Field("", max_length=200, description="Where questions about a statement go.")

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if not self.name and (self.address or self.vat_id or self.registration or self.contact):
            raise ValueError("name must be given together with the other members")
        return self


class BillingSettings(Section):
    """Statements: when a period closes, and what comes out."""

    schedule: bool = Field(
        True, description="Whether serve closes periods by itself; if not, `gateway billing close` has to."
    )
    interval_seconds: float = Field(
        60.0, ge=0.1, le=86_400, description="Time between two looks whether a period is over, in seconds."
    )
    grace_seconds: int = Field(
        3600,
        ge=0,
        le=31 * 86_400,
        description="Time from the end of a period until its statement is final, in seconds.",
    )
    approval: Literal["none", "required"] = Field(
        "none", description="Whether an operator has to approve a draft before it becomes final."
    )
    number_prefix: str = Field(
        "ST-",
        pattern=r"^[A-Za-z0-9-]{0,16}$",
        description="What stands before the number of a statement.",
        json_schema_extra={"allowed": "at most 16 letters, digits and hyphens"},
    )
    corrected_periods: int = Field(
        12, ge=0, le=1200, description="How many closed periods are looked at for usage that was told late."
    )
    legal_identity: LegalIdentitySettings = LegalIdentitySettings()
