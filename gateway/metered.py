"""How metering stands, for health and metrics, and how it ends."""

from __future__ import annotations

from gateway.metering.metering import Metering
from gateway.observability.health import Check, Status
from gateway.status import MeteringStatus


def checks(metering: Metering | None) -> list[Check]:
    """For ``/readyz``: reads go on whatever it says, unless ``metering.on_failure`` is ``stop``."""
    if metering is None:
        return []

    def status() -> Status:
        seen = metering.status()
        return Status("ok" if seen.trouble is None else "degraded", seen.trouble or "", {"cells": seen.cells})

    return [Check("metering", required=False, status=status)]


def status(metering: Metering | None) -> MeteringStatus:
    """For metrics."""
    return MeteringStatus() if metering is None else metering.status()


async def drain(metering: Metering | None, *, within_seconds: float) -> None:
    """Nothing is delivered any more: what was counted goes to Kafka, or waits on disk for the next start."""
    if metering is not None:
        await metering.drain(within_seconds=within_seconds)
