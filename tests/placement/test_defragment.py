"""Free space is joined only where that gains something, without refusing anybody, with the fewest moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from placement.check import verify
from placement.defragment import Defragmentation, Outcome, Room, defragment, room_of
from placement.demand import Demand
from placement.inventory import Inventory
from placement.plan import Plan
from placement.policy import Policy
from placement.solver import solve
from placement.steps import StepKind
from tests.placement.builders import GIB, demand, estimate, fleet, problems, with_device
from tests.placement.step_play import Case, plan_of, play, put

A, B, C = "n/gpu-0", "n/gpu-1", "n/gpu-2"
EIGHTS = tuple(demand(model, gib=8) for model in "abc")
SCATTERED = plan_of(*(put(f"{m}#0", d, estimate(8 * GIB)) for m, d in zip("abc", (A, B, C), strict=True)), headroom=0.2)
ONE_OF_THREE = int(24 * GIB * 0.8)
Question = tuple[Inventory, tuple[Demand, ...], Policy]


def joined(*, wanted_bytes: int = 0, running: Plan = SCATTERED, inventory: Inventory | None = None) -> Defragmentation:
    return defragment(running, inventory or fleet("n: 3x24GiB"), EIGHTS, Policy(), wanted_bytes=wanted_bytes)


class TestWantedBytes:
    def test_are_made_room_for_with_the_fewest_moves_and_their_price(self) -> None:
        made = joined(wanted_bytes=16 * GIB)
        assert (made.outcome, made.steps.num_moves, made.is_fewest_moves) == (Outcome.GAINED, 1, True)
        assert made.before.num_bytes < 16 * GIB <= made.after.num_bytes
        assert made.steps.price_s > 0

    def test_that_are_there_already_move_nothing(self) -> None:
        made = joined(wanted_bytes=11 * GIB)
        assert (made.outcome, made.plan, made.steps.num_moves) == (Outcome.ENOUGH_ALREADY, SCATTERED, 0)

    def test_larger_than_every_device_are_said_to_be_out_of_reach(self) -> None:
        made = joined(wanted_bytes=20 * GIB)
        assert (made.outcome, made.plan, made.most.num_bytes) == (Outcome.NOTHING_TO_GAIN, SCATTERED, ONE_OF_THREE)

    def test_are_not_made_room_for_by_refusing_anybody(self) -> None:
        full = plan_of(*(put(f"{m}#0", d, estimate(8 * GIB)) for m, d in zip("ab", (A, B), strict=True)), headroom=0.2)
        made = defragment(full, fleet("n: 2x12GiB"), EIGHTS[:2], Policy(), wanted_bytes=9 * GIB)
        assert made.outcome is Outcome.NOTHING_TO_GAIN

    def test_are_not_made_room_for_by_slowing_anybody_down(self) -> None:
        offloading = [replace(one, max_offload_bytes=8 * GIB) for one in EIGHTS[:2]]
        full = plan_of(*(put(f"{m}#0", d, estimate(8 * GIB)) for m, d in zip("ab", (A, B), strict=True)), headroom=0.2)
        made = defragment(full, fleet("n: 2x12GiB"), offloading, Policy(), wanted_bytes=9 * GIB)
        assert made.outcome is Outcome.NOTHING_TO_GAIN


class TestAsMuchAsPossible:
    def test_joins_the_space_of_a_whole_device(self) -> None:
        made = joined()
        assert (made.outcome, made.after.num_bytes, made.steps.num_moves) == (Outcome.GAINED, ONE_OF_THREE, 1)

    def test_says_honestly_that_there_is_nothing_to_gain(self) -> None:
        packed = plan_of(put("a#0", A, estimate(8 * GIB)), put("b#0", A, estimate(8 * GIB)), headroom=0.2)
        made = defragment(packed, fleet("n: 2x24GiB"), EIGHTS[:2], Policy())
        assert (made.outcome, made.plan, made.steps.batches) == (Outcome.NOTHING_TO_GAIN, packed, ())

    def test_a_cordoned_device_is_no_room(self) -> None:
        cordoned = with_device(fleet("n: 2x24GiB", "x: 1x80GiB"), "x/gpu-0", cordoned=True)
        running = plan_of(put("a#0", A, estimate(8 * GIB)), headroom=0.2)
        assert defragment(running, cordoned, EIGHTS[:1], Policy()).most == Room(num_bytes=ONE_OF_THREE, device=A)

    def test_no_device_at_all_is_nothing_to_gain(self) -> None:
        made = defragment(plan_of(headroom=0.2), fleet(), (), Policy())
        assert (made.outcome, made.before) == (Outcome.NOTHING_TO_GAIN, Room(num_bytes=0, device=None))

    def test_a_fleet_too_large_for_the_exact_solver_is_joined_too(self) -> None:
        many = tuple(demand(f"m{number}", gib=8) for number in range(60))
        running = plan_of(*(put(f"m{i}#0", f"n/gpu-{i}", estimate(8 * GIB)) for i in range(60)), headroom=0.2)
        made = defragment(running, fleet("n: 60x24GiB"), many, Policy(), wanted_bytes=16 * GIB)
        assert (made.outcome, made.steps.num_moves, made.is_fewest_moves) == (Outcome.GAINED, 1, False)


class TestAnyFleet:
    @given(problems(max_tensor_parallel=1), st.integers(1, 40))
    @settings(max_examples=60)
    def test_what_is_gained_is_real_and_nobody_pays_for_it(self, question: Question, wanted_bytes: int) -> None:
        inventory, demands, policy = question
        running = solve(inventory, demands, policy)
        made = defragment(running, inventory, demands, policy, wanted_bytes=wanted_bytes)
        play(made.steps, Case(running, made.plan, inventory, demands))
        if made.outcome is Outcome.GAINED:
            assert verify(made.plan, inventory, demands, policy) == ()
            assert made.after == room_of(made.plan, inventory)
            assert made.after.num_bytes >= wanted_bytes > made.before.num_bytes
            assert _served(made.plan) == _served(running)

    @given(st.data())
    @settings(max_examples=25)
    def test_the_largest_room_and_the_fewest_moves_are_those_of_brute_force(self, data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.integers(2, 7), min_size=2, max_size=4))
        demands = [demand(f"m{i}", num_bytes=size * GIB) for i, size in enumerate(sizes)]
        inventory = fleet("n: 3x10GiB")
        places = [data.draw(st.integers(0, 2)) for _ in sizes]
        if not _fits(sizes, places):
            return
        running = plan_of(
            *(put(f"m{i}#0", f"n/gpu-{p}", demands[i].estimate) for i, p in enumerate(places)), headroom=0.0
        )
        made = defragment(running, inventory, demands, Policy(headroom=0.0))
        options = [option for option in product(range(3), repeat=len(sizes)) if _fits(sizes, option)]
        most = max(_room(sizes, option) for option in options)
        assert made.after.num_bytes == most * GIB
        fewest = min(_moved(places, option) for option in options if _room(sizes, option) == most)
        assert made.steps.num_moves == (fewest if made.outcome is Outcome.GAINED else 0)
        assert all(step.kind is not StepKind.STOP for step in made.steps.steps)

    def test_the_property_finds_a_room_that_is_claimed_without_a_move(self) -> None:
        liar = replace(joined(), plan=SCATTERED)
        assert liar.after != room_of(liar.plan, fleet("n: 3x24GiB"))


def _served(plan: Plan) -> Counter[str]:
    return Counter(placement.model for placement in plan.placements)


def _fits(sizes: list[int], places: tuple[int, ...] | list[int]) -> bool:
    return all(sum(s for s, p in zip(sizes, places, strict=True) if p == device) <= 10 for device in range(3))


def _room(sizes: list[int], places: tuple[int, ...]) -> int:
    return max(10 - sum(s for s, p in zip(sizes, places, strict=True) if p == device) for device in range(3))


def _moved(before: list[int], after: tuple[int, ...]) -> int:
    return sum(then != now for then, now in zip(before, after, strict=True))
