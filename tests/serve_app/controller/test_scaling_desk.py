"""Row B10 from the signals to the plan in force: who grows, who is blocked and why, and what a restart keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from placement.signals import Silence
from serve_app.scaling.rules import Limits
from tests.serve_app.controller.scaling_world import FakeGateways, World, busy_host, file, signals
from tracing import names
from tracing.metrics import HistogramTotals

BOUNDED = {"mini": Limits(min_replicas=1, max_replicas=2)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestQueuePressure:
    async def test_scales_a_model_up_in_the_turn_in_which_its_hold_time_ends(self, world: World) -> None:
        world.queue("mini", 60)
        await world.turns(115)
        assert world.count() == 1
        world.wait(5)
        await world.turns(0)
        assert world.count() == 2
        assert world.moves("mini") == [(1, 2, "applied")]

    async def test_is_judged_by_model(self, world: World) -> None:
        world.queue("mini", 60)
        world.queue("base", 20)
        await world.turns(120)
        assert (world.count("mini"), world.count("base")) == (2, 1)

    async def test_that_comes_and_goes_moves_nothing(self, world: World) -> None:
        for waiting in (60, 20) * 40:
            world.queue("mini", waiting)
            await world.turns(55)
            world.wait(5)
        assert world.moves("mini") == []

    async def test_that_goes_and_stays_away_gives_the_room_back_once(self, world: World) -> None:
        world.queue("mini", 60)
        await world.turns(120)
        world.queue("mini", 0)
        world.wait(5)
        await world.turns(2 * 3600)
        assert [move[:2] for move in world.moves("mini") if move[2] == "applied"] == [(1, 2), (2, 1)]
        assert world.count() == 1


class TestTheFloor:
    async def test_blocks_the_replica_that_would_reach_into_the_headroom(self, world: World) -> None:
        """19.2 GiB are above the headroom: three of `mini` and one of `base`, not four."""
        world.queue("mini", 60)
        await world.turns(20 * 60)
        applied = [move[:2] for move in world.moves("mini") if move[2] == "applied"]
        assert applied == [(1, 2), (2, 3)]
        assert world.count("base") == 1

    async def test_is_told_with_its_sentence_on_the_page_and_in_metrics(self, world: World) -> None:
        world.queue("mini", 60)
        await world.turns(20 * 60)
        (blocked,) = [one for one in (await world.page())["decisions"] if one["outcome"] == "blocked_by_headroom"]
        assert (blocked["from_replicas"], blocked["to_replicas"]) == (3, 4)
        assert "headroom" in blocked["message"]
        (told,) = world.recorder.drain()
        assert told.counters[names.SCALING_DECISIONS.name, ("mini", "up", "blocked_by_headroom")] == 1

    async def test_blocks_before_anything_is_begun(self, world: World) -> None:
        status, told = await self._asked(world, 4)
        assert (status, told["outcome"]) == (200, "blocked_by_headroom")
        assert world.applier.num_begun == 0
        assert world.counts.on(file()) == file()

    async def test_is_not_kept_by_taking_the_place_of_a_model_of_less_priority(self, tmp_path: Path) -> None:
        world = World(tmp_path, mini_gib=6.0)
        _, told = await self._asked(world, 3)
        assert (told["outcome"], world.applier.num_begun) == ("blocked_by_headroom", 0)
        assert "only where 'base' runs" in told["message"]

    async def test_does_not_stand_in_the_way_down(self, world: World) -> None:
        await self._asked(world, 3)
        _, told = await self._asked(world, 1)
        assert told["outcome"] == "applied"
        assert world.count() == 1

    async def _asked(self, world: World, count: int) -> tuple[int, dict[str, str]]:
        await world.turns(0)
        return await world.ask("mini", count)


class TestByHand:
    async def test_is_in_force_when_it_is_answered(self, world: World) -> None:
        await world.turns(0)
        status, told = await world.ask("mini", 2)
        assert (status, told["outcome"], told["by_hand"]) == (200, "applied", True)
        assert world.count() == 2

    async def test_another_change_under_way_is_said(self, world: World) -> None:
        await world.turns(0)
        world.applier.is_busy = True
        status, told = await world.ask("mini", 2)
        assert (status, told["outcome"]) == (200, "failed")
        assert "under way" in told["message"]

    async def test_an_engine_that_does_not_start_is_a_failure_and_leaves_nothing_behind(self, world: World) -> None:
        await world.turns(0)
        world.applier.works = False
        _, told = await world.ask("mini", 2)
        assert (told["outcome"], told["message"]) == ("failed", "mini#1 did not start. What ran before serves again.")
        assert [model.num_replicas for model in world.counts.on(file()).models] == [1, 1]


class TestSleep:
    """`mini` may sleep: its least is 0."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(tmp_path, says=file(limits={"mini": Limits(min_replicas=0, max_replicas=4)}))

    async def test_is_the_count_zero_and_waking_brings_the_count_of_before(self, world: World) -> None:
        await world.turns(0)
        await world.ask("mini", 2)
        await world.turns(0)
        await world.ask("mini", 0)
        assert world.count() == 0
        assert world.lifecycle.resting["mini"].reason == "put to sleep by hand"
        assert [model.num_replicas for model in world.bringup.settings.models] == [2, 1]

    async def test_is_ended_by_any_other_count(self, world: World) -> None:
        await world.turns(0)
        await world.ask("mini", 0)
        await world.turns(0)
        await world.ask("mini", 1)
        assert world.count() == 1
        assert "mini" not in world.lifecycle.resting

    async def test_of_a_model_that_a_request_woke_is_not_forced_again(self, tmp_path: Path) -> None:
        world = World(tmp_path, says=file(limits={}))
        await world.turns(0)
        await world.ask("mini", 0)
        world.lifecycle.rest({})
        world.queue("mini", 20)
        await world.turns(1800)
        assert world.moves("mini") == [(1, 0, "applied")]


