"""A loop outlives whatever goes wrong in one of its turns, and a bell ends its rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine

import pytest

from serve_app.turns import Bell, kept


async def well() -> None:
    pass


async def broken() -> None:
    raise KeyError("a slot nobody knows")


async def cancelled() -> None:
    raise asyncio.CancelledError


class TestKept:
    async def test_says_whether_the_turn_went_well(self) -> None:
        assert await kept(well, what="a turn")
        assert not await kept(broken, what="a turn")

    async def test_an_end_from_outside_is_no_failure_to_be_kept(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await kept(cancelled, what="a turn")


class Counted:
    """Turns that are counted; the first one fails. `done` rings after each."""

    def __init__(self) -> None:
        self.num = 0
        self.done: asyncio.Queue[int] = asyncio.Queue()

    async def turn(self) -> None:
        self.num += 1
        self.done.put_nowait(self.num)
        if self.num == 1:
            raise KeyError("a slot nobody knows")


@contextlib.asynccontextmanager
async def going(turns: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """The loop goes on while the block does, which must end within a minute."""
    loop = asyncio.create_task(turns)
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        loop.cancel()


class TestBell:
    async def test_a_ring_ends_the_rest_even_after_a_turn_that_failed(self) -> None:
        bell, counted = Bell(), Counted()
        async with going(bell.turns(counted.turn, every_s=3600, what="a turn")):
            assert await counted.done.get() == 1
            bell.ring()
            assert await counted.done.get() == 2

    async def test_without_one_the_next_turn_comes_after_its_time(self) -> None:
        counted = Counted()
        async with going(Bell().turns(counted.turn, every_s=0.0, what="a turn")):
            assert [await counted.done.get() for _ in range(3)] == [1, 2, 3]

    async def test_what_rang_before_a_turn_is_answered_by_that_turn(self) -> None:
        bell, counted = Bell(), Counted()
        bell.ring()
        bell.ring()
        async with going(bell.turns(counted.turn, every_s=3600, what="a turn")):
            assert await counted.done.get() == 1
            for _ in range(10):
                await asyncio.sleep(0)
            assert counted.num == 1
