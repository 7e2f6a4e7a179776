"""Device types, cores and host memory: hard rules beside the room on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings

from placement.assemble import assemble
from placement.check import ViolationKind, verify
from placement.demand import Demand
from placement.feasible import is_of_type
from placement.greedy import solve_greedy
from placement.inventory import Inventory
from placement.plan import Cause, Plan
from placement.policy import Policy
from placement.problem import Problem, pose
from placement.solver import solve
from tests.placement.builders import GIB, demand, fleet, host, rich_problems, where, with_device, with_node

Question = tuple[Inventory, tuple[Demand, ...], Policy]
H100 = "NVIDIA H100 80GB HBM3"


def causes_of(plan: Plan) -> dict[Cause, int]:
    return dict(plan.refusals[0].causes)


class TestDeviceTypes:
    @pytest.mark.parametrize(
        ("wanted", "product", "matches"),
        [
            ((), H100, True),
            (("H100",), H100, True),
            (("h100 80gb",), H100, True),
            (("nvidia h100 80gb hbm3",), H100, True),
            (("A100|H100",), H100, True),
            (("A100", "H100"), H100, True),
            (("H10",), H100, False),
            (("100",), H100, False),
            (("A100",), H100, False),
            (("H100 HBM3",), H100, False),
            (("V100",), "V100M32", False),
            (("V100M32",), "V100M32", True),
            (("A100",), "NVIDIA A100-SXM4-40GB", True),
            (("A.00",), "NVIDIA A100-SXM4-40GB", False),
        ],
    )
    def test_a_type_is_the_product_or_whole_words_of_it(
        self, wanted: tuple[str, ...], product: str, matches: bool
    ) -> None:
        assert is_of_type(product, wanted) is matches

    def test_a_replica_goes_only_where_its_type_is(self) -> None:
        inventory = with_device(fleet("n: 2x24GiB"), "n/gpu-1", product=H100)
        assert where(solve(inventory, [demand("m", types=("H100",))], Policy())) == {"m#0": "n/gpu-1"}

    def test_without_its_type_it_is_refused_with_that_cause_and_what_would_help(self) -> None:
        plan = solve(fleet("n: 2x24GiB"), [demand("m", types=("H100",), path="models[0]")], Policy())
        assert causes_of(plan) == {Cause.WRONG_TYPE: 2}
        assert "it needs 1.0 GiB on one device of type H100; of 2 devices none" in plan.refusals[0].message
        assert "llow the device type 'NVIDIA Test' for `models[0]`" in plan.refusals[0].advice

    def test_a_tensor_parallel_set_is_of_one_of_the_types_throughout(self) -> None:
        inventory = with_device(fleet("n: 2x24GiB"), "n/gpu-1", product=H100)
        plan = solve(inventory, [demand("m", types=("H100",), tensor_parallel=2)], Policy())
        assert causes_of(plan) == {Cause.TOO_FEW_DEVICES: 1, Cause.WRONG_TYPE: 1}

    def test_a_running_replica_on_a_type_no_longer_allowed_moves(self) -> None:
        inventory = with_device(fleet("n: 2x24GiB"), "n/gpu-1", product=H100)
        before = solve(inventory, [demand("m")], Policy())
        after = solve(inventory, [demand("m", types=("H100",))], Policy(), running=before.placements)
        assert (where(before), where(after)) == ({"m#0": "n/gpu-0"}, {"m#0": "n/gpu-1"})


class TestCores:
    def test_replicas_of_a_node_never_take_more_cores_than_it_has(self) -> None:
        inventory = with_node(fleet("a: 2x80GiB", "b: 1x80GiB"), "a", num_cpus=4)
        plan = solve(inventory, [demand("m", cpu_millis=3000, replicas=3, gib=4)], Policy())
        assert sorted(p.node for p in plan.placements) == ["a", "b", "b"]

    def test_cores_that_others_hold_are_not_there(self) -> None:
        inventory = with_node(fleet("n: 1x80GiB"), "n", num_cpus=4, held_cpu_millis=1001)
        plan = solve(inventory, [demand("m", cpu_millis=3000)], Policy())
        assert causes_of(plan) == {Cause.NO_CPU: 1}
        assert plan.refusals[0].advice.startswith("Free 1 thousandths of a core on 'n'")

    def test_a_replica_that_asks_for_no_cores_is_not_held_to_them(self) -> None:
        inventory = with_node(fleet("n: 1x80GiB"), "n", num_cpus=1, held_cpu_millis=5000)
        assert solve(inventory, [demand("m")], Policy()).placements


class TestHostMemory:
    def test_headroom_is_kept_of_host_memory_too(self) -> None:
        inventory = with_node(fleet("n: 1x80GiB"), "n", host_gib=10)
        fits, over = demand("m", host_gib=8), demand("m", host_gib=8.001)
        assert solve(inventory, [fits], Policy()).placements
        assert causes_of(solve(inventory, [over], Policy())) == {Cause.NO_HOST_MEMORY: 1}

    def test_host_memory_that_others_hold_is_not_there(self) -> None:
        inventory = with_node(fleet("n: 1x80GiB"), "n", host_gib=10, held_host_gib=3)
        plan = solve(inventory, [demand("m", host_gib=6)], Policy())
        assert plan.refusals[0].advice.startswith("Free 1073741824 bytes (1.0 GiB) of host memory on 'n'")

    def test_on_a_host_device_its_bytes_and_host_memory_come_out_of_one(self) -> None:
        inventory = host("n", gib=10)
        assert solve(inventory, [demand("m", gib=4, host_gib=4)], Policy()).placements
        assert causes_of(solve(inventory, [demand("m", gib=4, host_gib=4.001)], Policy())) == {Cause.NO_HOST_MEMORY: 1}

    def test_on_a_host_device_the_peak_of_a_start_counts_against_host_memory(self) -> None:
        plan = solve(host("n", gib=10), [demand("m", gib=4, host_gib=3, loading_gib=1.001)], Policy())
        assert causes_of(plan) == {Cause.NO_HOST_MEMORY: 1}

    def test_on_a_host_device_what_others_hold_is_its_holdings(self) -> None:
        inventory = with_node(host("n", gib=10), "n", held_host_gib=10)
        assert solve(inventory, [demand("m", gib=4)], Policy()).placements
        held = with_device(inventory, "n/host", held_bytes=5 * GIB)
        assert causes_of(solve(held, [demand("m", gib=4)], Policy())) == {Cause.NO_ROOM: 1}


class TestNodes:
    def test_replicas_go_to_different_devices_first_and_then_to_different_nodes(self) -> None:
        apart = solve(fleet("a: 2x24GiB", "b: 2x24GiB"), [demand("m", replicas=2)], Policy())
        assert {p.node for p in apart.placements} == {"a", "b"}
        one_node = solve(fleet("a: 2x24GiB"), [demand("m", replicas=2)], Policy())
        assert set(where(one_node).values()) == {"a/gpu-0", "a/gpu-1"}


class TestAnyProblem:
    @given(rich_problems())
    @settings(max_examples=100)
    def test_a_plan_always_passes_the_verifier_and_is_proven_best(self, question: Question) -> None:
        plan = solve(*question)
        assert verify(plan, *question) == ()
        assert (plan.solver, plan.gap) == ("cp-sat", 0.0)

    @given(rich_problems())
    @settings(max_examples=100)
    def test_so_does_a_plan_of_the_heuristic_alone(self, question: Question) -> None:
        assert verify(_heuristic(pose(*question), question), *question) == ()

    @given(rich_problems())
    @settings(max_examples=40)
    def test_asking_again_with_the_plan_in_force_moves_nothing(self, question: Question) -> None:
        before = solve(*question)
        after = solve(*question, running=before.placements)
        assert [(p.replica, p.devices, p.offload_bytes) for p in after.placements] == [
            (p.replica, p.devices, p.offload_bytes) for p in before.placements
        ]
        assert solve(*question) == before


def _heuristic(problem: Problem, question: Question) -> Plan:
    return assemble(problem, solve_greedy(problem), question[0], ())


def _blind_to_types(problem: Problem) -> Problem:
    return replace(problem, allowed=(problem.usable,) * len(problem.demands))


def _blind_to_cores(problem: Problem) -> Problem:
    return replace(problem, nodes=tuple(replace(node, cpu_millis=10**6) for node in problem.nodes))


def _blind_to_host_memory(problem: Problem) -> Problem:
    return replace(problem, nodes=tuple(replace(node, memory_bytes=1 << 60) for node in problem.nodes))


def _blind_to_headroom(problem: Problem) -> Problem:
    return replace(problem, budgets=tuple(device.total_bytes for device in problem.devices))


BLIND: dict[ViolationKind, tuple[Callable[[Problem], Problem], Demand]] = {
    ViolationKind.WRONG_TYPE: (_blind_to_types, demand("m", types=("H100",))),
    ViolationKind.OVER_CPU: (_blind_to_cores, demand("m", cpu_millis=17_000)),
    ViolationKind.OVER_HOST_MEMORY: (_blind_to_host_memory, demand("m", host_gib=103)),
    ViolationKind.OVER_AT_REST: (_blind_to_headroom, demand("m", gib=23)),
    ViolationKind.OVER_AT_PEAK: (_blind_to_headroom, demand("m", gib=19, loading_gib=1)),
}


class TestBrokenSolvers:
    """Each property above fails for a solver that forgets its rule."""

    @pytest.mark.parametrize("kind", BLIND)
    def test_a_solver_blind_to_a_rule_is_found(self, kind: ViolationKind) -> None:
        blinded, one = BLIND[kind]
        question = (fleet("n: 1x24GiB"), (one,), Policy())
        assert not solve(*question).placements
        plan = _heuristic(blinded(pose(*question)), question)
        assert plan.placements
        assert kind in {violation.kind for violation in verify(plan, *question)}
