"""The settings of ``auth``: whose access tokens are accepted, and who is given some."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.config.section import Section
from gateway.config.values import CursorKey, JwksUrl, Name, check_jwks_url

BUILTIN_ISSUER = "builtin"

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448"
]


class IssuerSettings(Section):
    """One authorization server whose access tokens are accepted."""

    name: Name = Field(description="Name that applications in the catalog use for this issuer.")
    issuer: str = Field(min_length=1, description="The exact iss claim of its tokens.")
    audience: str = Field(min_length=1, description="The aud claim its tokens must hold for this gateway.")
    jwks_file: Path | None = Field(None, description="File with the issuer's public keys (JWK Set).")
    jwks_url: JwksUrl | None = Field(
        None,
        description="Address of the issuer's public keys, followed while the gateway runs; or jwks_file.",
        json_schema_extra={"allowed": "an https address; http to 127.0.0.1, [::1] or localhost only"},
    )
    jwks_ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust for jwks_url; without it the system's."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"),
        min_length=1,
        description="Signature algorithms accepted from this issuer; asymmetric ones only.",
    )
    require_typ: bool = Field(
        True, description="Whether the header typ must be at+jwt (RFC 9068); false is written to the log at the start."
    )
    client_id_claim: str = Field(
        "client_id", min_length=1, description="The claim that names the application: azp for some servers."
    )
    token_id_claim: str = Field(
        "jti", min_length=1, description="The claim that names the token itself: uti for some servers."
    )
    scope_claim: str = Field(
        "scope",
        min_length=1,
        description="The claim that holds the scopes, text with spaces; under another name also a list.",
    )

    @model_validator(mode="after")
    def _keys_come_from_one_place(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("one of jwks_url and jwks_file must be set: where the issuer's public keys are")
        if self.jwks_ca_file is not None and self.jwks_url is None:
            raise ValueError("jwks_ca_file is for jwks_url, which is not set")
        if self.name == BUILTIN_ISSUER:
            raise ValueError(f"the name {BUILTIN_ISSUER} belongs to the built-in issuer")
        return self


class JwksSettings(Section):
    """How the addresses of issuers' keys are asked."""

    timeout_seconds: float = Field(
        5.0, gt=0, le=60, description="Longest time for one answer, in seconds; a token with an unknown key waits."
    )
    cooldown_seconds: float = Field(
        30.0,
        ge=0.1,
        le=3600,
        description="Shortest time between two fetches that tokens with unknown keys cause, and after one that failed, "
        "in seconds.",
    )
    refresh_seconds: float = Field(
        3600.0,
        ge=0.1,
        le=86_400,
        description="Longest time between fetches, in seconds; Cache-Control may shorten it, down to cooldown_seconds.",
    )
    stale_seconds: float = Field(
        86_400.0,
        ge=0,
        le=2_592_000,
        description="How long known keys are used while the issuer gives no good answer, in seconds.",
    )


class BuiltinSettings(Section):
    """The issuer inside the gateway: one set of keys, a command, and a token endpoint where it is switched on."""

    enabled: bool = Field(
        False,
        description="Whether the built-in issuer is on without a token endpoint, for `gateway token`; not for "
        "production.",
    )
    issuer: str = Field(
        "urn:gateway:builtin",
        min_length=1,
        description="The iss claim of its tokens; with token_endpoint an https address, best http.public_url.",
    )
    audience: str = Field("urn:gateway", min_length=1, description="The aud claim of its tokens.")
    token_endpoint: bool = Field(
        False,
        description="Whether applications get tokens at /oauth/token for their client secrets; needs issuer and "
        "sealing_keys.",
    )
    token_seconds: int = Field(
        3600, ge=1, le=31_536_000, description="How long a token of the token endpoint lasts, in seconds."
    )
    sealing_keys: tuple[CursorKey, ...] = Field(
        (),
        description="Secrets of 16 characters or more that seal the signing keys in the database, the same on every "
        "node; the first seals, all of them open, so that they can be rotated. Without any, the database holds one.",
    )

    @model_validator(mode="after")
    def _token_endpoint_is_whole(self) -> Self:
        if not self.token_endpoint:
            return self
        if not self.sealing_keys:
            raise ValueError("token_endpoint needs sealing_keys, such as a line of `openssl rand -hex 32`")
        try:
            check_jwks_url(self.issuer)
        except ValueError as error:
            raise ValueError(f"token_endpoint needs an address as issuer (RFC 8414): {error}") from None
        if "?" in self.issuer:
            raise ValueError("token_endpoint needs an address without a query as issuer (RFC 8414)")
        return self

    @property
    def is_on(self) -> bool:
        """Whether there are tokens of it at all."""
        return self.enabled or self.token_endpoint


class AuthSettings(Section):
    """Whose access tokens are accepted, and how old they may be."""

    issuers: tuple[IssuerSettings, ...] = Field((), description="Authorization servers; each a table.")
    builtin: BuiltinSettings = BuiltinSettings()
    jwks: JwksSettings = JwksSettings()
    max_token_lifetime_seconds: int = Field(
        86_400, ge=1, le=31_536_000, description="Longest accepted time between iat and exp, in seconds."
    )
    leeway_seconds: int = Field(
        5, ge=0, le=300, description="Clock difference forgiven in nbf and iat, in seconds; exp is exact."
    )
    remembered_tokens: int = Field(
        4096,
        ge=0,
        le=1_000_000,
        description="How many verified tokens are remembered, by their SHA-256, so that one that comes again costs no "
        "signature check; 0 turns it off.",
    )

    def issuer_names(self) -> tuple[str, ...]:
        """The names that applications in the catalog may give as their issuer."""
        names = tuple(entry.name for entry in self.issuers)
        return (*names, BUILTIN_ISSUER) if self.builtin.is_on else names

    @model_validator(mode="after")
    def _own_tokens_would_be_accepted(self) -> Self:
        if self.builtin.token_endpoint and self.builtin.token_seconds > self.max_token_lifetime_seconds:
            raise ValueError("builtin.token_seconds must be at most max_token_lifetime_seconds")
        if self.builtin.is_on and any(entry.issuer == self.builtin.issuer for entry in self.issuers):
            raise ValueError(f"issuers: issuer {self.builtin.issuer!r} is that of builtin; each must differ")
        return self

    @model_validator(mode="after")
    def _issuers_differ(self) -> Self:
        for attribute in ("name", "issuer"):
            values = [getattr(entry, attribute) for entry in self.issuers]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"issuers: {attribute} {twice[0]!r} is there twice; each must differ")
        return self
