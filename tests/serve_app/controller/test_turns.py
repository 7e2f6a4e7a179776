"""A loop of the controller outlives whatever goes wrong in one of its turns."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.controller.turns import kept


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
