"""How engines end: told once, waited for, and timed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.controller.claims import Slot, SlotState
from serve_app.controller.ledger import Ledger
from serve_app.controller.retirement import Retirement
from serve_app.controller.store import Store
from serve_app.errors import EngineStartFailed
from tests.serve_app.controller.test_ledger import claimed, ledger, slot

MINI, BASE = slot("mini#0"), slot("base#0")


class Scene:
    """A retirement over a real ledger and store, and what it told others."""

    def __init__(self, directory: Path, *held: Slot, free: tuple[Slot, ...] = (), limit_s: float = 30.0) -> None:
        self.ledger: Ledger = ledger(*held, *free)
        self.epochs = {one.name: claimed(self.ledger, one.model, one.name).epoch for one in held}
        self.store = Store(directory / "state.db")
        self.ended: list[tuple[str, bool]] = []
        self.durations_s: list[float] = []
        self.serving_when_published: list[bool] = []
        self.told = asyncio.Event()
        self.retirement = Retirement(
            ledger=self.ledger,
            store=self.store,
            publish=self.published,
            on_end=self.heard,
            limit_s=limit_s,
            look_s=0.001,
        )

    def published(self) -> None:
        states = [tenure.state for tenure in self.ledger.tenures.values()]
        self.serving_when_published.append(any(state is not SlotState.DRAINING for state in states))
        self.told.set()

    def heard(self, model: str, duration_s: float, has_ended: bool) -> None:
        self.ended.append((model, has_ended))
        self.durations_s.append(duration_s)

    async def engine_ends(self, of: Slot) -> None:
        await self.told.wait()
        self.ledger.lost(slot=of.name, epoch=self.epochs[of.name])
        self.ledger.freed(slot=of.name, epoch=self.epochs[of.name])


class TestRetirement:
    def test_waits_until_the_engine_has_ended_and_tells_how_long_it_took(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path, MINI)

        async def story() -> None:
            ends = asyncio.gather(scene.retirement.retired([MINI]), scene.engine_ends(MINI))
            await asyncio.wait_for(ends, timeout=20)

        asyncio.run(story())
        assert MINI.name not in scene.ledger.slots
        assert scene.ended == [("mini", True)]
        assert scene.durations_s[0] > 0

    def test_tells_gateways_once_all_are_told_to_drain_and_writes_that_down(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path, MINI, BASE, limit_s=0.0)
        with pytest.raises(EngineStartFailed):
            asyncio.run(scene.retirement.retired([MINI, BASE]))
        assert scene.serving_when_published == [False]
        assert {one.slot: one.state for one in scene.store.tenures()} == dict.fromkeys(
            (MINI.name, BASE.name), SlotState.DRAINING
        )

    def test_that_takes_too_long_says_who_is_left_and_counts_that_as_an_error(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path, MINI, BASE, limit_s=0.5)

        async def story() -> None:
            ends = asyncio.gather(scene.retirement.retired([MINI, BASE]), scene.engine_ends(BASE))
            await asyncio.wait_for(ends, timeout=20)

        with pytest.raises(EngineStartFailed, match=r"^mini#0 did not end within"):
            asyncio.run(story())
        assert scene.ended == [("base", True), ("mini", False)]

    def test_of_a_slot_that_nobody_holds_is_no_end_of_an_engine(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path, free=(MINI,))
        asyncio.run(scene.retirement.retired([MINI]))
        assert MINI.name not in scene.ledger.slots
        assert scene.ended == []
