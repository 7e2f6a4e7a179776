"""What patterns promise: answers that can be, never worse than the heuristic's, and bounds that nothing beats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement import goals
from placement.assemble import assemble
from placement.check import verify
from placement.columns import Work
from placement.demand import Demand
from placement.exact import solve_exact
from placement.greedy import solve_greedy
from placement.inventory import DeviceHealth, Inventory
from placement.packing import Packing, solve_large
from placement.plan import Placement, Plan
from placement.policy import Goal, Policy
from placement.problem import Answer, Problem, pose
from placement.score import is_better, reached
from placement.solver import solve
from tests.placement.builders import demand, estimate, fleet, problems, rich_problems, where, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]
ANY = problems() | rich_problems()


def large_plan(question: Question, running: tuple[Placement, ...] = ()) -> Plan:
    """The plan by patterns, whatever the size of the question."""
    inventory, demands, policy = question
    problem = pose(inventory, demands, policy, running)
    return assemble(problem, solve_large(problem, solve_greedy(problem)), inventory, running)


def value_of(plan: Plan, name: str) -> int:
    return next(goal.value for goal in plan.goals if goal.name == name)


def bound_of(plan: Plan, name: str) -> int:
    return next(goal.bound for goal in plan.goals if goal.name == name)


@st.composite
def replans(draw: st.DrawFn) -> tuple[Question, tuple[Placement, ...]]:
    """A question asked again after a device fell ill, with the plan of before in force."""
    inventory, demands, policy = draw(ANY)
    before = solve_greedy(problem := pose(inventory, demands, policy))
    running = assemble(problem, before, inventory, ()).placements
    ids = [device.id for device in inventory.devices]
    if ids:
        health = draw(st.sampled_from([DeviceHealth.LOST, DeviceHealth.DEGRADED, DeviceHealth.HEALTHY]))
        inventory = with_device(inventory, draw(st.sampled_from(ids)), health=health)
    return (inventory, demands, policy), running


@st.composite
def roomy(draw: st.DrawFn) -> Question:
    """Five devices with room for everything, so that an answer may use too many."""
    inventory = _bytes(fleet("n: 5x1GiB"), draw(st.integers(12, 20)))
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(1, 2)), min_size=3, max_size=4))
    demands = tuple(
        Demand(model=f"m{i}", num_replicas=num, priority=0, estimate=estimate(size, loading=start))
        for i, (size, start, num) in enumerate(sizes)
    )
    return inventory, demands, Policy(headroom=0.0)


class TestAnyQuestion:
    @given(ANY)
    @settings(max_examples=120, deadline=None)
    def test_a_plan_always_passes_the_verifier(self, question: Question) -> None:
        assert verify(large_plan(question), *question) == ()

    @given(replans())
    @settings(max_examples=80, deadline=None)
    def test_a_plan_beside_running_replicas_passes_the_verifier(
        self, asked: tuple[Question, tuple[Placement, ...]]
    ) -> None:
        assert verify(large_plan(*asked), *asked[0]) == ()

    @given(replans())
    @settings(max_examples=80, deadline=None)
    def test_it_is_never_worse_than_the_heuristic_in_the_first_goal_they_differ_in(
        self, asked: tuple[Question, tuple[Placement, ...]]
    ) -> None:
        (inventory, demands, policy), running = asked
        problem = pose(inventory, demands, policy, running)
        start = solve_greedy(problem)
        assert not is_better(reached(problem, start), reached(problem, solve_large(problem, start)))

    @given(ANY)
    @settings(max_examples=30, deadline=None)
    def test_the_same_question_has_the_same_answer(self, question: Question) -> None:
        assert large_plan(question) == large_plan(question)

    def test_the_property_finds_patterns_that_are_too_large(self) -> None:
        inventory, demands, policy = fleet("n: 4x10GiB"), (demand("m", gib=6, replicas=4),), Policy(headroom=0.0)
        problem = pose(inventory, demands, policy)
        roomy = replace(problem, budgets=tuple(2 * budget for budget in problem.budgets))
        crowded = solve_large(roomy, solve_greedy(roomy))
        doubled = replace(crowded, sets=tuple(((0,), *sets[:-1]) for sets in crowded.sets), goals=(), gap=None)
        assert verify(assemble(problem, doubled, inventory, ()), inventory, demands, policy) != ()

    def test_the_property_finds_an_answer_that_trades_a_served_replica_for_a_device(self) -> None:
        problem = pose(fleet("n: 4x10GiB"), (demand("m", gib=6, replicas=4),), Policy(headroom=0.0))
        start = solve_greedy(problem)
        fewer = replace(start, sets=tuple(sets[:-1] for sets in start.sets))
        assert is_better(reached(problem, start), reached(problem, fewer))


class TestBounds:
    @given(replans())
    @settings(max_examples=150, deadline=None)
    def test_no_exact_answer_beats_them(self, asked: tuple[Question, tuple[Placement, ...]]) -> None:
        assert list(_beaten(*asked)) == []

    @given(roomy())
    @settings(max_examples=60, deadline=None)
    def test_the_fewest_devices_are_known_from_a_wasteful_answer_too(self, question: Question) -> None:
        inventory, demands, policy = question
        problem = pose(inventory, demands, replace(policy, goal=Goal.PACK))
        wasteful = solve_greedy(replace(problem, policy=replace(policy, goal=Goal.SPREAD)))
        bound = Packing(problem, wasteful).bound(Work(100_000))
        best = solve_exact(problem, wasteful)
        before = [(goal.name, goal.value) for goal in reached(problem, wasteful)][:-1]
        if before == [(goal.name, goal.value) for goal in reached(problem, best)][:-1]:
            assert bound <= reached(problem, best)[-1].value

    def test_the_property_finds_a_bound_that_is_too_good(self) -> None:
        question = (fleet("n: 3x10GiB"), (demand("m", gib=4, replicas=2),), Policy(headroom=0.0))
        problem = pose(*question)
        tooth = replace(solve_large(problem, solve_greedy(problem)))
        wrong = replace(
            tooth, goals=tuple(replace(g, bound=g.bound + 1) for g in tooth.goals if g.name == goals.DEVICES)
        )
        assert _beaten_by(wrong, problem) != []

    def test_what_cannot_be_served_is_known(self) -> None:
        question = (fleet("n: 4x10GiB"), (demand("m", gib=6, replicas=9),), Policy(headroom=0.0))
        plan = large_plan(question)
        assert (value_of(plan, goals.SERVED.format(0)), bound_of(plan, goals.SERVED.format(0))) == (4, 4)

    def test_replicas_that_must_share_a_device_are_no_gap(self) -> None:
        question = (fleet("n: 2x10GiB"), (demand("m", gib=2, replicas=5),), Policy(headroom=0.0))
        plan = large_plan(question)
        assert (value_of(plan, goals.TOGETHER), bound_of(plan, goals.TOGETHER), plan.gap) == (3, 3, 0.0)

    def test_devices_in_use_by_replicas_that_stay_count_as_needed(self) -> None:
        inventory, demands = fleet("n: 4x10GiB"), (demand("a", gib=2), demand("b", gib=2))
        spread = large_plan((inventory, demands, Policy(headroom=0.0, goal=Goal.SPREAD)))
        again = large_plan((inventory, demands, Policy(headroom=0.0)), spread.placements)
        assert where(again) == where(spread)
        assert (value_of(again, goals.DEVICES), bound_of(again, goals.DEVICES)) == (2, 2)


def _beaten(question: Question, running: tuple[Placement, ...]) -> Iterator[str]:
    problem = pose(*question, running)
    yield from _beaten_by(solve_large(problem, solve_greedy(problem)), problem)


def _beaten_by(answer: Answer, problem: Problem) -> list[str]:
    """Goals whose bound an exact answer beats; as far as both reached the same before."""
    best = {goal.name: goal for goal in solve_exact(problem, answer).goals}
    is_more_better = {one.name: one.is_more_better for one in reached(problem, answer)}
    beaten = list[str]()
    for goal in answer.goals:
        exact = best[goal.name].value if goal.name in best else goal.value
        if exact != goal.bound and (exact > goal.bound) is is_more_better[goal.name]:
            beaten.append(f"{goal.name}: {goal.bound} is beaten by {exact}")
        if exact != goal.value:
            break
    return beaten


class TestPacking:
    def test_three_that_fill_a_device_to_the_byte_do(self) -> None:
        """Forty devices of three, hidden by sorting: whoever goes by size alone needs more of them."""
        sizes = [size for number in range(40) for size in (261 + 3 * number, 378 - number, 361 - 2 * number)]
        demands = tuple(demand(f"m{i:03}", num_bytes=size) for i, size in enumerate(sorted(sizes, reverse=True)))
        question = (_bytes(fleet("n: 60x1GiB"), 1000), demands, Policy(headroom=0.0))
        plan = solve(*question)
        assert verify(plan, *question) == ()
        assert (value_of(plan, goals.DEVICES), bound_of(plan, goals.DEVICES), plan.solver) == (40, 40, "patterns")

    def test_replicas_of_one_model_stay_apart(self) -> None:
        demands = tuple(demand(f"m{i}", num_bytes=100 + 37 * i, replicas=6) for i in range(12))
        question = (_bytes(fleet("n: 40x1GiB"), 1000), demands, Policy(headroom=0.0))
        plan = solve(*question)
        assert (value_of(plan, goals.TOGETHER), verify(plan, *question)) == (0, ())

    def test_starts_are_paid_once_per_device(self) -> None:
        demands = tuple(demand(f"m{i}", num_bytes=200, loading_gib=200 / (1 << 30), replicas=16) for i in range(4))
        question = (_bytes(fleet("n: 40x1GiB"), 1000), demands, Policy(headroom=0.0))
        plan = large_plan(question)
        assert (value_of(plan, goals.DEVICES), plan.gap) == (16, 0.0)

    def test_it_serves_what_the_heuristic_refuses(self) -> None:
        """Six fit in pairs only: the heuristic, by size or as asked, leaves one of them out."""
        sizes = [6, 5, 5, 4, 4, 3, 3]
        demands = tuple(demand(f"m{i}", num_bytes=size) for i, size in enumerate(sizes))
        question = (_bytes(fleet("n: 3x1GiB"), 10), demands, Policy(headroom=0.0))
        assert large_plan(question).refusals == ()

    def test_without_work_the_heuristic_stands_with_a_gap(self) -> None:
        question = (
            fleet("n: 40x24GiB"),
            tuple(demand(f"m{i}", gib=3 + i / 7, replicas=6) for i in range(20)),
            Policy(),
        )
        inventory, demands, policy = question
        plan = solve(inventory, demands, replace(policy, time_limit_s=0.0))
        assert plan.solver == "greedy"
        assert plan.gap is not None
        assert verify(plan, inventory, demands, policy) == ()

    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_seed_never_changes_how_good_the_proof_is(self, seed: int) -> None:
        demands = tuple(demand(f"m{i}", num_bytes=100 + 37 * i, replicas=6) for i in range(12))
        plan = solve(_bytes(fleet("n: 40x1GiB"), 1000), demands, Policy(headroom=0.0, seed=seed))
        assert plan.gap == 0.0


def _bytes(inventory: Inventory, total_bytes: int) -> Inventory:
    """The same fleet with devices of so many bytes."""
    nodes = (
        replace(node, devices=tuple(replace(device, total_bytes=total_bytes) for device in node.devices))
        for node in inventory.nodes
    )
    return replace(inventory, nodes=tuple(nodes))
