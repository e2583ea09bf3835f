"""Stretches of time that usage is shown in: quarters, hours, days and months as a tenant's clock has them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from gateway.usage import BUCKET_SECONDS

Granularity = Literal["15m", "hour", "day", "month"]
GRANULARITIES: Final[tuple[Granularity, ...]] = ("15m", "hour", "day", "month")

EARLIEST: Final = 86_400
LATEST: Final = 253_370_678_400
"""Epoch seconds between which a stretch has a beginning and an end in every zone; there is no usage beyond them."""


class Grain:
    """Stretches of one granularity in one zone. They lie side by side: each moment is in exactly one.

    An hour is one of the wall clock: where clocks go back, the hour that comes twice is two; where they jump by half an
    hour, it is shorter or longer. A day that clocks change on has 23 or 25 hours.
    """

    def __init__(self, granularity: Granularity, zone: ZoneInfo) -> None:
        self.granularity = granularity
        self.zone = zone
        self._starts: dict[int, int] = {}

    def start(self, moment: int) -> int:
        """Where the stretch that holds the moment begins; epoch seconds, as everywhere here."""
        return self._start(_within(moment))

    def _start(self, moment: int) -> int:
        bucket = moment // BUCKET_SECONDS * BUCKET_SECONDS
        found = self._starts.get(bucket)
        if found is None:
            found = self._starts[bucket] = bucket if self.granularity == "15m" else self._begin(bucket)
        return found

    def end(self, moment: int) -> int:
        """Where it ends, which is where the next one begins."""
        start = self.start(moment)
        if self.granularity == "15m":
            return start + BUCKET_SECONDS
        if self.granularity == "hour":
            end = start + BUCKET_SECONDS
            # Beyond LATEST too, which lies within an hour in some zones.
            while self._start(end) == start:
                end += BUCKET_SECONDS
            return end
        day = datetime.fromtimestamp(start, self.zone).date()
        following = day + timedelta(days=1)
        if self.granularity == "month":
            following = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
        return int(datetime(following.year, following.month, following.day, tzinfo=self.zone).timestamp())

    def ceil(self, moment: int) -> int:
        """The moment itself where a stretch begins with it, else where its stretch ends."""
        return moment if self.start(moment) == moment else self.end(moment)

    def _begin(self, bucket: int) -> int:
        # Python's fold does the rest: 0 for a wall time that clocks skip is the moment of the skip, and an hour that
        # comes again keeps the 1 of its moments.
        wall = datetime.fromtimestamp(bucket, self.zone).replace(minute=0, second=0)
        if self.granularity != "hour":
            wall = wall.replace(hour=0, fold=0)
        if self.granularity == "month":
            wall = wall.replace(day=1)
        return int(wall.timestamp())


def _within(moment: int) -> int:
    return min(max(moment, EARLIEST), LATEST)


def spell(moment: int, zone: ZoneInfo) -> str:
    """RFC 3339 as the zone's clock has it; UTC as ``Z``."""
    text = datetime.fromtimestamp(_within(moment), zone).isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
