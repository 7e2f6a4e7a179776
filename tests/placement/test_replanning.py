"""What runs stays served: no equal and no lower priority ever takes its room, and as little as possible moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.assemble import assemble
from placement.check import verify
from placement.demand import Demand
from placement.greedy import solve_greedy
from placement.inventory import DeviceHealth, Inventory
from placement.plan import Placement, Plan
from placement.policy import Policy
from placement.problem import pose
from placement.solver import solve
from tests.placement.builders import demand, fleet, gpu, rich_problems, where, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]
Solver = Callable[[Question, tuple[Placement, ...]], Plan]


def exact(question: Question, running: tuple[Placement, ...] = ()) -> Plan:
    return solve(*question, running=running)


def heuristic(question: Question, running: tuple[Placement, ...] = ()) -> Plan:
    problem = pose(*question, running)
    return assemble(problem, solve_greedy(problem), question[0], running)


def forgetful(question: Question, running: tuple[Placement, ...] = ()) -> Plan:
    """A solver broken on purpose: it plans as if nothing ran."""
    del running
    return solve(*question)


SOLVERS = pytest.mark.parametrize("solver", [exact, heuristic])


def placed(plan: Plan) -> Counter[str]:
    return Counter(placement.model for placement in plan.placements)


def evicted(before: Plan, after: Plan, demands: tuple[Demand, ...]) -> list[Demand]:
    """Demands still asked for of which fewer replicas run than did, and fewer than are asked for."""
    return [d for d in demands if placed(after)[d.model] < min(placed(before)[d.model], d.num_replicas)]


class TestEviction:
    @SOLVERS
    def test_a_running_replica_is_not_refused_for_two_of_its_priority(self, solver: Solver) -> None:
        inventory, large = fleet("n: 1x24GB"), demand("large", gib=14)
        before = solver((inventory, (large,), Policy()), ())
        small = (demand("a", gib=6), demand("b", gib=6))
        assert set(where(solver((inventory, (*small, large), Policy()), before.placements))) == {"large#0"}
        assert set(where(solver((inventory, (*small, large), Policy()), ()))) == {"a#0", "b#0"}

    @SOLVERS
    def test_nor_for_one_of_its_priority_that_serves_more(self, solver: Solver) -> None:
        inventory, runs = fleet("n: 1x24GB"), demand("runs", gib=14, requests_per_s=1)
        before = solver((inventory, (runs,), Policy()), ())
        busy = demand("busy", gib=14, requests_per_s=100)
        assert set(where(solver((inventory, (busy, runs), Policy()), before.placements))) == {"runs#0"}

    @SOLVERS
    def test_nor_for_an_equal_that_lost_its_device(self, solver: Solver) -> None:
        inventory = fleet("n: 2x24GB")
        demands = (demand("large", gib=14), demand("a", gib=8), demand("b", gib=8))
        before = solver((inventory, demands, Policy()), ())
        lost = with_device(inventory, where(before)["a#0"], health=DeviceHealth.LOST)
        assert set(where(solver((lost, demands, Policy()), before.placements))) == {"large#0"}

    @SOLVERS
    @given(rich_problems(), st.integers(0, 3))
    @settings(max_examples=30)
    def test_removing_a_demand_evicts_nobody_of_its_priority_or_above(
        self, solver: Solver, question: Question, which: int
    ) -> None:
        inventory, demands, policy = question
        gone = demands[which % len(demands)] if demands else demand("none")
        rest = tuple(one for one in demands if one is not gone)
        before = solver(question, ())
        after = solver((inventory, rest, policy), before.placements)
        assert not [one for one in evicted(before, after, rest) if one.priority >= gone.priority]

    @SOLVERS
    @given(rich_problems(), st.integers(0, 5))
    @settings(max_examples=30)
    def test_more_room_evicts_only_for_a_higher_priority(self, solver: Solver, question: Question, which: int) -> None:
        inventory, demands, policy = question
        ids = [device.id for device in inventory.devices] or ["none"]
        smaller = with_device(inventory, ids[which % len(ids)], health=DeviceHealth.LOST)
        before = solver((smaller, demands, policy), ())
        after = solver(question, before.placements)
        gained = [one.priority for one in demands if placed(after)[one.model] > placed(before)[one.model]]
        assert all(max(gained, default=-1) > one.priority for one in evicted(before, after, demands))

    def test_the_properties_find_a_solver_that_forgets_what_runs(self) -> None:
        inventory, large = fleet("n: 1x24GB"), demand("large", gib=14)
        demands = (demand("a", gib=6), demand("b", gib=6), large, demand("gone", gib=20))
        before = exact((inventory, (large, demands[3]), Policy()), ())
        assert set(where(before)) == {"large#0"}
        after = forgetful((inventory, demands[:3], Policy()), before.placements)
        assert evicted(before, after, demands[:3]) == [large]


@st.composite
def moves(draw: st.DrawFn) -> tuple[Inventory, Inventory, tuple[Demand, ...]]:
    """A fleet of up to 4 devices, the same with one of them lost or shrunk, and up to 6 replicas of up to 4 models."""
    sizes = draw(st.lists(st.sampled_from([10, 14, 20, 25]), min_size=1, max_size=4))
    nodes = fleet("n: 1x1GiB").nodes
    devices = tuple(gpu("n", index, size) for index, size in enumerate(sizes))
    inventory = Inventory(version=1, nodes=(replace(nodes[0], devices=devices),))
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda counts: sum(counts) <= 6))
    demands = tuple(
        demand(f"m{i}", num_bytes=draw(st.integers(2, 12)), replicas=many, priority=draw(st.integers(0, 1)))
        for i, many in enumerate(counts)
    )
    hit = devices[draw(st.integers(0, len(devices) - 1))].id
    changes = [
        with_device(inventory, hit, health=DeviceHealth.LOST),
        with_device(inventory, hit, held_bytes=5),
        with_device(inventory, hit, cordoned=True),
    ]
    return inventory, draw(st.sampled_from(changes)), demands


def answers(inventory: Inventory, demands: tuple[Demand, ...], policy: Policy) -> Iterator[tuple[Counter[str], ...]]:
    """Every way to lay replicas on devices within their room; replicas of one model are alike. Starts need no more."""
    usable = [d for d in inventory.devices if d.health is DeviceHealth.HEALTHY and not d.cordoned]
    room = {d.id: d.total_bytes * 4 // 5 - sum(h.num_bytes for h in d.holdings) for d in usable}
    assert policy.headroom == 0.2
    choices = [
        [Counter(c for c in choice if c) for choice in combinations_with_replacement(("", *room), one.num_replicas)]
        for one in demands
    ]
    for answer in product(*choices):
        used = Counter[str]()
        for one, on in zip(demands, answer, strict=True):
            for device, many in on.items():
                used[device] += many * one.estimate.rest_bytes
        if all(used[device] <= room[device] for device in used):
            yield answer


def worth(answer: tuple[Counter[str], ...], stays: tuple[Counter[str], ...], demands: tuple[Demand, ...]) -> list[int]:
    """Of each priority the running replicas served, then all replicas served; at last the replicas in place."""
    values = list[int]()
    for priority in sorted({one.priority for one in demands}, reverse=True):
        level = [i for i, one in enumerate(demands) if one.priority == priority]
        values.append(sum(min(answer[i].total(), stays[i].total()) for i in level))
        values.append(sum(answer[i].total() for i in level))
    return [*values, sum((on & before).total() for on, before in zip(answer, stays, strict=True))]


def on_devices(plan: Plan, demands: tuple[Demand, ...]) -> tuple[Counter[str], ...]:
    return tuple(Counter(p.devices[0] for p in plan.placements if p.model == one.model) for one in demands)


def stays_of(plan: Plan, inventory: Inventory, demands: tuple[Demand, ...]) -> tuple[Counter[str], ...]:
    """What ran on devices that still take shares."""
    open_ids = {d.id for d in inventory.devices if d.health is DeviceHealth.HEALTHY and not d.cordoned}
    return tuple(Counter({d: n for d, n in on.items() if d in open_ids}) for on in on_devices(plan, demands))


class TestMoves:
    @given(moves())
    @settings(max_examples=40)
    def test_a_change_moves_as_few_as_brute_force(
        self, change: tuple[Inventory, Inventory, tuple[Demand, ...]]
    ) -> None:
        inventory, after, demands = change
        before = solve(inventory, demands, Policy())
        stays = stays_of(before, after, demands)
        plan = solve(after, demands, Policy(), running=before.placements)
        best = max(worth(answer, stays, demands) for answer in answers(after, demands, Policy()))
        assert verify(plan, after, demands, Policy()) == ()
        assert worth(on_devices(plan, demands), stays, demands) == best

    def test_the_property_finds_a_solver_that_forgets_what_runs(self) -> None:
        inventory, demands = fleet("n: 2x24GiB"), (demand("a", gib=4),)
        before = solve(with_device(inventory, "n/gpu-0", cordoned=True), demands, Policy())
        stays = stays_of(before, inventory, demands)
        assert worth(on_devices(forgetful((inventory, demands, Policy())), demands), stays, demands) == [1, 1, 0]
        assert worth(on_devices(exact((inventory, demands, Policy()), before.placements), demands), stays, demands) == [
            1,
            1,
            1,
        ]


class TestRates:
    def test_of_one_priority_the_replica_that_serves_more_requests_is_served(self) -> None:
        slow, busy = demand("slow", gib=14, requests_per_s=2), demand("busy", gib=14, requests_per_s=3)
        assert set(where(solve(fleet("n: 1x24GB"), [slow, busy], Policy()))) == {"busy#0"}

    def test_one_busy_replica_outweighs_two_that_serve_less_together(self) -> None:
        pair = [demand(name, gib=7, requests_per_s=1) for name in ("a", "b")]
        busy = demand("busy", gib=14, requests_per_s=3)
        assert set(where(solve(fleet("n: 1x24GB"), [*pair, busy], Policy()))) == {"busy#0"}
        assert set(where(solve(fleet("n: 1x24GB"), [*pair, replace(busy, requests_per_s=1.9)], Policy()))) == {
            "a#0",
            "b#0",
        }

    def test_the_rate_of_a_demand_is_shared_by_its_replicas(self) -> None:
        many = demand("many", gib=14, replicas=4, requests_per_s=4)
        one = demand("one", gib=14, requests_per_s=2)
        assert set(where(solve(fleet("n: 1x24GB"), [many, one], Policy()))) == {"one#0"}

    def test_a_replica_without_a_rate_counts_as_the_mean_of_those_with_one(self) -> None:
        unknown = demand("unknown", gib=14)
        rated = [demand("high", gib=14, requests_per_s=9), demand("low", gib=14, requests_per_s=1)]
        assert set(where(solve(fleet("n: 2x24GB"), [unknown, *rated], Policy()))) == {"high#0", "unknown#0"}

    def test_without_any_rate_the_number_of_replicas_counts(self) -> None:
        demands = [demand("large", gib=14), demand("a", gib=7), demand("b", gib=7)]
        assert set(where(solve(fleet("n: 1x24GB"), demands, Policy()))) == {"a#0", "b#0"}

    def test_no_rate_outweighs_a_priority(self) -> None:
        high, busy = demand("high", gib=14, priority=1), demand("busy", gib=14, requests_per_s=1000)
        assert set(where(solve(fleet("n: 1x24GB"), [busy, high], Policy()))) == {"high#0"}
