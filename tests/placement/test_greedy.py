"""The heuristic must be sound by itself: it answers alone where instances are large."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from placement.assemble import assemble
from placement.check import verify
from placement.demand import Demand
from placement.exact import is_small, solve_exact
from placement.greedy import solve_greedy
from placement.inventory import DeviceHealth, Inventory
from placement.plan import Placement, Plan
from placement.policy import Goal, Policy
from placement.problem import Answer, pose
from placement.refill import refill
from placement.solver import solve
from tests.placement.builders import GIB, demand, fleet, problems, where, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]


def greedy_plan(question: Question, running: tuple[Placement, ...] = ()) -> Plan:
    inventory, demands, policy = question
    problem = pose(inventory, demands, policy, running)
    return assemble(problem, solve_greedy(problem), inventory, running)


class TestGreedy:
    @given(problems())
    @settings(max_examples=150, deadline=None)
    def test_its_plans_always_pass_the_verifier(self, question: Question) -> None:
        assert verify(greedy_plan(question), *question) == ()

    @given(problems())
    @settings(max_examples=60, deadline=None)
    def test_asking_again_with_the_plan_in_force_moves_nothing(self, question: Question) -> None:
        before = greedy_plan(question)
        assert where(greedy_plan(question, running=before.placements)) == where(before)

    def test_it_does_not_displace_what_runs_where_other_room_is_free(self) -> None:
        low, high = demand("low", gib=15, priority=1), demand("high", gib=15, priority=2)
        before = greedy_plan((fleet("n: 2x24GiB"), (low,), Policy()))
        after = greedy_plan((fleet("n: 2x24GiB"), (low, high), Policy()), running=before.placements)
        assert where(after) == {"low#0": "n/gpu-0", "high#0": "n/gpu-1"}

    def test_it_prefers_a_nearly_full_device_when_packing_and_an_empty_one_when_spreading(self) -> None:
        demands = (demand("a", gib=10, priority=1), demand("b", gib=2))
        packed = greedy_plan((fleet("n: 2x24GiB"), demands, Policy(goal=Goal.PACK)))
        spread = greedy_plan((fleet("n: 2x24GiB"), demands, Policy(goal=Goal.SPREAD)))
        assert (where(packed)["b#0"], where(spread)["b#0"]) == ("n/gpu-0", "n/gpu-1")

    def test_it_packs_where_spreading_would_refuse(self) -> None:
        demands = (demand("a", gib=4), demand("b", gib=4), demand("c", gib=7))
        spread = greedy_plan((fleet("n: 2x10GiB"), demands, Policy(goal=Goal.SPREAD)))
        assert where(spread) == {"c#0": "n/gpu-0", "a#0": "n/gpu-1", "b#0": "n/gpu-1"}

    def test_it_takes_the_small_of_a_priority_where_they_serve_more(self) -> None:
        demands = (demand("large", gib=8), demand("a", gib=4), demand("b", gib=4))
        assert set(where(greedy_plan((fleet("n: 1x10GiB"), demands, Policy())))) == {"a#0", "b#0"}

    def test_what_an_answer_lacks_is_filled_up_and_lower_priorities_give_way(self) -> None:
        inventory = fleet("n: 1x10GiB")
        demands = (demand("high", gib=5, priority=2), demand("low", gib=4, priority=1), demand("tiny", gib=3))
        problem = pose(inventory, demands, Policy())
        poor = Answer(sets=((), ((0,),), ()), solver="poor", gap=0.5)
        assert refill(problem, poor).sets == (((0,),), (), ((0,),))
        assert verify(assemble(problem, refill(problem, poor), inventory, ()), inventory, demands, Policy()) == ()

    def test_what_runs_is_filled_in_before_an_equal_that_an_answer_put_in_its_place(self) -> None:
        inventory, demands = fleet("n: 1x10GiB"), (demand("new", gib=5), demand("runs", gib=4), demand("low", gib=1))
        before = solve(inventory, demands[1:2], Policy())
        problem = pose(inventory, demands, Policy(), before.placements)
        hasty = Answer(sets=(((0,),), (), ()), solver="hasty", gap=0.5)
        assert refill(problem, hasty).sets == ((), ((0,),), ((0,),))

    def test_five_thousand_demands_on_64_devices_are_answered_and_sound(self) -> None:
        inventory = fleet(*(f"n{node}: 8x80GiB" for node in range(8)))
        demands = [demand(f"m{i}", gib=2 + i % 29, priority=i % 3, path=f"models[{i}]") for i in range(5_000)]
        plan = solve(inventory, demands, Policy())
        assert sum(refusal.num_replicas for refusal in plan.refusals) == 5_000 - len(plan.placements)
        assert all(refusal.advice for refusal in plan.refusals)
        assert (
            verify(replace(plan, refusals=plan.refusals[:50]), inventory, _placed_or_in(plan, demands, 50), Policy())
            == ()
        )

    def test_on_a_wide_node_it_grows_tensor_parallel_sets_from_nvlink_peers(self) -> None:
        inventory = fleet("n: 16x24GiB")
        for index in range(16):
            peers = tuple(f"n/gpu-{peer}" for peer in range(16) if peer % 2 == index % 2 and peer != index)
            inventory = with_device(inventory, f"n/gpu-{index}", nvlink_peers=peers)
        question = (inventory, (demand("m", gib=10, tensor_parallel=8),), Policy())
        assert where(greedy_plan(question))["m#0"] == "+".join(f"n/gpu-{index}" for index in range(0, 16, 2))


class TestExact:
    @given(problems())
    @settings(max_examples=100, deadline=None)
    def test_it_proves_its_answer_on_small_problems(self, question: Question) -> None:
        plan = solve(*question)
        assert (plan.solver, plan.gap) == ("cp-sat", 0.0)

    def test_it_never_serves_fewer_nor_moves_more_than_the_heuristic(self) -> None:
        inventory, demands = fleet("n: 4x24GiB"), [demand(f"m{i}", gib=3 + i, replicas=2) for i in range(4)]
        before = solve(inventory, demands, Policy())
        ailing = with_device(inventory, "n/gpu-2", health=DeviceHealth.QUARANTINED)
        problem = pose(ailing, demands, Policy(), before.placements)
        greedy = assemble(problem, solve_greedy(problem), ailing, before.placements)
        exact = solve(ailing, demands, Policy(), running=before.placements)
        assert len(exact.placements) >= len(greedy.placements)
        assert _moves(before, exact) <= _moves(before, greedy)

    def test_without_time_the_heuristic_stands_with_the_gap_that_is_known(self) -> None:
        inventory = fleet("n: 8x24GiB")
        demands = [demand(f"m{i}", gib=3.1 + i * 0.7, replicas=4, priority=i % 2) for i in range(8)]
        policy = Policy(time_limit_s=0.0)
        problem = pose(inventory, demands, policy)
        assert is_small(problem)
        greedy, plan = solve_greedy(problem), solve(inventory, demands, policy)
        assert solve_exact(problem, greedy).sets == greedy.sets
        assert (plan.solver, plan.gap) == ("greedy", (16 - 12) / 12)
        assert [(goal.value, goal.bound) for goal in plan.goals[:2]] == [(16, 16), (12, 16)]
        assert verify(plan, inventory, demands, policy) == ()

    def test_every_goal_has_a_value_and_a_bound_in_their_order(self) -> None:
        inventory = fleet("n: 1x24GiB")
        before = solve(inventory, [demand("a", gib=4, priority=2)], Policy())
        demands = [demand("a", gib=4, priority=2), demand("b", gib=17, requests_per_s=3, offload_gib=9)]
        plan = solve(inventory, [*demands, demand("c", gib=1)], Policy(), running=before.placements)
        assert [goal.name for goal in plan.goals] == [
            "running replicas served at priority 2",
            "served at priority 2",
            "served at priority 0",
            "bytes offloaded at priority 0",
            "replicas left in place",
            "replicas that share a device with another of their model",
            "cost of ailing devices and slow links",
            "devices in use",
            "replicas that share a node with another of their model",
            "stranded bytes",
            "unevenness",
            "order of devices",
        ]
        assert [goal.value for goal in plan.goals[:5]] == [1, 1, 6000, 22 * GIB - 24 * GIB * 8 // 10, 1]
        assert all(goal.value == goal.bound for goal in plan.goals)

    def test_a_search_ends_no_worse_than_it_began(self) -> None:
        """Whatever the solver claims: of one more round nothing that is served may be lost."""
        for seed in range(3):
            inventory, demands = _crowded(seed)
            before = solve(inventory, demands, Policy(time_limit_s=0.1))
            again = solve(inventory, demands, Policy(time_limit_s=0.1), running=before.placements)
            served, served_again = [
                [goal.value for goal in plan.goals if goal.name.startswith("served")] for plan in (before, again)
            ]
            assert served_again >= served
            assert verify(again, inventory, demands, Policy()) == ()

    def test_a_large_fleet_is_left_to_patterns(self) -> None:
        inventory = fleet(*(f"n{i}: 8x80GiB" for i in range(20)))
        demands = [demand(f"m{i}", gib=11 + i, replicas=16, priority=i % 3) for i in range(12)]
        plan = solve(inventory, demands, Policy())
        assert plan.solver == "patterns"
        assert verify(plan, inventory, demands, Policy()) == ()


def _crowded(seed: int) -> tuple[Inventory, list[Demand]]:
    """Two nodes and ten demands of mixed kinds, more than fit."""
    inventory = fleet("a: 2x24GiB", "b: 3x24GiB")
    return inventory, [
        demand(
            f"m{i}",
            gib=2.3 + (7 * i + 5 * seed) % 15,
            loading_gib=(i + seed) % 3,
            priority=(i * i + seed) % 3,
            replicas=1 + (i + seed) % 3,
            tensor_parallel=1 + (i % 4 == seed % 4),
            requests_per_s=1.5 * ((i + seed) % 3),
            cpu_millis=1500 * (i % 2),
        )
        for i in range(10)
    ]


def _placed_or_in(plan: Plan, demands: list[Demand], first: int) -> list[Demand]:
    """The demands that are placed or among the first refused."""
    known = {p.model for p in plan.placements} | {refusal.model for refusal in plan.refusals[:first]}
    return [one for one in demands if one.model in known]


def _moves(before: Plan, after: Plan) -> int:
    old, new = where(before), where(after)
    return sum(old[replica] != new[replica] for replica in old.keys() & new.keys())


def test_the_property_finds_a_heuristic_that_ignores_health() -> None:
    """A broken `pose` that lets ailing devices in must be caught by the verifier."""
    inventory = with_device(fleet("n: 1x24GiB"), "n/gpu-0", health=DeviceHealth.LOST)
    demands = (demand("m", gib=1),)
    blind = replace(pose(inventory, demands, Policy()), usable=((0,),), allowed=(((0,),),))
    plan = assemble(blind, solve_greedy(blind), inventory, ())
    assert verify(plan, inventory, demands, Policy()) != ()


class TestRepeatability:
    def test_a_hundred_answers_to_one_question_are_one_answer(self) -> None:
        inventory = fleet("n: 2x24GiB")
        demands = [demand(f"m{i}", gib=2 + i, priority=i) for i in range(3)]
        plans = {solve(inventory, demands, Policy()) for _ in range(100)}
        assert [(plan.solver, plan.gap) for plan in plans] == [("cp-sat", 0.0)]
