"""HTTP pull as a partner sees it: pages, the chain of their cursors, bounds, waiting, what stands in a record."""

from __future__ import annotations

import pytest

from tests.parts.estate import ALL_NUMBERS, Node, numbers_by_partition
from tests.parts.partner import Partner

pytest_plugins = ("tests.parts.estate",)


async def test_the_chain_of_next_cursors_gives_every_record_once_and_in_partition_order(acme: Partner) -> None:
    page = await acme.pull("numbers", from_="earliest", limit=7)
    found = page["records"]
    while page["records"]:
        assert len(page["records"]) <= 7
        page = await acme.pull("numbers", cursor=page["next_cursor"], limit=7)
        found += page["records"]
    assert numbers_by_partition(found) == ALL_NUMBERS
    assert len({record["uid"] for record in found}) == len({record["id"] for record in found}) == len(found)
