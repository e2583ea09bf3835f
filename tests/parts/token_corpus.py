"""The keys that good and bad tokens are made with, and the good tokens.

``Corpus.jwks`` is the document to verify against: it holds good keys and, beside them, keys that must never verify
(weak, for encryption, published with their private part, of small order), with tokens signed by exactly those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.clock import Clock
from tests.parts.tokens import ABSENT, PretendIssuer, SigningKey, compact, encode, rsa_key

ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
MAX_LIFETIME_SECONDS = 86_400
LEEWAY_SECONDS = 5
ED25519_BASE = bytes.fromhex("58" + "66" * 31)

Flaw = tuple[str, str, str]
"""What is bad about it, the token, the slug it has to be refused with (several, by ``|``, where either may see it)."""


class Corpus:
    """One set of keys at one moment."""

    def __init__(self, *, clock: Clock, audience: str = "https://gateway.example") -> None:
        self.rsa = SigningKey("RS256", kid="rsa", private=rsa_key("rsa"))
        self.rsa_bare = SigningKey("PS256", kid="rsa-bare", private=rsa_key("rsa-bare"))
        self.p256 = SigningKey("ES256", kid="p256")
        self.p384 = SigningKey("ES384", kid="p384")
        self.ed = SigningKey("EdDSA", kid="ed")
        self.good_keys = (self.rsa, self.rsa_bare, self.p256, self.p384, self.ed)
        self.stranger = SigningKey("ES256", kid="p256")
        self.issuer = PretendIssuer(*self.good_keys, audience=audience, clock=clock)
        self.now = int(clock.now())
        self.untrusted = dict(self._untrusted_keys())

    @property
    def jwks(self) -> bytes:
        good = [key.jwk(alg=ABSENT) if key is self.rsa_bare else key.jwk() for key in self.good_keys]
        low_order = {"kty": "OKP", "crv": "Ed25519", "kid": "low-order", "x": encode(b"\1" + bytes(31))}
        secret = {"kty": "oct", "kid": "oct", "alg": "HS256", "k": encode(b"s" * 32)}
        return json.dumps({"keys": [*good, *(jwk for _, jwk in self.untrusted.values()), low_order, secret]}).encode()

    def good_tokens(self) -> dict[str, str]:
        """Tokens that must pass, so that a verifier that refuses everything is not taken for a safe one."""
        mint = self.issuer.mint
        tokens = {f"signed with {key.algorithm}": mint(key=key) for key in self.good_keys}
        spaced = f' {{ "typ" : "at+jwt",\n"alg":"ES256", "kid":"{self.p256.kid}" }} '.encode()
        return tokens | {
            "RS256 with a key that states no alg": mint(
                key=SigningKey("RS256", kid="rsa-bare", private=self.rsa_bare.private)
            ),
            "typ with its prefix, in capitals": self.es(header={"typ": "APPLICATION/AT+JWT"}),
            "no kid where one key fits": self.es(header={"kid": ABSENT}),
            "unknown header members": self.es(header={"x5t": "abc", "nonce": "n", "cty": "x"}),
            "spaces in the header": compact(spaced, self.issuer.claims(), sign=self.p256.sign),
            "several audiences": self.es({"aud": ["https://other.example", self.issuer.audience]}),
            "no scope": self.es({"scope": ABSENT}),
            "fractions in times": self.es({"iat": self.now - 0.5, "exp": self.now + 60.5, "nbf": self.now - 0.25}),
            "iat and nbf within the leeway": self.es({"iat": self.now + 5, "nbf": self.now + 5}),
            "brackets in text": self.es({"note": "[{" * 100}),
            "wide claims": self.es({"roles": [{"name": str(number)} for number in range(60)]}),
            "the longest life": self.es({"exp": self.now + MAX_LIFETIME_SECONDS}),
            "unicode claims": self.es({"city": "Zürich 東京 \U0001f30d", "sub": "Jürgen Müller"}),
        }

    def es(self, claims: Mapping[str, Any] | None = None, *, header: Mapping[str, Any] | None = None) -> str:
        """A token signed with ES256."""
        return self.issuer.mint(key=self.p256, claims=claims, header=header)

    def raw(self, *, header: Any = None, payload: Any = None) -> str:
        """The same with any bytes for header or payload."""
        right = {"typ": "at+jwt", "alg": "ES256", "kid": "p256"}
        return compact(
            right if header is None else header,
            self.issuer.claims() if payload is None else payload,
            sign=self.p256.sign,
        )

    def _untrusted_keys(self) -> Iterator[tuple[str, tuple[SigningKey, dict[str, Any]]]]:
        def rsa_with(name: str, *, bits: int = 2048, exponent: int = 65537, **members: Any) -> Any:
            key = SigningKey("RS256", kid=name, private=rsa_key(name, bits=bits, exponent=exponent))
            return name, (key, key.jwk(**members))

        yield rsa_with("rsa-1024", bits=1024)
        yield rsa_with("rsa-1536", bits=1536)
        yield rsa_with("rsa-exponent-3", exponent=3)
        yield rsa_with("rsa-enc", use="enc", alg="RSA-OAEP")
        yield rsa_with("rsa-enc-without-alg", use="enc", alg=ABSENT)
        yield rsa_with("rsa-for-signing", key_ops=["sign"])
        yield rsa_with("rsa-alg-of-another-type", alg="ES256")
        leaked = SigningKey("ES256", kid="leaked")
        yield "leaked", (leaked, leaked.private_jwk())
        for name, algorithm in (("p521", "ES512"), ("k256", "ES256K"), ("ed448", "Ed448")):
            key = SigningKey(algorithm, kid=name)
            yield name, (key, key.jwk())
        enc = SigningKey("ES256", kid="p256-enc")
        yield "p256-enc", (enc, enc.jwk(use="enc", alg=ABSENT))
        off = SigningKey("ES256", kid="off-curve")
        yield "off-curve", (off, off.jwk(y=encode(bytes(31) + b"\1")))
