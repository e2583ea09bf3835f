"""``python -m loadtests [scenario…] [--quick]``: runs the load tests and prints their table."""

from __future__ import annotations

import argparse
import sys

from loadtests.machine import CLIENT_CORE, allow_many_files, description, on_core
from loadtests.scenarios import (
    accounting,
    closing,
    envelopes,
    fanout,
    filters,
    idle,
    limits,
    metering,
    neighbour,
    opens,
    pull,
    replay,
    restart,
    saturated,
    tenants,
    tls,
    tokens,
    watch,
    withdrawals,
)
from loadtests.stage import kafka
from loadtests.table import markdown

SCENARIOS = {
    "fanout": fanout.run,
    "saturated": saturated.run,
    "idle": idle.run,
    "replay": replay.run,
    "opens": opens.run,
    "pull": pull.run,
    "filters": filters.run,
    "envelopes": envelopes.run,
    "restart": restart.run,
    "tls": tls.run,
    "tokens": tokens.run,
    "limits": limits.run,
    "accounting": accounting.run,
    "metering": metering.run,
    "neighbour": neighbour.run,
    "tenants": tenants.run,
    "watch": watch.run,
    "withdrawals": withdrawals.run,
    "closing": closing.run,
}


def main() -> int:
    """1 where a bar is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests", description="Load on loopback only; see docs/operations/benchmarks.md."
    )
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="short and rough: to see that it runs, not to be quoted")
    options = parser.parse_args()
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(SCENARIOS)}")
    allow_many_files()
    machine = description()
    rows = []
    with kafka() as running, on_core(CLIENT_CORE):
        for name in options.scenarios or SCENARIOS:
            rows += SCENARIOS[name](running, quick=options.quick)
    print(f"\n{machine}\n\n{markdown(rows)}")
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