class TestARestart:
    async def test_keeps_a_count_asked_for_by_hand_and_does_not_take_it_back(self, tmp_path: Path) -> None:
        before = World(tmp_path, says=file(limits={}))
        await before.turns(0)
        await before.ask("mini", 3)
        after = World(tmp_path, says=file(limits={}))
        assert after.count() == 3
        await after.turns(3600)
        assert after.moves("mini") == []

    async def test_keeps_what_signals_asked_for_and_lets_it_go_when_they_do(self, tmp_path: Path) -> None:
        before = World(tmp_path)
        before.queue("mini", 60)
        await before.turns(120)
        after = World(tmp_path)
        assert after.count() == 2
        after.queue("mini", 0)
        await after.turns(900)
        assert after.moves("mini") == [(2, 1, "applied")]

    async def test_with_another_count_in_the_file_means_that_count(self, tmp_path: Path) -> None:
        before = World(tmp_path, says=file(limits={}))
        await before.turns(0)
        await before.ask("mini", 3)
        said = file(limits={})
        edited = replace(said, models=(replace(said.models[0], num_replicas=2), said.models[1]))
        after = World(tmp_path, says=edited)
        assert after.count() == 2
        await after.turns(3600)
        assert after.moves("mini") == []

    async def test_keeps_how_many_jobs_may_run(self, tmp_path: Path) -> None:
        before = World(tmp_path)
        await before.turns(0)
        await before.ask("trainers", 3)
        assert World(tmp_path).desk.max_jobs == 3


