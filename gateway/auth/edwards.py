"""Whether 32 or 57 bytes are a public key that EdDSA is safe with.

OpenSSL takes any bytes as a key. For a point of small order everybody can write signatures that verify, so a key
is taken only if it is the canonical spelling (RFC 8032 §5.1.3, §5.2.3) of a point of the prime-order subgroup
other than its neutral element. About a millisecond of plain integers, at loading.
"""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[int, int, int]
"""Projective: (X, Y, Z) stands for x = X/Z, y = Y/Z."""


@dataclass(frozen=True, slots=True)
class Curve:
    """a·x² + y² = 1 + d·x²·y² over the field of ``p``; ``order``: of the base point; ``length``: of a key, in bytes."""

    a: int
    d: int
    p: int
    order: int
    length: int


_P25519 = 2**255 - 19
_P448 = 2**448 - 2**224 - 1

ED25519 = Curve(
    a=-1,
    d=-121665 * pow(121666, -1, _P25519) % _P25519,
    p=_P25519,
    order=2**252 + 27742317777372353535851937790883648493,
    length=32,
)
ED448 = Curve(
    a=1,
    d=-39081 % _P448,
    p=_P448,
    order=2**446 - 13818066809895115352007386748515426880336692474882178609894547503885,
    length=57,
)


def is_safe_public_key(key: bytes, *, curve: Curve) -> bool:
    """True for the canonical spelling of a point of the prime-order subgroup that is not neutral."""
    point = _decode_point(key, curve)
    return point is not None and not _is_neutral(point) and _is_neutral(_multiply(point, curve))


def _decode_point(key: bytes, curve: Curve) -> Point | None:
    if len(key) != curve.length:
        return None
    bits = int.from_bytes(key, "little")
    sign_bit = 8 * curve.length - 1
    sign, y = bits >> sign_bit, bits & ((1 << sign_bit) - 1)
    p = curve.p
    if y >= p:
        return None
    # x² = (1 - y²) / (a - d·y²); a is a square and d none, so the divisor is never 0.
    square = (1 - y * y) * pow(curve.a - curve.d * y * y, -1, p) % p
    x = _square_root(square, p)
    if x is None or (x == 0 and sign):
        return None
    return (p - x if x & 1 != sign else x, y, 1)


def _square_root(square: int, p: int) -> int | None:
    if p & 3 == 3:
        root = pow(square, (p + 1) // 4, p)
    else:
        root = pow(square, (p + 3) // 8, p)
        if root * root % p != square:
            root = root * pow(2, (p - 1) // 4, p) % p
    return root if root * root % p == square else None


def _is_neutral(point: Point) -> bool:
    return point[0] == 0 and point[1] == point[2]


def _multiply(point: Point, curve: Curve) -> Point:
    """``order`` times the point. A public key is no secret: the time may depend on it."""
    total: Point = (0, 1, 1)
    for bit in bin(curve.order)[2:]:
        total = _add(total, total, curve)
        if bit == "1":
            total = _add(total, point, curve)
    return total


def _add(first: Point, second: Point, curve: Curve) -> Point:
    """The complete addition of Bernstein, Birkner, Joye, Lange and Peters (2008): doubles too, no special cases."""
    p = curve.p
    x1, y1, z1 = first
    x2, y2, z2 = second
    a = z1 * z2 % p
    b = a * a % p
    c = x1 * x2 % p
    d = y1 * y2 % p
    e = curve.d * c * d % p
    f = b - e
    g = b + e
    x3 = a * f * ((x1 + y1) * (x2 + y2) - c - d) % p
    y3 = a * g * (d - curve.a * c) % p
    return (x3, y3, f * g % p)
