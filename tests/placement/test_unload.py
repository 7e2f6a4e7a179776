"""Which idle models go when room is short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.demand import Demand
from placement.errors import InvalidProblem
from placement.inventory import Holding, HoldingKind, Inventory
from placement.plan import Placement
from placement.policy import Policy
from placement.solver import solve
from placement.unload import IDLE_LIMIT_S, Idle, NoUnloading, Spared, Unloading, unloads
from tests.placement.builders import GIB, demand, estimate, fleet, gpu, host

NOTHING_FREE = Policy(headroom=0.0)


def idle(
    model: str,
    *devices: str,
    gib: float = 10,
    idle_s: float = 3600,
    priority: int = 0,
    pinned: bool = False,
    kept_gib: float = 0,
    cpu_millis: int = 0,
) -> Idle:
    """One replica on each of the devices."""
    places = tuple(
        Placement(
            replica=f"{model}#{number}",
            model=model,
            node=device.split("/")[0],
            devices=(device,),
            estimate=estimate(int(gib * GIB)),
            reason="test",
        )
        for number, device in enumerate(devices)
    )
    return Idle(
        model=model,
        priority=priority,
        idle_s=idle_s,
        placements=places,
        pinned=pinned,
        cpu_millis=cpu_millis,
        kept_bytes=int(kept_gib * GIB),
    )


def going(inventory: Inventory, newcomer: Demand, *lying: Idle) -> tuple[str, ...]:
    answer = unloads(inventory, newcomer, lying, NOTHING_FREE)
    assert isinstance(answer, Unloading), answer
    return answer.models


def refused(inventory: Inventory, newcomer: Demand, *lying: Idle) -> NoUnloading:
    answer = unloads(inventory, newcomer, lying, NOTHING_FREE)
    assert isinstance(answer, NoUnloading), answer
    return answer


class TestWhoGoes:
    two = fleet("n: 2x24GiB")

    def test_nobody_where_there_is_room(self) -> None:
        assert going(self.two, demand("new", gib=14), idle("a", "n/gpu-0")) == ()

    def test_the_lowest_priority_first(self) -> None:
        lying = [idle("high", "n/gpu-0", priority=2, idle_s=9999), idle("low", "n/gpu-1", priority=1)]
        assert going(self.two, demand("new", gib=20, priority=2), *lying) == ("low",)

    def test_then_the_longest_idle(self) -> None:
        lying = [idle("short", "n/gpu-0", idle_s=700), idle("long", "n/gpu-1", idle_s=800)]
        assert going(self.two, demand("new", gib=20), *lying) == ("long",)

    def test_then_the_one_with_fewer_bytes(self) -> None:
        lying = [idle("large", "n/gpu-0", gib=14), idle("small", "n/gpu-1", gib=12)]
        assert going(self.two, demand("new", gib=20), *lying) == ("small",)

    def test_nobody_goes_in_vain(self) -> None:
        lying = [idle("longest", "n/gpu-0", gib=5, idle_s=9999), idle("busy", "n/gpu-0", gib=15, idle_s=0)]
        assert going(self.two, demand("new", gib=20), *lying, idle("other", "n/gpu-1")) == ("other",)

    def test_as_many_as_it_takes(self) -> None:
        lying = [idle("a", "n/gpu-0", idle_s=900), idle("b", "n/gpu-0", idle_s=800), idle("c", "n/gpu-1", gib=23)]
        lying[2] = replace(lying[2], priority=1)
        assert going(self.two, demand("new", gib=20, priority=1), *lying) == ("a", "b")

    def test_an_equal_priority_may_go_and_a_higher_never(self) -> None:
        one = fleet("n: 1x24GiB")
        assert going(one, demand("new", gib=20, priority=1), idle("a", "n/gpu-0", priority=1)) == ("a",)
        assert refused(one, demand("new", gib=20), idle("a", "n/gpu-0", priority=1)).spared == (
            (Spared.HIGHER_PRIORITY, 1),
        )

    def test_what_sleep_keeps_makes_no_room(self) -> None:
        one = fleet("n: 1x24GiB")
        assert going(one, demand("new", gib=22), idle("a", "n/gpu-0", kept_gib=2)) == ("a",)
        refused(one, demand("new", gib=22.5), idle("a", "n/gpu-0", kept_gib=2))

    def test_cores_are_room_too(self) -> None:
        lying = [idle("thinker", "n/gpu-0", gib=1, cpu_millis=10_000), idle("other", "n/gpu-1", gib=1, idle_s=9999)]
        assert going(self.two, demand("new", gib=1, cpu_millis=8000), *lying) == ("thinker",)

    def test_memory_of_a_host_is_counted_once(self) -> None:
        assert going(host("h", gib=32), demand("new", gib=20), idle("a", "h/host", gib=16)) == ("a",)
        assert going(host("h", gib=32), demand("new", gib=16), idle("a", "h/host", gib=16)) == ()

    def test_each_replica_over_several_devices_finds_its_own(self) -> None:
        unlike = fleet("a: 1x30GiB 1x10GiB", "b: 2x20GiB")
        assert going(unlike, demand("new", gib=10, tensor_parallel=2, replicas=3)) == ()
        refused(unlike, demand("new", gib=10, tensor_parallel=2, replicas=4))

    def test_what_lies_on_a_lost_device_is_in_nobodys_way(self) -> None:
        assert going(self.two, demand("new", gib=20), idle("a", "gone/gpu-0")) == ()


class TestNoRoom:
    one = fleet("n: 1x24GiB")

    def test_busy_models_say_how_long_to_wait(self) -> None:
        answer = refused(self.one, demand("new", gib=20), idle("a", "n/gpu-0", idle_s=580))
        assert answer.retry_after_s == 20
        assert "needs 20.0 GiB on one device; of 1 models that lie there 0 could go, 1 not idle" in answer.message
        assert answer.message.endswith("Wait 20 s, until enough of them are idle.")

    def test_no_longer_than_until_enough_are_idle(self) -> None:
        lying = [idle("late", "n/gpu-0", gib=5, idle_s=1), idle("soon", "n/gpu-0", idle_s=500)]
        assert refused(self.one, demand("new", gib=19), *lying).retry_after_s == 100

    def test_pinned_models_stay_and_are_named(self) -> None:
        answer = refused(self.one, demand("new", gib=20), idle("a", "n/gpu-0", pinned=True))
        assert (answer.spared, answer.retry_after_s) == (((Spared.PINNED, 1),), None)
        assert "Unpin 'a'" in answer.message

    def test_a_model_never_makes_room_for_itself(self) -> None:
        answer = refused(self.one, demand("new", gib=20), idle("new", "n/gpu-0"))
        assert answer.spared == ((Spared.SAME_MODEL, 1),)

    def test_too_large_is_too_large(self) -> None:
        answer = refused(self.one, demand("new", gib=25), idle("a", "n/gpu-0"))
        assert (answer.retry_after_s, answer.needed_bytes) == (None, 25 * GIB)

    @pytest.mark.parametrize("bad", [idle("a", idle_s=-1), idle("a", idle_s=float("nan")), idle("a", kept_gib=-1)])
    def test_a_question_that_contradicts_itself_is_turned_away(self, bad: Idle) -> None:
        with pytest.raises(InvalidProblem, match="model 'a'"):
            unloads(self.one, demand("new"), [bad], NOTHING_FREE)


@st.composite
def questions(draw: st.DrawFn) -> tuple[Inventory, Demand, list[Idle]]:
    """Up to 6 models on up to 3 devices of 10 to 20 bytes, with starts; many ties in priority and idle time."""
    devices = tuple(gpu("n", index, draw(st.integers(10, 20))) for index in range(draw(st.integers(1, 3))))
    node = replace(fleet("n: 1x24GiB").nodes[0], devices=devices, num_cpus=8)
    size = draw(st.integers(1, len(devices)))
    newcomer = replace(
        demand("new", priority=1, replicas=draw(st.integers(1, 3)), tensor_parallel=size),
        estimate=estimate(draw(st.integers(1, 12)), loading=draw(st.integers(0, 4))),
        cpu_millis=draw(st.sampled_from([0, 0, 2000])),
    )
    lying = [draw(_lying(f"m{number}", [device.id for device in devices])) for number in range(draw(st.integers(0, 6)))]
    return Inventory(version=1, nodes=(node,)), newcomer, lying


@st.composite
def _lying(draw: st.DrawFn, model: str, devices: list[str]) -> Idle:
    on = draw(st.lists(st.sampled_from(devices), min_size=1, max_size=2))
    return replace(
        idle(model, *on, idle_s=draw(st.sampled_from([0, 599, 600, 700])), priority=draw(st.integers(0, 2))),
        placements=tuple(
            replace(place, estimate=estimate(draw(st.integers(1, 5)), loading=draw(st.integers(0, 3))))
            for place in idle(model, *on).placements
        ),
        pinned=draw(st.sampled_from([False, False, False, True])),
        cpu_millis=draw(st.sampled_from([0, 0, 2000])),
    )


class TestAgainstEveryChoice:
    @given(questions())
    def test_the_least_precious_choice_that_makes_room(self, question: tuple[Inventory, Demand, list[Idle]]) -> None:
        inventory, newcomer, lying = question
        choices = [choice for choice in _choices(newcomer, lying) if _has_room(inventory, newcomer, lying, choice)]
        answer = unloads(inventory, newcomer, lying, NOTHING_FREE)
        if not choices:
            assert isinstance(answer, NoUnloading)
            return
        precious = sorted(lying, key=lambda m: (m.priority, -m.idle_s, m.freed_bytes, m.model), reverse=True)
        best = min(choices, key=lambda choice: [model.model in choice for model in precious])
        assert isinstance(answer, Unloading)
        assert set(answer.models) == best


def _choices(newcomer: Demand, lying: Sequence[Idle]) -> Iterator[set[str]]:
    may_go = [m.model for m in lying if m.priority <= newcomer.priority and not m.pinned and m.idle_s >= IDLE_LIMIT_S]
    for num in range(len(may_go) + 1):
        yield from map(set, combinations(may_go, num))


def _has_room(inventory: Inventory, newcomer: Demand, lying: Sequence[Idle], gone: set[str]) -> bool:
    """Asked of the solver, with what stays as holdings; of its starts what the newcomer's own does not cover."""
    start = newcomer.estimate.peak_bytes - newcomer.estimate.rest_bytes
    stays = [(model, place) for model in lying if model.model not in gone for place in model.placements]
    (node,) = inventory.nodes
    devices = []
    for device in node.devices:
        here = [place.estimate for _, place in stays if place.devices == (device.id,)]
        starts = max((e.peak_bytes - e.rest_bytes for e in here), default=0)
        held = sum(e.rest_bytes for e in here) + max(0, starts - start)
        devices.append(replace(device, holdings=(Holding(holder="o", kind=HoldingKind.RESERVED, num_bytes=held),)))
    cpu = sum(model.cpu_millis for model, _ in stays)
    left = replace(inventory, nodes=(replace(node, devices=tuple(devices), held_cpu_millis=cpu),))
    return not solve(left, [newcomer], NOTHING_FREE).refusals
