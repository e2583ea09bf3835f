"""Fetches the real parts that tests use, before they start; says what is left out and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tests.parts import chromium, kafka, nginx, node, redis

PARTS: dict[str, tuple[Callable[[], object], str]] = {
    "java": (kafka.java, "tests on real Kafka"),
    "kafka": (kafka.libraries, "tests on real Kafka"),
    "redis": (redis.executable, "tests on real Redis"),
    "npm": (node.packages, "tests under Node.js"),
    "nginx": (nginx.install, "tests behind a proxy"),
    "chromium": (chromium.install, "tests in a browser"),
}


def main() -> int:
    """1 where a part is missing under CI=true, else 0: the tests that need it are then skipped."""
    missing = 0
    for name, (fetch, tests) in PARTS.items():
        try:
            print(f"{name:<10} {fetch()}")
        except kafka.PartMissing as reason:
            missing += 1
            print(f"{name:<10} left out: {tests}; {reason}", file=sys.stderr)
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
