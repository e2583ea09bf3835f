"""Money: exact decimal arithmetic, the smallest unit of a currency, rounding half up, and amounts as text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import (
    ROUND_DOWN,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from functools import cache
from typing import Final

ZERO: Final = Decimal(0)

_CONTEXT: Final = Context(prec=160, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
_GUARD: Final = Decimal(1).scaleb(-80)
_SHOWN: Final = 24
"""Places after the point at which an amount without end (a third of something) stops being shown."""


@contextmanager
def exactly() -> Iterator[None]:
    """Arithmetic within this block keeps 160 digits, whatever the thread's decimal context says.

    Only a division by a number of seconds can need more. What it leaves off is less than any difference that rounding
    looks at: products of prices, shares and percentages are whole multiples of something far above ``_GUARD``.
    """
    with localcontext(_CONTEXT):
        yield


@cache
def exponent_of(currency: str) -> int:
    """Places after the point of a currency's smallest unit (EUR 2, JPY 0, BHD 3), by CLDR; 2 where it is not known."""
    # Here and not above: the import costs what no other path of the process needs.
    from babel.numbers import get_currency_precision

    return get_currency_precision(currency)


def round_money(exact: Decimal, currency: str) -> Decimal:
    """To the currency's smallest unit, halves away from zero: 1.5 cents is 2, a credit of 1.5 cents is 2 too."""
    return _to_unit(exact, currency, ROUND_HALF_UP)


def floor_money(exact: Decimal, currency: str) -> Decimal:
    """To the currency's smallest unit, toward zero: what can be spent of a credit."""
    return _to_unit(exact, currency, ROUND_DOWN)


def round_whole(exact: Decimal) -> int:
    """To a whole number, halves away from zero: quantities that a share of a period was taken of."""
    with exactly():
        return int(exact.quantize(_GUARD).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def format_amount(amount: Decimal) -> str:
    """An amount in its own places, never with an exponent: ``-49.00``."""
    return format(_unsigned_zero(amount), "f")


def format_money(amount: Decimal, currency: str) -> str:
    """An amount in its currency's places, and in more where it has more: what was prepaid need be no whole cents."""
    with exactly():
        exponent = -exponent_of(currency)
        short = amount.normalize() if amount else ZERO
        exponent = min(exponent, int(short.as_tuple().exponent))
        return format_amount(short.quantize(Decimal(1).scaleb(exponent)))


def format_exact(exact: Decimal) -> str:
    """An exact amount or unit price without zeros at its end; one that has no end is cut after 24 places."""
    with exactly():
        text = format(exact.quantize(Decimal(1).scaleb(-_SHOWN)), "f")
    text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _to_unit(exact: Decimal, currency: str, rounding: str) -> Decimal:
    with exactly():
        settled = exact.quantize(_GUARD)
        return _unsigned_zero(settled.quantize(Decimal(1).scaleb(-exponent_of(currency)), rounding=rounding))


def _unsigned_zero(amount: Decimal) -> Decimal:
    return abs(amount) if amount.is_zero() else amount
