"""The verifier finds every way of tampering with a sound plan, and nothing wrong with a sound one."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import placement.check
from placement.check import ViolationKind, verify
from placement.demand import Demand, Estimate, PartName
from placement.inventory import DeviceHealth, Inventory
from placement.plan import Placement, Plan, Refusal, Strategy
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import GIB, demand, estimate, fleet, gpu, problems, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]
Tamper = Callable[[Plan], Plan]

FLEET = fleet("a: 2x24GiB", "b: 1x24GiB", version=3)
DEMANDS = (
    demand("big", gib=15, loading_gib=1, priority=2, replicas=2),
    demand("small", gib=4, priority=1),
    demand("huge", gib=30, priority=0),
)
POLICY = Policy()
SOUND = solve(FLEET, DEMANDS, POLICY)


def first(plan: Plan, **changes: object) -> Plan:
    """The plan with its first placement changed."""
    return replace(plan, placements=(replace(plan.placements[0], **changes), *plan.placements[1:]))  # type: ignore[arg-type]  # whatever a tamperer writes


def smaller(whole: Estimate) -> Estimate:
    return Estimate(parts=tuple(replace(part, num_bytes=part.num_bytes // 2) for part in whole.parts))


def negative(whole: Estimate) -> Estimate:
    return Estimate(parts=tuple(replace(part, num_bytes=-part.num_bytes) for part in whole.parts))


def without_refusals(plan: Plan) -> Plan:
    return replace(plan, refusals=(), strategy=Strategy.MULTI_DEVICE)


def without_goals(plan: Plan) -> Plan:
    """As a solver without bounds would have given it."""
    return replace(plan, goals=(), gap=None)


def extra_replica(plan: Plan) -> Plan:
    extra = replace(plan.placements[-1], replica="small#7", devices=("b/gpu-0",), node="b")
    return replace(plan, placements=(*plan.placements, extra))


def stranger(plan: Plan) -> Plan:
    extra = replace(plan.placements[-1], replica="other#0", model="other")
    return replace(plan, placements=(*plan.placements, extra))


def refuse_more(plan: Plan) -> Plan:
    return replace(plan, refusals=tuple(replace(refusal, num_replicas=2) for refusal in plan.refusals))


def refuse_stranger(plan: Plan) -> Plan:
    refusal: Refusal = replace(plan.refusals[0], model="other")
    return replace(plan, refusals=(*plan.refusals, refusal))


TAMPERINGS: dict[str, tuple[ViolationKind, Tamper]] = {
    "another inventory": (ViolationKind.WRONG_INVENTORY, lambda plan: replace(plan, inventory_version=2)),
    "less headroom": (ViolationKind.WRONG_HEADROOM, lambda plan: replace(plan, headroom=0.1)),
    "a kinder strategy": (ViolationKind.WRONG_STRATEGY, lambda plan: replace(plan, strategy=Strategy.MULTI_DEVICE)),
    "a device that is not there": (ViolationKind.UNKNOWN_DEVICE, lambda plan: first(plan, devices=("a/gpu-9",))),
    "a device of another node": (ViolationKind.WRONG_NODE, lambda plan: first(plan, node="b")),
    "two devices for one": (
        ViolationKind.WRONG_NUM_DEVICES,
        lambda plan: first(plan, devices=("a/gpu-0", "a/gpu-1")),
    ),
    "one device twice": (ViolationKind.WRONG_NUM_DEVICES, lambda plan: first(plan, devices=("a/gpu-0", "a/gpu-0"))),
    "no device": (ViolationKind.WRONG_NUM_DEVICES, lambda plan: first(plan, devices=())),
    "a smaller estimate": (
        ViolationKind.CHANGED_ESTIMATE,
        lambda plan: first(plan, estimate=smaller(plan.placements[0].estimate)),
    ),
    "another source of the bytes": (
        ViolationKind.CHANGED_ESTIMATE,
        lambda plan: first(
            plan,
            estimate=Estimate(parts=tuple(replace(p, source="trust me") for p in plan.placements[0].estimate.parts)),
        ),
    ),
    "negative bytes": (
        ViolationKind.NEGATIVE_BYTES,
        lambda plan: first(plan, estimate=negative(plan.placements[0].estimate)),
    ),
    "one name for two": (ViolationKind.DUPLICATE_REPLICA, lambda plan: first(plan, replica="big#1")),
    "the name of another model": (ViolationKind.MISNAMED_REPLICA, lambda plan: first(plan, replica="huge#0")),
    "a name without ordinal": (ViolationKind.MISNAMED_REPLICA, lambda plan: first(plan, replica="big#x")),
    "a model nobody asked for": (ViolationKind.UNKNOWN_MODEL, stranger),
    "more replicas than asked": (ViolationKind.TOO_MANY_REPLICAS, extra_replica),
    "a replica left out": (
        ViolationKind.UNACCOUNTED_REPLICA,
        lambda plan: replace(plan, placements=plan.placements[1:]),
    ),
    "a refusal left out": (ViolationKind.UNACCOUNTED_REPLICA, without_refusals),
    "more refused than missing": (ViolationKind.UNACCOUNTED_REPLICA, refuse_more),
    "a refusal nobody asked for": (ViolationKind.UNACCOUNTED_REPLICA, refuse_stranger),
    "two that do not fit together": (
        ViolationKind.OVER_AT_REST,
        lambda plan: first(plan, devices=plan.placements[1].devices, node=plan.placements[1].node),
    ),
}


class TestTampering:
    def test_a_sound_plan_has_no_violation(self) -> None:
        assert verify(SOUND, FLEET, DEMANDS, POLICY) == ()

    @pytest.mark.parametrize("name", TAMPERINGS)
    def test_each_tampering_is_found(self, name: str) -> None:
        kind, tamper = TAMPERINGS[name]
        assert kind in {violation.kind for violation in verify(tamper(SOUND), FLEET, DEMANDS, POLICY)}

    @pytest.mark.parametrize("health", ["draining", "quarantined", "probation", "lost"])
    def test_a_device_that_fell_ill_is_found(self, health: str) -> None:
        ill = with_device(FLEET, SOUND.placements[0].devices[0], health=DeviceHealth(health))
        assert ViolationKind.UNHEALTHY_DEVICE in {v.kind for v in verify(SOUND, ill, DEMANDS, POLICY)}

    def test_a_device_that_was_cordoned_is_found(self) -> None:
        cordoned = with_device(FLEET, SOUND.placements[0].devices[0], cordoned=True)
        assert ViolationKind.CORDONED_DEVICE in {v.kind for v in verify(SOUND, cordoned, DEMANDS, POLICY)}

    def test_bytes_that_another_program_took_meanwhile_are_found(self) -> None:
        held = with_device(FLEET, SOUND.placements[0].devices[0], held_bytes=8 * GIB)
        assert ViolationKind.OVER_AT_REST in {v.kind for v in verify(SOUND, held, DEMANDS, POLICY)}

    def test_a_peak_one_byte_over_is_found_though_the_rest_fits(self) -> None:
        inventory, fitting = (
            _bytes(100),
            Demand(model="m", num_replicas=1, priority=0, estimate=estimate(60, loading=20)),
        )
        plan = solve(inventory, [fitting], POLICY)
        over = replace(fitting, estimate=estimate(60, loading=21))
        tampered = first(plan, estimate=over.estimate)
        assert [v.kind for v in verify(tampered, inventory, [over], POLICY)] == [ViolationKind.OVER_AT_PEAK]

    def test_a_refusal_in_vain_is_found(self) -> None:
        plan = solve(FLEET, DEMANDS, POLICY)
        easy = (*DEMANDS[:2], replace(DEMANDS[2], estimate=estimate(GIB)))
        assert [v.kind for v in verify(plan, FLEET, easy, POLICY)] == [ViolationKind.NEEDLESS_REFUSAL]

    def test_a_lower_priority_in_the_place_of_a_higher_one_is_found(self) -> None:
        inventory = fleet("n: 1x24GiB")
        low, high = demand("low", gib=15, priority=1), demand("high", gib=15, priority=2)
        upside_down = without_goals(solve(inventory, [low, replace(high, priority=0)], POLICY))
        kinds = [v.kind for v in verify(upside_down, inventory, [low, high], POLICY)]
        assert kinds == [ViolationKind.PRIORITY_INVERSION]


class TestAnyPlan:
    @given(problems(), st.data())
    @settings(max_examples=100, deadline=None)
    def test_no_placement_can_grow_beyond_its_device_unseen(self, question: Question, data: st.DataObject) -> None:
        inventory, demands, policy = question
        plan = solve(*question)
        assume(plan.placements)
        victim = data.draw(st.sampled_from(plan.placements))
        grown = Estimate(parts=(replace(victim.estimate.parts[0], num_bytes=1000), *victim.estimate.parts[1:]))
        bigger = tuple(replace(d, estimate=grown) if d.model == victim.model else d for d in demands)
        tampered = replace(plan, placements=tuple(_with(p, victim.model, grown) for p in plan.placements))
        assert ViolationKind.OVER_AT_REST in {v.kind for v in verify(tampered, inventory, bigger, policy)}

    @given(problems(), st.data())
    @settings(max_examples=100, deadline=None)
    def test_no_replica_can_vanish_unseen(self, question: Question, data: st.DataObject) -> None:
        plan = solve(*question)
        assume(plan.placements)
        gone = data.draw(st.sampled_from(plan.placements))
        tampered = replace(plan, placements=tuple(p for p in plan.placements if p is not gone))
        assert ViolationKind.UNACCOUNTED_REPLICA in {v.kind for v in verify(tampered, *question)}

    def test_the_properties_find_a_verifier_that_sees_nothing(self) -> None:
        tampered = [tamper(SOUND) for _, tamper in TAMPERINGS.values()]
        assert not any(_blind_verify(plan) for plan in tampered)
        assert all(verify(plan, FLEET, DEMANDS, POLICY) for plan in tampered)


class TestIndependence:
    def test_the_verifier_imports_values_alone(self) -> None:
        """It shares no code with what it checks."""
        folder = Path(placement.check.__file__).parent
        own = {f"placement.{path.stem}" for path in folder.glob("check*.py")}
        values = {"placement.demand", "placement.inventory", "placement.plan", "placement.policy"}
        trees = [ast.parse((folder / f"{name.split('.')[1]}.py").read_text(encoding="utf-8")) for name in own]
        nodes = [node for tree in trees for node in ast.walk(tree)]
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert {name for name in imported if name.startswith("placement")} - own == values


def _blind_verify(plan: Plan) -> tuple[object, ...]:
    """A verifier broken on purpose."""
    del plan
    return ()


def _with(placement_: Placement, model: str, grown: Estimate) -> Placement:
    return replace(placement_, estimate=grown) if placement_.model == model else placement_


def _bytes(total: int) -> Inventory:
    inventory = fleet("n: 1x1GiB")
    return replace(inventory, nodes=(replace(inventory.nodes[0], devices=(gpu("n", 0, total),)),))


def test_the_parts_of_an_estimate_are_what_the_verifier_sums() -> None:
    whole = estimate(3, kv=4, loading=5)
    assert (whole.rest_bytes, whole.peak_bytes, whole.part_bytes(PartName.KV_CACHE)) == (7, 12, 4)
