"""The parts that limits are kept in: each is one slot of a cluster, so what is of one part is at one server."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

PARTS: Final = 16
"""Tenants are spread over so many. A cluster of more masters has some with none."""

_TAG = re.compile(r"\{(\d+)\}")


@lru_cache(maxsize=65_536)
def part_of(tenant: str) -> int:
    """Where everything that limits know of a tenant is."""
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).digest()[0] % PARTS


def part_tag(part: int) -> str:
    """As it stands in a key: what is in braces decides the slot."""
    return f"{{{part}}}"


def part_in(key: str) -> int:
    """The part of a key; 0 for one that is of none."""
    found = _TAG.search(key)
    return int(found[1]) if found else 0
