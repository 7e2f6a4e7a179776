"""`headroom scale` through a real gateway to the real scaling desk, whose plans the real solver makes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from click.testing import CliRunner, Result

from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.cli import main
from serve_app.gateway.app import Gateway
from tests.serve_app.controller.scaling_world import World
from tests.serve_app.gateway.builders import settings
from tests.serve_app.gateway.serving import FakeControl, served
from tracing.metrics import Recorder


class DeskControl(FakeControl):
    """A controller of which the scaling desk is real."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        return await self._world.desk.answer(asked)


@contextlib.asynccontextmanager
async def cluster(world: World) -> AsyncIterator[str]:
    """Its address. Everything has been measured once."""
    await world.turns(0)
    gateway = Gateway(settings=settings(), control=DeskControl(world), recorder=Recorder("test"), created=1)
    async with served(gateway) as address:
        try:
            yield address
        finally:
            await gateway.aclose()


async def scale(address: str, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["scale", *arguments, "--address", address])


class TestScale:
    async def test_by_hand_changes_what_runs(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        async with cluster(world) as address:
            result = await scale(address, "mini=3")
        assert (result.exit_code, result.stdout) == (0, "mini: 1 → 3, applied\n")
        assert world.count() == 3

    async def test_into_the_headroom_is_exit_code_one_with_the_reason(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        async with cluster(world) as address:
            result = await scale(address, "mini=4")
            shown = await scale(address)
        assert result.exit_code == 1
        assert "mini: 1 → 4, blocked by headroom: " in result.stdout
        assert "blocked by headroom" in shown.stdout
        assert world.count() == 1

    async def test_of_what_nobody_knows_names_what_there_is(self, tmp_path: Path) -> None:
        async with cluster(World(tmp_path)) as address:
            result = await scale(address, "nobody=2")
        assert result.exit_code == 1
        assert "Known: base, gateway, mini, trainers." in result.stderr
