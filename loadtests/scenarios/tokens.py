"""What a token costs beside its bare signature, the first time and when it comes again: no Kafka, no gateway."""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from gateway.auth.tokens import TokenVerifier
from gateway.server.loop import settle_collector
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker
from tests.parts.tokens import PretendIssuer, SigningKey, decode

ROUNDS = 40
TOKENS = 400
CLAIMS = {"airport": ["ORD", "SEA"], "org": "acme"}
ALGORITHMS = ("RS256", "ES256", "EdDSA", "PS256")
COLD_BAR = 1.3
"""Times the signature alone, for RS256 and ES256."""

WARM_BAR_US = 20.0
_SHA256 = hashes.SHA256()


def run(_: KafkaBroker, *, quick: bool) -> list[Row]:
    """Each algorithm: alone and cold in turns, so that what else the machine does falls on both."""
    # As in a gateway that serves.
    settle_collector()
    rows = [Row("**Token** of about 750 B: verified", "")]
    for algorithm in ALGORITHMS:
        rows += _measure(algorithm, rounds=3 if quick else ROUNDS)
    return rows


def _measure(algorithm: str, *, rounds: int) -> list[Row]:
    issuer = PretendIssuer(SigningKey(algorithm))
    tokens = [issuer.mint(scope="flights:read quakes:read", claims=CLAIMS) for _ in range(TOKENS)]
    check = _alone(issuer.keys[0])
    parts = [(signed, decode(text)) for signed, _, text in (token.rpartition(".") for token in tokens)]
    alone, cold, warm = [], [], []
    for _ in range(rounds):
        # A new one remembers nothing yet; the second pass over the same tokens is what it remembers.
        verifier = TokenVerifier([issuer.settings(algorithms=(algorithm,))], clock=issuer.clock)
        verifier.verify(issuer.mint())
        alone.append(_each_us(lambda: [check(signature, signed.encode()) for signed, signature in parts]))
        cold.append(_each_us(lambda verifier=verifier: [verifier.verify(token) for token in tokens]))  # type: ignore[misc]
        warm.append(_each_us(lambda verifier=verifier: [verifier.verify(token) for token in tokens]))  # type: ignore[misc]
    ratios = [one / bare for one, bare in zip(cold, alone, strict=True)]
    has_bar = algorithm in ("RS256", "ES256")
    return [
        Row(
            f"{algorithm}, first time ÷ the signature alone ({median(alone):.1f} µs)",
            spread(ratios),
            f"≤ {COLD_BAR}" if has_bar else "",
            met=median(ratios) <= COLD_BAR if has_bar else None,
        ),
        Row(f"{algorithm}, first time: µs", spread(cold, digits=1)),
        Row(f"{algorithm}, again: µs", spread(warm), f"≤ {WARM_BAR_US:g}", met=median(warm) <= WARM_BAR_US),
    ]


def _each_us(work: Callable[[], object]) -> float:
    """CPU time of this thread for one token."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) / TOKENS * 1e6


def _alone(key: SigningKey) -> Callable[[bytes, bytes], None]:
    """The check of a signature in ``cryptography``, with nothing around it."""
    public = key.public
    if key.algorithm == "RS256":
        return lambda signature, signed: public.verify(signature, signed, padding.PKCS1v15(), _SHA256)
    if key.algorithm == "PS256":
        return lambda signature, signed: public.verify(
            signature, signed, padding.PSS(padding.MGF1(_SHA256), salt_length=32), _SHA256
        )
    if key.algorithm == "ES256":
        return lambda signature, signed: public.verify(_der(signature), signed, ec.ECDSA(_SHA256))
    return public.verify  # type: ignore[no-any-return]


def _der(signature: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
