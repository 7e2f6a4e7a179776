"""What pairs that share out anew promise, and how even devices could be at best."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from placement import goals
from placement.columns import Work
from placement.demand import Demand
from placement.evenness import unevenness
from placement.evenness_bound import least_unevenness
from placement.exact import solve_exact
from placement.greedy import solve_greedy
from placement.inventory import DeviceHealth, Inventory
from placement.levelling import levelled
from placement.policy import Goal, Policy
from placement.problem import Answer, Problem, pose
from placement.score import is_better, reached
from placement.solver import solve
from tests.placement.builders import demand, estimate, fleet, gpu, problems, rich_problems, with_device, with_node
from tests.placement.test_packing import Question

SPREAD = Policy(headroom=0.0, goal=Goal.SPREAD, time_limit_s=30)
ENOUGH = Work(10**9)


def on_first(problem: Problem) -> Answer:
    """Everything on device 0, however uneven."""
    return Answer(tuple(((0,),) * demand.num_replicas for demand in problem.demands), "test", None)


def value_of(problem: Problem, answer: Answer, name: str) -> int:
    return next(goal.value for goal in reached(problem, answer) if goal.name == name)


@st.composite
def two_devices(draw: st.DrawFn) -> Question:
    """Two devices on one node or two, unlike in size, either with room for everything."""
    totals = [draw(st.integers(60, 99)), draw(st.integers(60, 99))]
    names = ["a", draw(st.sampled_from(["a", "b"]))]
    devices = [gpu(name, index, total) for index, (name, total) in enumerate(zip(names, totals, strict=True))]
    node = fleet("a: 1x1GiB").nodes[0]
    nodes = [
        replace(node, name=name, devices=tuple(device for device in devices if device.node == name))
        for name in dict.fromkeys(names)
    ]
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4), st.integers(1, 2)), min_size=1, max_size=4))
    demands = tuple(
        Demand(model=f"m{i}", num_replicas=num, priority=0, estimate=estimate(size, loading=start))
        for i, (size, start, num) in enumerate(sizes)
    )
    return Inventory(version=1, nodes=tuple(nodes)), demands, SPREAD


class TestLevelled:
    @given(two_devices())
    @settings(max_examples=60)
    def test_two_devices_share_out_in_the_best_way_there_is(self, question: Question) -> None:
        problem = pose(*question)
        best = solve_exact(problem, solve_greedy(problem))
        mine = levelled(problem, on_first(problem), ENOUGH)
        compared = [goal.name for goal in reached(problem, mine)]
        proven = {goal.name: goal.value for goal in best.goals if goal.name in compared}
        assert {goal.name: goal.value for goal in reached(problem, mine)} == proven

    @given(problems() | rich_problems())
    @settings(max_examples=80)
    def test_no_goal_before_evenness_gets_worse(self, question: Question) -> None:
        inventory, demands, policy = question
        problem = pose(inventory, demands, replace(policy, goal=Goal.SPREAD))
        start = solve_greedy(problem)
        assert not is_better(reached(problem, start), reached(problem, levelled(problem, start, ENOUGH)))

    def test_siblings_that_share_a_node_part(self) -> None:
        problem = pose(fleet("a: 2x10GiB", "b: 2x10GiB"), (demand("m", gib=2, replicas=2),), SPREAD)
        mine = levelled(problem, Answer((((0,), (1,)),), "test", None), ENOUGH)
        assert value_of(problem, mine, goals.SAME_NODE) == 0

    def test_ailing_devices_are_left(self) -> None:
        inventory = with_device(fleet("n: 3x10GiB"), "n/gpu-0", health=DeviceHealth.DEGRADED)
        problem = pose(inventory, (demand("a", gib=2), demand("b", gib=2)), SPREAD)
        mine = levelled(problem, on_first(problem), ENOUGH)
        assert sorted(mine.sets) == [((1,),), ((2,),)]

    def test_cores_hold_on_both_nodes(self) -> None:
        inventory = with_node(fleet("a: 1x10GiB", "b: 1x10GiB"), "b", num_cpus=1)
        demands = tuple(demand(f"m{i}", gib=2, cpu_millis=1000) for i in range(4))
        problem = pose(inventory, demands, SPREAD)
        mine = levelled(problem, on_first(problem), ENOUGH)
        assert sorted(mine.sets) == [((0,),), ((0,),), ((0,),), ((1,),)]

    def test_what_runs_and_stays_lies_still(self) -> None:
        inventory, demands = fleet("n: 2x10GiB"), tuple(demand(f"m{i}", gib=2) for i in range(4))
        running = solve(inventory, demands, Policy(headroom=0.0)).placements
        problem = pose(inventory, demands, SPREAD, running)
        start = solve_greedy(problem)
        assert levelled(problem, start, ENOUGH) is start

    def test_without_work_nothing_is_done(self) -> None:
        problem = pose(fleet("n: 2x10GiB"), (demand("a"), demand("b")), SPREAD)
        assert levelled(problem, start := on_first(problem), Work(0)) is start

    def test_an_empty_fleet_ends_too(self) -> None:
        problem = pose(fleet("n: 1x10GiB"), (), SPREAD)
        assert levelled(problem, start := on_first(problem), ENOUGH) is start

    def test_a_fleet_is_filled_as_evenly_as_its_bound_to_a_hundredth(self) -> None:
        demands = tuple(demand(f"m{i}", gib=5 + i * 7 % 25, loading_gib=i % 3, replicas=4) for i in range(25))
        plan = solve(fleet(*(f"n{i}: 8x80GiB" for i in range(4))), demands, Policy(goal=Goal.SPREAD))
        assert plan.solver == "pairs"
        assert plan.gap is not None
        assert plan.gap < 0.01


class TestBound:
    @given(two_devices())
    @settings(max_examples=60)
    def test_no_answer_is_more_even(self, question: Question) -> None:
        problem = pose(*question)
        apart = (goals.TOGETHER, goals.SAME_NODE)
        best = solve_exact(problem, solve_greedy(problem))
        assert all(goal.value == goal.bound for goal in best.goals if goal.name in (*apart, goals.UNEVENNESS))
        assert least_unevenness(problem, best) <= unevenness(problem, best)

    def test_water_without_starts_is_bounded_to_the_last_tangent(self) -> None:
        problem = pose(fleet("n: 2x1000GB"), tuple(demand(f"m{i}", num_bytes=225 * 10**9) for i in range(2)), SPREAD)
        best = solve_greedy(problem)
        assert unevenness(problem, best) - least_unevenness(problem, best) <= 2

    def test_a_start_counts_on_every_device_that_holds_a_part(self) -> None:
        giga = 10**9
        loads = tuple(demand(f"m{i}", num_bytes=175 * giga, loading_gib=50 * giga / (1 << 30)) for i in range(2))
        problem = pose(fleet("n: 2x1000GB"), loads, SPREAD)
        assert unevenness(problem, best := solve_greedy(problem)) - least_unevenness(problem, best) <= 2

    def test_of_those_refused_the_largest_are_left_out(self) -> None:
        problem = pose(
            fleet("n: 1x1000GB"), (demand("a", num_bytes=900 * 10**9), demand("b", num_bytes=225 * 10**9)), SPREAD
        )
        small = Answer(((), ((0,),)), "test", None)
        assert unevenness(problem, small) - least_unevenness(problem, small) <= 2
