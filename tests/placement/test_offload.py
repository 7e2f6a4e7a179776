"""Weights in host memory: only where something would be refused otherwise, only as many as needed, at a known price."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.assemble import assemble
from placement.check import ViolationKind, verify
from placement.demand import Demand
from placement.greedy import solve_greedy
from placement.inventory import Inventory
from placement.plan import Cause, Plan, RefusalKind, Strategy
from placement.policy import Goal, Policy
from placement.problem import pose
from placement.solver import solve
from tests.placement.builders import GB, GIB, by_replica, demand, fleet, host, rich_problems, where, with_node

Question = tuple[Inventory, tuple[Demand, ...], Policy]

QWEN = replace(demand("qwen-32b", num_bytes=16 * GB, priority=3, path="models[0]"), max_offload_bytes=16 * GB)
MISTRAL = demand("mistral-7b", num_bytes=4 * GB, priority=2, path="models[1]")
LLAMA = demand("llama3-8b", num_bytes=5 * GB, priority=1, path="models[2]")
REFERENCE = (QWEN, MISTRAL, LLAMA)


def offloads(plan: Plan) -> dict[str, int]:
    return {p.replica: p.offload_bytes for p in plan.placements if p.offload_bytes}


class TestReferenceModels:
    """Row A3, with offload allowed for qwen."""

    @pytest.mark.parametrize("goal", Goal)
    @pytest.mark.parametrize("size", ["32GB", "40GB"])
    def test_one_device_of_32_gb_takes_all_three_and_offloads_nothing(self, size: str, goal: Goal) -> None:
        plan = solve(fleet(f"n: 1x{size}"), REFERENCE, Policy(goal=goal))
        assert (plan.strategy, len(plan.placements), offloads(plan)) == (Strategy.SINGLE_DEVICE, 3, {})

    @pytest.mark.parametrize("goal", Goal)
    def test_two_devices_of_24_gb_take_qwen_and_the_two_small_ones_apart(self, goal: Goal) -> None:
        plan = solve(fleet("n: 2x24GB"), REFERENCE, Policy(goal=goal))
        assert (plan.strategy, offloads(plan)) == (Strategy.MULTI_DEVICE, {})
        assert where(plan) == {"qwen-32b#0": "n/gpu-0", "mistral-7b#0": "n/gpu-1", "llama3-8b#0": "n/gpu-1"}

    @pytest.mark.parametrize(("gb", "short"), [(31, 200_000_000), (28, 2_600_000_000), (24, 5_800_000_000)])
    def test_one_smaller_device_offloads_exactly_what_is_short(self, gb: int, short: int) -> None:
        plan = solve(fleet(f"n: 1x{gb}GB"), REFERENCE, Policy())
        assert (plan.strategy, len(plan.placements), plan.gap) == (Strategy.OFFLOAD, 3, 0.0)
        assert offloads(plan) == {"qwen-32b#0": short}

    def test_without_leave_to_offload_two_of_three_are_served_and_it_says_what_would_bring_the_third(self) -> None:
        equals = tuple(replace(one, priority=0, max_offload_bytes=0) for one in REFERENCE)
        plan = solve(fleet("n: 1x24GB"), equals, Policy())
        assert (plan.strategy, len(plan.placements)) == (Strategy.REDUCED, 2)
        assert plan.refusals[0].model == "qwen-32b"
        assert "llow offload of 5800000000 bytes (5.4 GiB) in `models[0]`" in plan.refusals[0].advice

    def test_what_it_advises_to_offload_really_fits(self) -> None:
        equals = tuple(replace(one, priority=0, max_offload_bytes=0) for one in REFERENCE)
        allowed = (replace(equals[0], max_offload_bytes=5_800_000_000), *equals[1:])
        assert len(solve(fleet("n: 1x24GB"), allowed, Policy()).placements) == 3
        one_less = (replace(equals[0], max_offload_bytes=5_799_999_999), *equals[1:])
        assert len(solve(fleet("n: 1x24GB"), one_less, Policy()).placements) == 2

    def test_without_host_memory_two_of_three_are_served(self) -> None:
        bare = with_node(fleet("n: 1x24GiB"), "n", host_gib=1)
        plan = solve(bare, REFERENCE, Policy())
        assert (plan.strategy, set(where(plan))) == (Strategy.REDUCED, {"qwen-32b#0", "mistral-7b#0"})


class TestPrice:
    def test_the_reason_names_bytes_and_milliseconds_of_every_step(self) -> None:
        plan = solve(fleet("n: 1x24GB"), REFERENCE, Policy())
        assert by_replica(plan, "qwen-32b#0").reason == (
            "leaves 0.0 GiB above headroom at the peak; reads 5.4 GiB of its weights from host memory at every step, "
            "232 ms at 25 GB/s over PCIe"
        )
        assert "host memory" not in by_replica(plan, "llama3-8b#0").reason

    def test_what_lies_in_host_memory_is_taken_off_the_weights_alone(self) -> None:
        one = replace(demand("m", gib=20, kv_gib=2, loading_gib=1), max_offload_bytes=20 * GIB)
        placed = by_replica(solve(fleet("n: 1x24GiB"), [one], Policy()), "m#0")
        before = [part.num_bytes for part in one.estimate.parts]
        after = [part.num_bytes for part in placed.estimate.parts]
        assert after == [before[0] - placed.offload_bytes, *before[1:]]
        assert placed.estimate.peak_bytes == 24 * GIB * 8 // 10


class TestOnlyWhereNeeded:
    def test_a_running_replica_moves_before_weights_leave_the_device(self) -> None:
        inventory, small = fleet("n: 2x24GiB"), [demand("a", gib=4), demand("b", gib=4)]
        before = solve(inventory, small, Policy(goal=Goal.SPREAD))
        assert len(set(where(before).values())) == 2
        large = demand("large", gib=17, offload_gib=17)
        after = solve(inventory, [*small, large], Policy(), running=before.placements)
        assert (len(after.placements), offloads(after)) == (3, {})

    def test_weights_come_back_when_there_is_room_again(self) -> None:
        tight = solve(fleet("n: 1x24GB"), REFERENCE, Policy())
        roomy = solve(fleet("n: 1x24GB"), REFERENCE[:2], Policy(), running=tight.placements)
        assert offloads(roomy) == {"qwen-32b#0": 800_000_000}
        assert by_replica(roomy, "qwen-32b#0").reason.startswith(
            "starts again where it ran, with 5.4 GiB in host memory until now"
        )

    def test_the_least_important_pays(self) -> None:
        both = [demand(name, gib=12, priority=p, offload_gib=12) for name, p in (("high", 2), ("low", 1))]
        assert set(offloads(solve(fleet("n: 1x24GiB"), both, Policy()))) == {"low#0"}

    def test_a_tensor_parallel_replica_offloads_alike_on_each_device(self) -> None:
        wide = demand("m", gib=20, tensor_parallel=2, offload_gib=10)
        plan = solve(with_node(fleet("n: 2x24GiB"), "n", host_gib=2.25), [wide], Policy())
        assert offloads(plan) == {"m#0": 20 * GIB - 24 * GIB * 8 // 10}
        assert "host memory on each device at every step" in by_replica(plan, "m#0").reason
        bare = solve(with_node(fleet("n: 2x24GiB"), "n", host_gib=2), [wide], Policy())
        assert dict(bare.refusals[0].causes) == {Cause.NO_HOST_MEMORY: 2}

    def test_nothing_is_offloaded_on_a_host_device_where_it_would_free_nothing(self) -> None:
        plan = solve(host("n", gib=24), [demand("m", gib=20, offload_gib=20)], Policy())
        assert (offloads(plan), plan.refusals[0].kind) == ({}, RefusalKind.INFEASIBLE)

    @given(rich_problems())
    @settings(max_examples=60)
    def test_a_plan_that_offloads_would_refuse_more_without(self, question: Question) -> None:
        inventory, demands, policy = question
        plan = solve(*question)
        without = solve(inventory, tuple(replace(one, max_offload_bytes=0) for one in demands), policy)
        served = [goal for goal in plan.goals if " served at priority" in f" {goal.name}"]
        served_without = [goal for goal in without.goals if " served at priority" in f" {goal.name}"]
        values, values_without = [[g.value for g in goals] for goals in (served, served_without)]
        assert values >= values_without
        assert bool(offloads(plan)) == (values > values_without)

    def test_the_property_finds_a_solver_that_offloads_at_leisure(self) -> None:
        inventory, one = fleet("n: 1x24GiB"), demand("m", gib=10, offload_gib=5)
        problem = pose(inventory, [one], Policy())
        lavish = assemble(problem, replace(solve_greedy(problem), offloads=((GIB,),)), inventory, ())
        assert verify(lavish, inventory, [one], Policy()) == ()
        assert offloads(lavish)
        assert not solve(inventory, [replace(one, max_offload_bytes=0)], Policy()).refusals


class TestHeuristic:
    def test_it_squeezes_a_replica_in_by_the_weights_of_a_larger_one(self) -> None:
        inventory = fleet("n: 1x24GB")
        problem = pose(inventory, REFERENCE, Policy())
        plan = assemble(problem, solve_greedy(problem), inventory, ())
        assert (plan.strategy, offloads(plan)) == (Strategy.OFFLOAD, {"qwen-32b#0": 5_800_000_000})

    def test_it_does_not_take_more_host_memory_than_there_is(self) -> None:
        inventory = with_node(fleet("n: 1x24GB"), "n", host_gib=6)
        problem = pose(inventory, REFERENCE, Policy())
        plan = assemble(problem, solve_greedy(problem), inventory, ())
        assert set(where(plan)) == {"qwen-32b#0", "mistral-7b#0"}


class TestVerifier:
    @given(st.sampled_from([-1, 1, 16 * GB]))
    @settings(max_examples=3)
    def test_other_bytes_than_planned_are_found(self, more: int) -> None:
        plan = solve(fleet("n: 1x24GB"), REFERENCE, Policy())
        first = replace(plan.placements[0], offload_bytes=plan.placements[0].offload_bytes + more)
        tampered = replace(plan, placements=(first, *plan.placements[1:]))
        kinds = {v.kind for v in verify(tampered, fleet("n: 1x24GB"), REFERENCE, Policy())}
        assert ViolationKind.CHANGED_ESTIMATE in kinds

    def test_more_than_the_demand_allows_is_found(self) -> None:
        plan = solve(fleet("n: 1x24GB"), REFERENCE, Policy())
        strict = (replace(QWEN, max_offload_bytes=5_799_999_999), *REFERENCE[1:])
        kinds = {v.kind for v in verify(plan, fleet("n: 1x24GB"), strict, Policy())}
        assert ViolationKind.WRONG_OFFLOAD in kinds

    def test_host_memory_that_is_not_there_is_found(self) -> None:
        plan, bare = solve(fleet("n: 1x24GB"), REFERENCE, Policy()), with_node(fleet("n: 1x24GB"), "n", host_gib=6)
        assert ViolationKind.OVER_HOST_MEMORY in {v.kind for v in verify(plan, bare, REFERENCE, Policy())}
