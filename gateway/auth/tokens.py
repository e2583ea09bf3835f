"""Access tokens: a compact JWS in, a Principal or a refusal out (RFC 9068, RFC 7515, RFC 8725).

Everything that can be judged without a key is judged first, so that a bad token costs microseconds, and the token's
own wishes never choose the rules: algorithm, keys and audience come from the settings of the issuer it names. The
caller learns one message for every reason; the reason itself, a slug from this file, goes to the log and to metrics.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from gateway.auth.jose import Malformed, decode_base64url, decode_object
from gateway.auth.keys import DEFAULT_ALGORITHMS, SUPPORTED_ALGORITHMS, KeySet, KeySource
from gateway.clock import Clock
from gateway.errors import TokenExpired, TokenInvalid, TokenMissing
from gateway.model import Principal

MAX_TOKEN_BYTES = 8000
MAX_TEXT_LENGTH = 256
MAX_AUDIENCES = 32
MAX_MOMENT = 253_402_300_799
"""The last second of the year 9999: NumericDates beyond it are refused, arithmetic on the others is exact."""

_LOG = logging.getLogger("gateway.auth")
_BEARER = re.compile(r"bearer +([A-Za-z0-9\-._~+/]+=*)", re.ASCII | re.IGNORECASE)
# Keys out of the token, extensions we would have to understand (crit, b64) or that hide the payload (zip).
_REFUSED_HEADERS = frozenset({"jku", "x5u", "jwk", "x5c", "crit", "b64", "zip"})
_ACCESS_TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_PLAIN_TYPES = frozenset({"", "jwt", "application/jwt"})
# What id tokens, logout tokens and security events carry: where typ does not tell the kinds apart, these do.
_OTHER_KINDS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})
_HEADERS_REMEMBERED = 256
_SCOPES_REMEMBERED = 256
_FORGOTTEN_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """Whom we believe and what we ask of their tokens.

    ``name`` is the operator's word for it and what principals carry; ``issuer`` is the ``iss`` and ``audience`` the
    ``aud`` of its tokens, compared as they are. Without ``require_typ`` tokens with ``typ`` JWT or none pass too.
    Servers that do not speak RFC 9068 have other names for three claims.
    """

    name: str
    issuer: str
    audience: str
    keys: KeySource
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    require_typ: bool = True
    client_id_claim: str = "client_id"
    token_id_claim: str = "jti"  # noqa: S105 - the name of a claim
    scope_claim: str = "scope"

    def __post_init__(self) -> None:
        foreign = [name for name in self.algorithms if name not in SUPPORTED_ALGORITHMS]
        if foreign or not self.algorithms:
            raise ValueError(f"algorithms {foreign}: allowed are {', '.join(SUPPORTED_ALGORITHMS)}")
        if not (self.name and self.issuer and self.audience):
            raise ValueError("name, issuer and audience have to be there")


class TokenVerifier:
    """Decides whether a token is one of ours to accept. New issuers or files of keys make a new one.

    Only keys change under it. What was verified is remembered until then, or until its end: by the token's SHA-256, so
    that no token stays in memory, and bounded, those that were not used for the longest going first. A refusal is
    never remembered. The key is asked for last before the signature, so that only a token that is in order in
    everything else can make a source look for keys.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerSettings],
        *,
        clock: Clock,
        max_token_lifetime_seconds: int = 86_400,
        leeway_seconds: int = 5,
        remembered_tokens: int = 4096,
        checks: dict[str, int] | None = None,
    ) -> None:
        """``checks`` counts tokens found good, as ``verified`` or ``remembered``."""
        self._by_issuer = {settings.issuer: settings for settings in issuers}
        if len(self._by_issuer) != len(issuers) or len({settings.name for settings in issuers}) != len(issuers):
            raise ValueError("every issuer needs a name and an issuer string of its own")
        self._clock = clock
        self._max_lifetime = max_token_lifetime_seconds
        self._leeway = leeway_seconds
        self._limit = remembered_tokens
        # In the order of their last use. A plain dict: an OrderedDict takes 0.2 µs more for each new token.
        self._remembered: dict[bytes, _Verified] = {}
        self._checks = {} if checks is None else checks
        for how in ("verified", "remembered"):
            self._checks.setdefault(how, 0)
        # Tokens of one key share their header letter by letter; reading it is a third of our own work.
        self._read_header = lru_cache(maxsize=_HEADERS_REMEMBERED)(_read_header)
        for settings in issuers:
            if not settings.require_typ:
                _LOG.warning("issuer %s: tokens without typ at+jwt are accepted", settings.name)

    @property
    def issuers(self) -> tuple[str, ...]:
        """The ``iss`` of those whose tokens are accepted."""
        return tuple(self._by_issuer)

    def __len__(self) -> int:
        """How many tokens are remembered."""
        return len(self._remembered)

    def remembers(self, token: str) -> bool:
        """Whether the token was found good before: looking at it again costs nearly nothing."""
        return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest() in self._remembered

    def verify(self, token: str) -> Principal:
        """A token as sent → who is calling, by the keys that are there.

        Raises TokenExpired if only its time is over, else TokenInvalid.
        """
        found = self._find(token)
        if isinstance(found, Principal):
            return found
        raise _told(TokenInvalid("no_key"))

    async def authenticate(self, token: str) -> Principal:
        """The same, but a token that lacks nothing but its key waits while its issuer is asked for keys.

        Raises Unavailable too, where the issuer's keys could not be had so far.
        """
        found = self._find(token)
        if not isinstance(found, Principal):
            await found.keys.look_for(found.kid, algorithm=found.algorithm)
            return self.verify(token)
        return found

    def _find(self, token: str) -> Principal | _KeyMissing:
        try:
            if len(token) > MAX_TOKEN_BYTES:
                raise TokenInvalid("too_long")
            if not token.isascii():
                raise TokenInvalid("not_base64url")
            signed, dot, signature_part = token.encode("ascii").rpartition(b".")
            # One pass of SHA-256 for two: what most signatures are of, and what the token is remembered by.
            sha256 = hashlib.sha256(signed)
            signed_sha256 = sha256.digest()
            sha256.update(dot + signature_part)
            digest = sha256.digest()
            known = self._remembered.get(digest)
            if known is not None:
                if known.source.current() is known.keys:
                    return self._recall(digest, known)
                del self._remembered[digest]
            return self._verify(signed, signature_part, signed_sha256=signed_sha256, digest=digest)
        except (TokenInvalid, TokenExpired) as refusal:
            _told(refusal)
            raise

    def _recall(self, digest: bytes, known: _Verified) -> Principal:
        if self._clock.now() >= known.principal.expires_at:
            del self._remembered[digest]
            raise TokenExpired
        self._remembered[digest] = self._remembered.pop(digest)
        self._checks["remembered"] += 1
        return known.principal

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._checks["verified"] += 1
        if self._limit:
            self._remembered[digest] = verified
            if len(self._remembered) > self._limit:
                # Several at once: to find the first of a dict means to pass over all that were taken out before it.
                for oldest in list(islice(self._remembered, min(1 + self._limit // 16, _FORGOTTEN_AT_ONCE))):
                    del self._remembered[oldest]

    def _verify(
        self, signed: bytes, signature_part: bytes, *, signed_sha256: bytes, digest: bytes
    ) -> Principal | _KeyMissing:
        header_part, _, payload_part = signed.partition(b".")
        if not header_part or not payload_part or not signature_part:
            raise TokenInvalid("not_three_parts")
        try:
            header = self._read_header(header_part)
            claims = decode_object(decode_base64url(payload_part))
            signature = decode_base64url(signature_part)
        except Malformed as error:
            raise TokenInvalid(str(error)) from None
        issuer = claims.get("iss")
        settings = self._by_issuer.get(issuer) if type(issuer) is str else None
        if settings is None:
            raise TokenInvalid("iss_unknown")
        algorithm = header.algorithm
        if algorithm not in settings.algorithms:
            raise TokenInvalid("algorithm_not_allowed")
        if header.typ not in _ACCESS_TOKEN_TYPES and (
            settings.require_typ or header.typ not in _PLAIN_TYPES or not _OTHER_KINDS.isdisjoint(claims)
        ):
            raise TokenInvalid("not_an_access_token")
        if claims.get("aud") != settings.audience:
            _check_audience(claims, settings.audience)
        now = self._clock.now()
        expires_at = self._check_times(claims, now=now)
        principal = Principal(
            settings.name,
            _text(claims, settings.client_id_claim),
            _text(claims, "sub"),
            _read_scopes(claims, settings.scope_claim),
            _text(claims, settings.token_id_claim),
            expires_at,
            MappingProxyType(claims),
        )
        keys = settings.keys.current()
        key = None if keys is None else keys.find(header.kid, algorithm=algorithm)
        if keys is None or key is None:
            return _KeyMissing(settings.keys, header.kid, algorithm)
        if not key.is_signature(signature, of=signed, algorithm=algorithm, sha256=signed_sha256):
            raise TokenInvalid("signature" if algorithm in key.algorithms else "key_does_not_fit")
        if now >= expires_at:
            raise TokenExpired
        self._remember(digest, _Verified(principal, settings.keys, keys))
        return principal

    def _check_times(self, claims: Mapping[str, Any], *, now: float) -> int:
        """→ ``exp`` in whole seconds, rounded down. Leeway is for clocks ahead of ours, never for ``exp``."""
        expires_at, issued_at = claims.get("exp"), claims.get("iat")
        if type(expires_at) is not int or type(issued_at) is not int or not 0 <= issued_at < expires_at <= MAX_MOMENT:
            # Not the usual way to write them: to be read with more care, or refused with a word.
            expires_at, issued_at = _moment(claims, "exp"), _moment(claims, "iat")
        if not 0 < expires_at - issued_at <= self._max_lifetime:
            raise TokenInvalid("lifetime")
        if issued_at > now + self._leeway:
            raise TokenInvalid("iat_in_future")
        if "nbf" in claims and _moment(claims, "nbf") > now + self._leeway:
            raise TokenInvalid("nbf_in_future")
        return expires_at if type(expires_at) is int else int(expires_at)


def parse_bearer(header_value: str) -> str:
    """The value of an Authorization header → the token in it (RFC 6750 §2.1).

    Raises TokenMissing where the scheme is not Bearer, TokenInvalid where what follows it is not one token.
    """
    # White space around it is none of the value (RFC 9110 §5.5); not every server takes it away.
    header_value = header_value.strip(" \t")
    match = _BEARER.fullmatch(header_value)
    if match:
        return match[1]
    if header_value.partition(" ")[0].lower() != "bearer":
        raise TokenMissing
    raise _told(TokenInvalid("not_a_bearer"))


class _Verified(msgspec.Struct, frozen=True, gc=False):
    """A token that was found good by these keys, and good only as long as its source has no others."""

    principal: Principal
    source: KeySource
    keys: KeySet


class _KeyMissing(NamedTuple):
    """A token that is in order but for its key, which is not there."""

    keys: KeySource
    kid: str | None
    algorithm: str


class _Header(msgspec.Struct, frozen=True, gc=False):
    algorithm: str
    kid: str | None
    typ: str


def _read_header(part: bytes) -> _Header:
    header = decode_object(decode_base64url(part))
    if not _REFUSED_HEADERS.isdisjoint(header):
        raise Malformed("header_refused")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(algorithm, str):
        raise Malformed("no_algorithm")
    if "kid" in header and not isinstance(kid, str):
        raise Malformed("kid_not_text")
    if not isinstance(typ, str) or not typ.isascii():
        raise Malformed("typ_not_text")
    return _Header(algorithm, kid, typ.lower())


def _text(claims: Mapping[str, Any], name: str) -> str:
    """A claim that has to be there as text: not empty, not endless, nothing in it that a log or a key could trip on."""
    value = claims.get(name)
    if type(value) is str and 0 < len(value) <= MAX_TEXT_LENGTH and value.isprintable():
        return value
    if type(value) is str:
        raise TokenInvalid(f"{name}_not_allowed")
    raise TokenInvalid(f"{name}_not_text" if name in claims else f"{name}_missing")


def _moment(claims: Mapping[str, Any], name: str) -> int | float:
    """A NumericDate (RFC 7519 §2). ``type`` and not ``isinstance``: true is no time."""
    value = claims.get(name)
    if type(value) is not int and type(value) is not float:
        raise TokenInvalid(f"{name}_not_a_number" if name in claims else f"{name}_missing")
    if not 0 <= value <= MAX_MOMENT:
        raise TokenInvalid(f"{name}_out_of_range")
    return value


def _check_audience(claims: Mapping[str, Any], ours: str) -> None:
    """For one that is not simply ours: a list that holds it will do."""
    audience = claims.get("aud")
    if type(audience) is list:
        if len(audience) > MAX_AUDIENCES or not all(type(each) is str for each in audience):
            raise TokenInvalid("aud_not_allowed")
        if ours in audience:
            return
    raise TokenInvalid("aud_not_ours" if "aud" in claims else "aud_missing")


def _read_scopes(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """RFC 9068 has one text with spaces; other names also come with a list, as servers have that use them."""
    scope = claims.get(name, "")
    if type(scope) is str:
        return _split_scopes(scope)
    if type(scope) is list and name != "scope" and all(type(each) is str and " " not in each for each in scope):
        return _split_scopes(" ".join(scope))
    raise TokenInvalid("scope_not_allowed")


@lru_cache(maxsize=_SCOPES_REMEMBERED)
def _split_scopes(scope: str) -> frozenset[str]:
    if not (scope.isascii() and scope.isprintable()):
        raise TokenInvalid("scope_not_allowed")
    return frozenset(scope.split(" ")) - {""}


def _told(refusal: TokenInvalid | TokenExpired) -> TokenInvalid | TokenExpired:
    """The refusal, once it is in the log."""
    _LOG.info("token refused: %s", refusal.reason, extra={"reason": refusal.reason})
    return refusal
