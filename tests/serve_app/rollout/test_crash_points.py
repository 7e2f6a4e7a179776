"""Threat 20: killed anywhere, the cluster ends with the old weights or the new ones, and the record says which."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Mode, Stage
from serve_app.rollout.triggers import Traffic
from tests.serve_app.rollout.controllers import controller, run_killed, store
from tests.serve_app.rollout.fake_world import NEW, OLD, Cluster, Points

ENDS = {Stage.FINISHED: NEW.version, Stage.RETURNED: OLD.version, Stage.REFUSED: OLD.version}
MAX_LIVES = 6


def cluster_of(mode: Mode, *, is_garbage: bool = False, is_slow: bool = False) -> Cluster:
    """`is_slow`: the new weights take twice as long, which shows once they get traffic."""
    cluster = Cluster()
    if is_slow:
        latencies = ((OLD.version, 1.0), (NEW.version, 2.0))
        cluster.traffic = {version: Traffic(num_requests=100, latency_s=latency_s) for version, latency_s in latencies}
    if mode is Mode.IN_PLACE:
        cluster.room = replace(cluster.room, free_bytes=0, fits=False)
    if is_garbage:
        cluster.garbage = {NEW.version}
    return cluster


async def lived(cluster: Cluster, lives: list[Points]) -> list[str]:
    """Controllers one after the other, each killed where its points say, then one that lives. Names of all points."""
    db = store()
    names: list[str] = []
    for points in [*lives, Points()]:
        was_killed = await run_killed(controller(cluster, db, points=points))
        names += points.names
        if not was_killed:
            break
    records = RolloutLedger(db).page()
    assert len(records) == 1
    assert records[0].is_over
    cluster.check_rest()
    assert cluster.committed == ENDS[records[0].stage], "the record says something else than what serves"
    return names


async def every_point(make: Callable[[], Cluster], *, ends_in: str) -> int:
    undisturbed = make()
    num_points = len(await lived(undisturbed, []))
    assert undisturbed.committed == ends_in
    for kill_at in range(num_points):
        await lived(make(), [Points(kill_at=kill_at)])
    return num_points


class TestAKilledController:
    @pytest.mark.parametrize("mode", [Mode.IN_PLACE, Mode.SIDE_BY_SIDE])
    @pytest.mark.parametrize("fault", ["none", "garbage", "slow"])
    async def test_leaves_old_or_new_wherever_it_ends(self, mode: Mode, fault: str) -> None:
        """Every store write, every effect and every rename, before and after."""
        ends_in = (NEW if fault == "none" else OLD).version
        make = lambda: cluster_of(mode, is_garbage=fault == "garbage", is_slow=fault == "slow")  # noqa: E731
        assert await every_point(make, ends_in=ends_in) > 40

    @given(kills=st.lists(st.integers(0, 90), min_size=1, max_size=MAX_LIVES), mode=st.sampled_from(list(Mode)))
    @settings(max_examples=60)
    def test_may_be_killed_again_while_it_recovers(self, kills: list[int], mode: Mode) -> None:
        asyncio.run(_again(kills, mode))


async def _again(kills: list[int], mode: Mode) -> None:
    await lived(cluster_of(mode), [Points(kill_at=kill_at) for kill_at in kills])


class TestABrokenWorld:
    @given(
        failing=st.sets(st.integers(0, 150), max_size=25),
        kill_at=st.none() | st.integers(0, 120),
        mode=st.sampled_from(list(Mode)),
        is_garbage=st.booleans(),
        is_slow=st.booleans(),
    )
    @settings(max_examples=150)
    def test_ends_in_old_or_new_whatever_fails(
        self, failing: set[int], kill_at: int | None, mode: Mode, is_garbage: bool, is_slow: bool
    ) -> None:
        """Any call may fail before or after it has acted, and the controller may be killed besides."""
        cluster = cluster_of(mode, is_garbage=is_garbage, is_slow=is_slow)
        asyncio.run(lived(cluster, [Points(kill_at=kill_at, fails=lambda number: number in failing)]))
