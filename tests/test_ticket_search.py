"""Tickets that are looked for together: one read for all, a bound on who waits, nobody left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.auth.ticket_search import Search
from gateway.errors import Unavailable


class Place:
    """Where tickets turn up."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.error: Exception | None = None
        self.is_over = False
        self.reads: list[list[str]] = []

    async def read(self, keys: Sequence[str]) -> dict[str, str]:
        self.reads.append(sorted(keys))
        if self.error is not None:
            raise self.error
        return {key: self.there[key] for key in keys if key in self.there}

    async def said(self) -> bool:
        return self.is_over

    def search(self, *, most: int = 100) -> Search:
        return Search(self.read, is_over=self.said, most=most)


async def looking(search: Search, *keys: str) -> list[asyncio.Task[str | None]]:
    """Each is looked for, and waits."""
    found = [asyncio.create_task(search.find(key)) for key in keys]
    async with asyncio.timeout(30):
        while len(search) < len(keys):  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0)
    return found


async def test_all_are_looked_for_at_once_and_each_is_given_its_own() -> None:
    place = Place()
    search = place.search()
    one, other, same, never = await looking(search, "a", "b", "a", "c")
    async with asyncio.timeout(30):
        while not place.reads:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        assert place.reads == [["a", "b", "c"]]
        place.there = {"a": "1", "b": "2"}
        assert [await one, await other, await same] == ["1", "2", "1"]
        assert not never.done()
        place.is_over = True
        assert await never is None
    assert len(search) == 0


async def test_beyond_the_bound_it_is_refused_and_who_leaves_makes_room() -> None:
    place = Place()
    search = place.search(most=2)
    tasks = await looking(search, "a", "b")
    with pytest.raises(Unavailable):
        await search.find("c")
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    tasks.append(asyncio.create_task(search.find("c")))
    place.there = {"b": "2", "c": "3"}
    async with asyncio.timeout(30):
        assert await asyncio.gather(*tasks[1:]) == ["2", "3"]


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("unforeseen")])
async def test_where_the_read_fails_all_hear_of_it_and_the_next_one_is_made(error: Exception) -> None:
    place = Place()
    search, place.error = place.search(), error
    async with asyncio.timeout(30):
        for task in await looking(search, "a", "b"):
            with pytest.raises(Unavailable):
                await task
        place.error, place.there = None, {"a": "1"}
        assert await search.find("a") == "1"


async def test_who_is_to_look_elsewhere_is_let_go_at_once() -> None:
    search = Place().search()
    tasks = await looking(search, "a", "b")
    search.give_up()
    assert await asyncio.gather(*tasks) == [None, None]
