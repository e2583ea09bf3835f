"""An EdDSA key is taken only if nobody but its owner can sign for it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519

from gateway.auth import edwards
from gateway.auth.edwards import ED448, ED25519, is_safe_public_key

SMALL_ORDER_25519 = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
NOT_CANONICAL_25519 = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("point", [*SMALL_ORDER_25519, *NOT_CANONICAL_25519])
def test_no_point_of_small_order_and_no_second_spelling_is_safe(point: str) -> None:
    assert not is_safe_public_key(bytes.fromhex(point), curve=ED25519)


@pytest.mark.parametrize("y", [0, 1, 2**448 - 2**224 - 2, 2**448 - 2**224 - 1, 2**448 - 2**224])
@pytest.mark.parametrize("sign", [0, 1 << 455])
def test_no_point_of_small_order_is_safe_on_ed448(y: int, sign: int) -> None:
    assert not is_safe_public_key((y | sign).to_bytes(57, "little"), curve=ED448)


def test_every_honest_key_is_safe() -> None:
    for _ in range(20):
        assert is_safe_public_key(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw(), curve=ED25519)
    for _ in range(5):
        assert is_safe_public_key(ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw(), curve=ED448)


@pytest.mark.parametrize("point", SMALL_ORDER_25519[1:])
def test_a_key_with_a_part_of_small_order_is_not_safe(point: str) -> None:
    honest = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    points = [edwards._decode_point(key, ED25519) for key in (honest, bytes.fromhex(point))]
    assert points[0] is not None
    assert points[1] is not None
    x, y, z = edwards._add(points[0], points[1], ED25519)
    x, y = (value * pow(z, -1, ED25519.p) % ED25519.p for value in (x, y))
    assert not is_safe_public_key((y | (x & 1) << 255).to_bytes(32, "little"), curve=ED25519)
