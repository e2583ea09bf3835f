"""What is asked of usage, read from parameters and checked: a stretch of time, what to group by, a page."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from gateway.errors import InvalidParameter, UnknownParameter
from gateway.metering.grain import EARLIEST, GRANULARITIES, LATEST, Grain, Granularity
from gateway.units import format_rfc3339, parse_rfc3339

PARTNER_GROUPS: Final = ("stream", "transport", "application")
OPERATOR_GROUPS: Final = ("tenant", *PARTNER_GROUPS, "plan")
NO_GROUP: Final = "none"
PARAMETERS: Final = ("from", "to", "by", "granularity", "limit", "next")
MOST_ROWS: Final = 10_000
ROWS: Final = 1000
_SHOWN: Final = 80


class Place(NamedTuple):
    """Where a row stands in the order of rows: by time, then by what it is about."""

    start: int
    end: int
    about: tuple[str, ...]
    is_free: bool


@dataclass(frozen=True, slots=True)
class Question:
    """Usage of ``start`` ≤ time < ``end``, both where stretches of ``grain`` begin; rows after ``after``."""

    start: int
    end: int
    grain: Grain
    by: tuple[str, ...]
    limit: int | None = ROWS
    after: Place | None = None


def parse_question(
    given: Mapping[str, str],
    *,
    zone: ZoneInfo,
    now: float,
    groups: tuple[str, ...] = PARTNER_GROUPS,
    others: tuple[str, ...] = (),
) -> Question:
    """The question; ``groups`` is what may be grouped by, and what is grouped by where nothing is said. ``others`` are
    parameters that the caller reads.

    Without ``to``, up to now; without ``from``, from the beginning of the month that ends there, in the zone, or of the
    present one where ``to`` lies ahead. A stretch that is only begun counts as a whole one; without ``to``, that of
    ``from`` must have begun. Raises UnknownParameter and InvalidParameter, which name what is allowed.
    """
    for name in given:
        if name not in (*PARAMETERS, *others):
            allowed = ", ".join((*PARAMETERS, *others))
            raise UnknownParameter(f"The parameter {_show(name)} is not known here; allowed: {allowed}.")
    grain = Grain(_granularity(given.get("granularity", "day")), zone)
    start, end = _moment(given, "from"), _moment(given, "to")
    if end is None:
        if start is not None and grain.start(start) > now:
            raise InvalidParameter(
                f"from={_show(given['from'])} lies ahead, and without to it is asked up to now, "
                f"{format_rfc3339(int(now) * 1000)}; give an earlier from, or to as well."
            )
        end = int(now) + 1 if start is None else max(int(now), start) + 1
    if start is not None and start >= LATEST:
        raise InvalidParameter(f"from={_show(given['from'])} is not allowed; no calendar here goes so far.")
    if start is None:
        start = Grain("month", zone).start(min(end - 1, int(now)))
    if start >= end:
        raise InvalidParameter("from must be before to.")
    by = _by(given.get("by"), groups)
    return Question(grain.start(start), grain.ceil(end), grain, by, _limit(given), parse_next(given.get("next"), by))


def spell_next(place: Place) -> str:
    """The page after this place, as a parameter has it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode("ascii")


def parse_next(text: str | None, by: tuple[str, ...]) -> Place | None:
    """What ``spell_next`` spelled, for the same ``by``. Raises InvalidParameter."""
    if text is None:
        return None
    try:
        place = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=Place)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        place = None
    if place is None or len(place.about) != len(by) + ("plan" in by):
        raise InvalidParameter(f"next={_show(text)} is not allowed; use it as the page before gave it, with its by.")
    return place


def _granularity(text: str) -> Granularity:
    if text not in GRANULARITIES:
        raise InvalidParameter(f"granularity={_show(text)} is not allowed; allowed: {', '.join(GRANULARITIES)}.")
    return text


def _by(text: str | None, groups: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return groups
    asked = [] if text == NO_GROUP else text.split(",")
    if any(one not in groups for one in asked) or len(set(asked)) < len(asked):
        raise InvalidParameter(
            f"by={_show(text)} is not allowed; give some of {','.join(groups)}, each once, or {NO_GROUP}."
        )
    # In our order, whatever the order asked: columns stand where they always stand.
    return tuple(one for one in groups if one in asked)


def _moment(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    try:
        # A plus that was not escaped arrives as a space.
        millis = parse_rfc3339(text.replace(" ", "+"))
    except (ValueError, OverflowError):
        raise InvalidParameter(
            f"{name}={_show(text)} is not allowed; give an RFC 3339 time such as 2026-11-01T00:00:00Z."
        ) from None
    moment = millis // 1000 if name == "from" else -(-millis // 1000)
    # There is no usage beyond them, and no zone's calendar goes further.
    return min(max(moment, EARLIEST), LATEST)


def _limit(given: Mapping[str, Any]) -> int:
    text = given.get("limit")
    if text is None:
        return ROWS
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= MOST_ROWS:
        raise InvalidParameter(f"limit={_show(text)} is not allowed; give a whole number from 1 to {MOST_ROWS}.")
    return int(text)


def _show(text: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
    return shown + ("…" if len(text) > _SHOWN else "")