class TestGateways:
    async def test_grow_when_their_processors_are_busy(self, world: World) -> None:
        world.figures.gauge[names.GATEWAY_CPU.name] = {("a",): 0.9, ("b",): 0.8}
        await world.turns(180)
        assert world.gateways.number == 2

    async def test_do_not_grow_when_one_idle_instant_comes_between(self, world: World) -> None:
        """The mean of half a minute counts, so it is neither: one instant does not end the hold."""
        world.figures.gauge[names.GATEWAY_CPU.name] = {("a",): 0.9}
        await world.turns(100)
        world.figures.gauge[names.GATEWAY_CPU.name] = {("a",): 0.1}
        world.wait(5)
        await world.turns(0)
        world.figures.gauge[names.GATEWAY_CPU.name] = {("a",): 0.9}
        world.wait(5)
        await world.turns(80)
        assert world.gateways.number == 2

    async def test_grow_when_requests_stay_in_them(self, world: World) -> None:
        buckets = len(names.GATEWAY_OVERHEAD.buckets)
        for turn in range(80):
            counts = (*(0,) * (buckets - 1), turn * 10, 0)
            world.figures.histogram[names.GATEWAY_OVERHEAD.name] = {(): HistogramTotals(counts, 0.0)}
            await world.turns(0)
            world.wait(5)
        assert world.gateways.number == 2

    async def test_that_serve_refuses_are_blocked_with_its_sentence(self, tmp_path: Path) -> None:
        world = World(tmp_path, gateways=FakeGateways(refusal="Set `external_scaler_enabled`."))
        await world.turns(0)
        _, told = await world.ask("gateway", 2)
        assert (told["outcome"], told["message"]) == ("blocked_by_headroom", "Set `external_scaler_enabled`.")

    @pytest.mark.parametrize(("used_gib", "outcome"), [(18, "applied"), (19, "blocked_by_headroom")])
    async def test_take_of_a_machines_memory_only_above_its_headroom(
        self, world: World, used_gib: int, outcome: str
    ) -> None:
        world.polls["head/host"] = busy_host(used_gib)
        await world.turns(0)
        _, told = await world.ask("gateway", 2)
        assert told["outcome"] == outcome

    async def test_are_never_none(self, world: World) -> None:
        await world.turns(0)
        status, told = await world.ask("gateway", 0)
        assert status == 409
        assert "only models can sleep" in told["error"]["message"]


class TestJobs:
    async def test_more_may_run_when_many_wait_for_ten_minutes(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        await world.turns(0)
        await world.ask("trainers", 2)
        told = world.jobs_told
        world.num_waiting = 21
        await world.turns(900)
        assert world.desk.max_jobs == 3
        assert world.jobs_told == told + 1

    async def test_as_many_may_run_as_find_room_where_nothing_is_said(self, tmp_path: Path) -> None:
        assert World(tmp_path, says=file(limits={})).desk.max_jobs == 64


class TestTheSignals:
    async def test_are_of_the_devices_the_model_runs_on(self, world: World) -> None:
        world.polls |= {
            "head/gpu-0": signals("head/gpu-0", used_gib=18, utilization=0.5),
            "head/gpu-1": signals("head/gpu-1", used_gib=24, utilization=1.0),
            "head/gpu-2": Silence(device="head/gpu-2", reason="test"),
        }
        await world.turns(0)
        shown = {one["target"]: one["signals"] for one in (await world.page())["targets"]}
        assert shown["mini"] == {"compute": 0.5, "memory": 0.75}
        assert shown["base"] == {}

    async def test_are_left_out_while_nobody_tells_them(self, world: World) -> None:
        await world.turns(0)
        shown = {one["target"]: one["signals"] for one in (await world.page())["targets"]}
        assert shown == {"gateway": {}, "mini": {}, "base": {}, "trainers": {"queued_jobs": 0}}

    async def test_of_a_mute_serve_cost_the_gateways_alone(self, tmp_path: Path) -> None:
        class Mute(FakeGateways):
            async def count(self) -> int:
                raise ConnectionError("no Serve")

        world = World(tmp_path, gateways=Mute())
        await world.turns(0)
        assert [one["target"] for one in (await world.page())["targets"]] == ["base", "mini", "trainers"]
