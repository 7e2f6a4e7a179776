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
from placement.problem import pose
from placement.solver import solve
from tests.placement.builders import demand, fleet, problems, where, with_device

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

    def test_a_large_fleet_is_left_to_patterns(self) -> None:
        inventory = fleet(*(f"n{i}: 8x80GiB" for i in range(20)))
        demands = [demand(f"m{i}", gib=11 + i, replicas=16, priority=i % 3) for i in range(12)]
        plan = solve(inventory, demands, Policy())
        assert plan.solver == "patterns"
        assert verify(plan, inventory, demands, Policy()) == ()


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
