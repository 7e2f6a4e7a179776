"""What `solve` promises, row by row of the spec, and for any problem at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.check import ViolationKind, verify
from placement.codec import demands_to_json, inventory_to_json, plan_to_json
from placement.demand import Demand
from placement.errors import InvalidProblem
from placement.feasible import is_usable
from placement.inventory import DeviceHealth, Inventory
from placement.plan import Plan, RefusalKind, Strategy
from placement.policy import Goal, Policy
from placement.solver import solve
from tests.placement.builders import GB, GIB, by_replica, demand, estimate, fleet, problems, where, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]

QWEN = demand("qwen-32b", num_bytes=16 * GB, priority=3, path="models[0]")
MISTRAL = demand("mistral-7b", num_bytes=4 * GB, priority=2, path="models[1]")
LLAMA = demand("llama3-8b", num_bytes=5 * GB, priority=1, path="models[2]")
REFERENCE = (QWEN, MISTRAL, LLAMA)


class TestReferenceModels:
    """Row A3: 16, 4 and 5 GB with 20 % kept free."""

    @pytest.mark.parametrize("size", ["32GiB", "32GB", "40GB", "80GiB"])
    def test_one_device_of_32_gb_takes_all_three(self, size: str) -> None:
        plan = solve(fleet(f"n: 1x{size}"), REFERENCE, Policy())
        assert (plan.strategy, len(plan.placements)) == (Strategy.SINGLE_DEVICE, 3)

    @pytest.mark.parametrize("size", ["24GiB", "24GB"])
    def test_two_devices_of_24_gb_take_qwen_and_the_two_small_ones_apart(self, size: str) -> None:
        plan = solve(fleet(f"n: 2x{size}"), REFERENCE, Policy())
        assert plan.strategy is Strategy.MULTI_DEVICE
        assert where(plan) == {"qwen-32b#0": "n/gpu-0", "mistral-7b#0": "n/gpu-1", "llama3-8b#0": "n/gpu-1"}

    def test_one_device_of_24_gib_serves_two_and_says_who_was_dropped(self) -> None:
        plan = solve(fleet("n: 1x24GiB"), REFERENCE, Policy())
        assert plan.strategy is Strategy.REDUCED
        assert set(where(plan)) == {"qwen-32b#0", "mistral-7b#0"}
        assert [(r.model, r.num_replicas, r.kind) for r in plan.refusals] == [("llama3-8b", 1, RefusalKind.BLOCKED)]

    def test_the_refusal_says_what_would_bring_it_back(self) -> None:
        (refusal,) = solve(fleet("n: 1x24GiB"), REFERENCE, Policy()).refusals
        assert refusal.advice == (
            "Unload 'qwen-32b' (frees 14.9 GiB), or add a device of at least 6 GiB, "
            "or allow offload of 4384156980 bytes (4.1 GiB) in `models[2]`."
        )
        assert refusal.advice in refusal.message

    def test_of_equal_priorities_as_many_as_possible_are_served(self) -> None:
        equals = [replace(one, priority=0) for one in REFERENCE]
        plan = solve(fleet("n: 1x24GB"), equals, Policy())
        assert set(where(plan)) == {"mistral-7b#0", "llama3-8b#0"}

    def test_a_larger_priority_is_served_even_at_the_cost_of_two_lower_ones(self) -> None:
        plan = solve(fleet("n: 1x24GB"), REFERENCE, Policy())
        assert set(where(plan)) == {"qwen-32b#0"}


class TestHeadroom:
    def test_a_replica_that_fits_to_the_byte_is_placed(self) -> None:
        whole = demand("m", num_bytes=80)
        assert where(solve(_one(total_bytes=100), [whole], Policy(headroom=0.2))) == {"m#0": "n/gpu-0"}
        assert not solve(_one(total_bytes=99), [whole], Policy(headroom=0.2)).placements

    def test_the_peak_of_a_start_counts_not_only_the_rest(self) -> None:
        starting = Demand(model="m", num_replicas=1, priority=0, estimate=estimate(60, loading=21))
        assert not solve(_one(total_bytes=100), [starting], Policy(headroom=0.2)).placements

    def test_only_the_largest_start_counts_because_one_starts_at_a_time(self) -> None:
        first = Demand(model="a", num_replicas=1, priority=0, estimate=estimate(30, loading=20))
        second = Demand(model="b", num_replicas=1, priority=0, estimate=estimate(30, loading=15))
        assert len(solve(_one(total_bytes=100), [first, second], Policy(headroom=0.2)).placements) == 2

    def test_foreign_bytes_are_planned_around(self) -> None:
        held = with_device(fleet("n: 2x24GiB"), "n/gpu-0", held_bytes=10 * GIB)
        assert where(solve(held, [demand("m", gib=12)], Policy())) == {"m#0": "n/gpu-1"}


class TestDevices:
    @pytest.mark.parametrize("health", ["draining", "quarantined", "probation", "lost"])
    def test_an_ailing_device_is_never_placed_on(self, health: str) -> None:
        inventory = with_device(fleet("n: 1x24GiB"), "n/gpu-0", health=DeviceHealth(health))
        assert not solve(inventory, [demand("m", gib=1)], Policy()).placements

    def test_a_cordoned_device_is_never_placed_on(self) -> None:
        inventory = with_device(fleet("n: 2x24GiB"), "n/gpu-0", cordoned=True)
        assert where(solve(inventory, [demand("m", gib=1)], Policy())) == {"m#0": "n/gpu-1"}

    def test_a_degraded_device_is_used_only_when_no_healthy_one_has_room(self) -> None:
        inventory = with_device(fleet("n: 2x24GiB"), "n/gpu-0", health=DeviceHealth.DEGRADED)
        assert where(solve(inventory, [demand("m", gib=10)], Policy())) == {"m#0": "n/gpu-1"}
        assert len(solve(inventory, [demand("m", gib=10, replicas=2)], Policy()).placements) == 2


class TestShape:
    def test_replicas_of_one_model_go_to_different_devices(self) -> None:
        plan = solve(fleet("n: 2x80GiB"), [demand("m", gib=5, replicas=2)], Policy(goal=Goal.PACK))
        assert set(where(plan).values()) == {"n/gpu-0", "n/gpu-1"}

    def test_pack_uses_as_few_devices_as_possible(self) -> None:
        plan = solve(fleet("n: 4x24GiB"), [demand(f"m{i}", gib=4) for i in range(4)], Policy(goal=Goal.PACK))
        assert set(where(plan).values()) == {"n/gpu-0"}

    def test_spread_fills_devices_evenly(self) -> None:
        plan = solve(fleet("n: 4x24GiB"), [demand(f"m{i}", gib=4) for i in range(4)], Policy(goal=Goal.SPREAD))
        assert len(set(where(plan).values())) == 4


class TestTensorParallel:
    def test_a_replica_takes_several_devices_of_one_node(self) -> None:
        plan = solve(fleet("a: 1x24GiB", "b: 2x24GiB"), [demand("m", gib=16, tensor_parallel=2)], Policy())
        assert (plan.strategy, where(plan)) == (Strategy.TENSOR_PARALLEL, {"m#0": "b/gpu-0+b/gpu-1"})

    def test_nvlink_peers_are_preferred_to_numa_neighbours(self) -> None:
        inventory = fleet("n: 4x24GiB")
        for index, numa in enumerate((0, 0, 1, 1)):
            inventory = with_device(inventory, f"n/gpu-{index}", numa_node=numa)
        inventory = with_device(inventory, "n/gpu-1", nvlink_peers=("n/gpu-2",))
        plan = solve(inventory, [demand("m", gib=16, tensor_parallel=2)], Policy())
        assert where(plan) == {"m#0": "n/gpu-1+n/gpu-2"}
        assert "joined by NVLink" in by_replica(plan, "m#0").reason

    def test_numa_neighbours_are_preferred_to_strangers(self) -> None:
        inventory = fleet("n: 4x24GiB")
        for index, numa in enumerate((0, 1, 0, 1)):
            inventory = with_device(inventory, f"n/gpu-{index}", numa_node=numa)
        plan = solve(inventory, [demand("m", gib=16, tensor_parallel=2)], Policy())
        assert where(plan) == {"m#0": "n/gpu-0+n/gpu-2"}

    def test_devices_of_two_nodes_are_never_joined(self) -> None:
        plan = solve(fleet("a: 1x80GiB", "b: 1x80GiB"), [demand("m", gib=1, tensor_parallel=2)], Policy())
        assert [refusal.kind for refusal in plan.refusals] == [RefusalKind.INFEASIBLE]


class TestRunning:
    def test_what_runs_stays_though_a_fresh_plan_would_put_it_elsewhere(self) -> None:
        inventory, small = fleet("n: 2x24GiB"), demand("small", gib=4)
        first = solve(with_device(inventory, "n/gpu-0", cordoned=True), [small], Policy())
        second = solve(inventory, [small, demand("big", gib=17, priority=5)], Policy(), running=first.placements)
        assert where(second) == {"big#0": "n/gpu-0", "small#0": "n/gpu-1"}
        assert by_replica(second, "small#0").reason == "stays where it runs"

    def test_only_what_must_move_moves(self) -> None:
        inventory = fleet("n: 3x24GiB")
        demands = [demand(f"m{i}", gib=15) for i in range(2)]
        before = solve(inventory, demands, Policy())
        lost = with_device(inventory, before.placements[0].devices[0], health=DeviceHealth.LOST)
        after = solve(lost, demands, Policy(), running=before.placements)
        assert where(after)["m1#0"] == where(before)["m1#0"]
        assert by_replica(after, "m0#0").reason.startswith("moved from n/gpu-0")

    def test_a_replica_that_goes_keeps_the_names_of_the_others(self) -> None:
        inventory, three = fleet("n: 3x24GiB"), demand("m", gib=15, replicas=3)
        before = solve(inventory, [three], Policy())
        lost = with_device(inventory, where(before)["m#0"], health=DeviceHealth.LOST)
        after = solve(lost, [replace(three, num_replicas=2)], Policy(), running=before.placements)
        assert where(after) == {name: where(before)[name] for name in ("m#1", "m#2")}

    def test_a_running_lower_priority_gives_way_to_a_higher_one(self) -> None:
        inventory, low = fleet("n: 1x24GiB"), demand("low", gib=15, priority=1)
        before = solve(inventory, [low], Policy())
        after = solve(inventory, [low, demand("high", gib=15, priority=2)], Policy(), running=before.placements)
        assert where(after) == {"high#0": "n/gpu-0"}


class TestQuestion:
    def test_two_demands_for_one_model_are_an_error(self) -> None:
        with pytest.raises(InvalidProblem, match="'m' is given more than once"):
            solve(fleet("n: 1x24GiB"), [demand("m"), demand("m")], Policy())

    def test_negative_bytes_are_an_error_that_names_the_path(self) -> None:
        with pytest.raises(InvalidProblem, match=r"models\[4\]"):
            solve(fleet("n: 1x24GiB"), [demand("m", num_bytes=-1, path="models[4]")], Policy())

    @pytest.mark.parametrize("headroom", [-0.1, 1.0, float("nan")])
    def test_headroom_must_be_a_fraction_below_one(self, headroom: float) -> None:
        with pytest.raises(InvalidProblem, match="headroom"):
            solve(fleet("n: 1x24GiB"), [], Policy(headroom=headroom))

    def test_no_demand_is_an_empty_plan(self) -> None:
        plan = solve(fleet("n: 1x24GiB", version=7), [], Policy())
        assert (plan.placements, plan.refusals, plan.inventory_version) == ((), (), 7)


class TestAnyProblem:
    @given(problems())
    @settings(max_examples=150, deadline=None)
    def test_a_plan_always_passes_the_verifier(self, question: Question) -> None:
        assert _sound(solve(*question), question)

    @given(problems())
    @settings(max_examples=30, deadline=None)
    def test_the_same_question_has_the_same_answer(self, question: Question) -> None:
        assert solve(*question) == solve(*question)

    @given(problems())
    @settings(max_examples=60, deadline=None)
    def test_asking_again_with_the_plan_in_force_moves_nothing(self, question: Question) -> None:
        before = solve(*question)
        assert where(solve(*question, running=before.placements)) == where(before)

    @given(problems(max_tensor_parallel=1))
    @settings(max_examples=60, deadline=None)
    def test_each_priority_serves_as_many_as_brute_force(self, question: Question) -> None:
        inventory, demands, policy = question
        small = _one_each(demands)
        assert _served(solve(inventory, small, policy), small) == _best_served(inventory, small, policy)

    @given(problems(max_tensor_parallel=1), st.integers(0, 5))
    @settings(max_examples=60, deadline=None)
    def test_losing_a_device_moves_as_few_as_brute_force(self, question: Question, which: int) -> None:
        inventory, demands, policy = question
        small = _one_each(demands)
        before = solve(inventory, small, policy)
        ids = [device.id for device in inventory.devices] or ["none"]
        lost = with_device(inventory, ids[which % len(ids)], health=DeviceHealth.LOST)
        after = solve(lost, small, policy, running=before.placements)
        assert _kept(before, after) == _best_kept(lost, small, policy, before)

    def test_the_moves_property_finds_a_solver_that_forgets_what_runs(self) -> None:
        inventory, demands = fleet("n: 2x24GiB"), (demand("a", gib=4),)
        before = solve(with_device(inventory, "n/gpu-0", cordoned=True), demands, Policy())
        forgetful = solve(inventory, demands, Policy())
        assert _kept(before, forgetful) != _best_kept(inventory, demands, Policy(), before)

    def test_the_property_finds_a_solver_that_forgets_the_peak(self) -> None:
        demands = (Demand(model="m", num_replicas=1, priority=0, estimate=estimate(60, loading=21)),)
        forgetful = tuple(replace(one, estimate=estimate(60)) for one in demands)
        policy, inventory = Policy(headroom=0.2), _one(total_bytes=100)
        plan = solve(inventory, forgetful, policy)
        broken = replace(plan, placements=tuple(replace(p, estimate=demands[0].estimate) for p in plan.placements))
        assert not _sound(broken, (inventory, demands, policy))

    def test_the_property_finds_a_solver_that_serves_low_priorities_first(self) -> None:
        upside_down = tuple(replace(one, priority=-one.priority) for one in REFERENCE)
        question = (fleet("n: 1x24GB"), REFERENCE, Policy())
        assert not _sound(solve(question[0], upside_down, question[2]), question)
        plan = replace(solve(question[0], upside_down, question[2]), goals=(), gap=None)
        kinds = {v.kind for v in verify(plan, *question)}
        assert kinds == {ViolationKind.PRIORITY_INVERSION}

    def test_the_brute_force_property_finds_a_solver_that_gives_up_early(self) -> None:
        inventory, demands = fleet("n: 1x24GB"), (MISTRAL, LLAMA)
        lazy = solve(inventory, (MISTRAL,), Policy())
        assert _served(lazy, demands) != _best_served(inventory, demands, Policy())


def _one(*, total_bytes: int) -> Inventory:
    inventory = fleet("n: 1x1GiB")
    node = inventory.nodes[0]
    return replace(inventory, nodes=(replace(node, devices=(replace(node.devices[0], total_bytes=total_bytes),)),))


def _sound(plan: Plan, question: Question) -> bool:
    return verify(plan, *question) == ()


def _served(plan: Plan, demands: tuple[Demand, ...]) -> list[int]:
    """Replicas placed per priority, from the highest."""
    priority = {demand.model: demand.priority for demand in demands}
    levels = sorted(set(priority.values()), reverse=True)
    return [sum(priority[p.model] == level for p in plan.placements) for level in levels]


def _sound_plans(inventory: Inventory, demands: tuple[Demand, ...], policy: Policy) -> Iterator[Plan]:
    """Every way to place at most one replica of each demand within the rules; leans on the verifier alone."""
    real = tuple(demand for demand in demands if demand.num_replicas)
    devices: list[str | None] = [None, *(device.id for device in inventory.devices)]
    nodes = {device.id: device.node for device in inventory.devices}
    empty = replace(solve(inventory, (), policy), goals=(), gap=None)
    template = by_replica(solve(fleet("n: 1x24GiB"), [demand("x")], policy), "x#0")
    for choice in product(devices, repeat=len(real)):
        placed = tuple(
            replace(template, replica=f"{d.model}#0", model=d.model, node=nodes[c], devices=(c,), estimate=d.estimate)
            for d, c in zip(real, choice, strict=True)
            if c is not None
        )
        plan = replace(empty, placements=placed)
        kinds = {violation.kind for violation in verify(plan, inventory, real, policy)}
        if kinds <= {ViolationKind.UNACCOUNTED_REPLICA, ViolationKind.WRONG_STRATEGY}:
            yield plan


def _best_served(inventory: Inventory, demands: tuple[Demand, ...], policy: Policy) -> list[int]:
    return max(_served(plan, demands) for plan in _sound_plans(inventory, demands, policy))


def _best_kept(inventory: Inventory, demands: tuple[Demand, ...], policy: Policy, before: Plan) -> int:
    """Most replicas left in place among the plans that serve best: of each priority what runs, then the most."""
    plans = list(_sound_plans(inventory, demands, policy))
    usable = {device.id for device in inventory.devices if is_usable(device)}
    ran = [demand for demand in demands if {*_devices_of(before, demand.model)} & usable]
    best = max(_served_in_order(plan, demands, ran) for plan in plans)
    return max(_kept(before, plan) for plan in plans if _served_in_order(plan, demands, ran) == best)


def _served_in_order(plan: Plan, demands: Sequence[Demand], ran: Sequence[Demand]) -> list[tuple[int, int]]:
    placed = {placement.model for placement in plan.placements}
    return [
        (
            sum(one.model in placed for one in ran if one.priority == priority),
            sum(one.model in placed for one in demands if one.priority == priority),
        )
        for priority in sorted({demand.priority for demand in demands}, reverse=True)
    ]


def _devices_of(plan: Plan, model: str) -> list[str]:
    return [device for placement in plan.placements if placement.model == model for device in placement.devices]


def _kept(before: Plan, after: Plan) -> int:
    return len(where(before).items() & where(after).items())


def _one_each(demands: tuple[Demand, ...]) -> tuple[Demand, ...]:
    return tuple(replace(demand, num_replicas=min(demand.num_replicas, 1)) for demand in demands)


class TestDeterminism:
    def test_another_process_with_another_hash_seed_gives_the_same_plan(self) -> None:
        plans = {_plan_of_another_process(hash_seed=seed) for seed in ("1", "2")}
        assert plans == {plan_to_json(solve(*_CROWDED))}


_CROWDED: Question = (
    fleet("a: 2x24GiB", "b: 2x40GiB"),
    tuple(demand(f"m{i}", gib=3.3 + 2 * i, kv_gib=0.5, priority=i % 3, replicas=2) for i in range(5)),
    Policy(),
)
_ASK = """
import sys
from placement.codec import demands_from_json, inventory_from_json, plan_to_json
from placement.policy import Policy
from placement.solver import solve
inventory, demands = sys.stdin.read().splitlines()
sys.stdout.write(plan_to_json(solve(inventory_from_json(inventory), demands_from_json(demands), Policy())))
"""


def _plan_of_another_process(*, hash_seed: str) -> str:
    question = f"{inventory_to_json(_CROWDED[0])}\n{demands_to_json(_CROWDED[1])}"
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    asked = subprocess.run(
        [sys.executable, "-c", _ASK], input=question, env=environment, capture_output=True, text=True, check=True
    )
    return asked.stdout
