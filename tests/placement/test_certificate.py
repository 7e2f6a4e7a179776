"""The certificate proves what it claims: its sums add up, its causes are true, no code of the solver is in it."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

import placement.certificate
import placement.elsewhere
from placement.certificate import Certificate, certify
from placement.check import verify
from placement.codec import to_json_value
from placement.demand import Demand
from placement.elsewhere import Elsewhere, Reason, Unit
from placement.inventory import DeviceHealth, DeviceKind, Inventory
from placement.plan import Cause, Plan
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import GIB, demand, estimate, fleet, gpu, problems, with_device
from tests.placement.step_play import plan_of, put

Question = tuple[Inventory, tuple[Demand, ...], Policy]


def of(certificate: Certificate, subject: str) -> Elsewhere:
    return next(entry for entry in certificate.elsewhere if entry.subject == subject)


def only(entry: Elsewhere) -> Reason:
    (reason,) = entry.reasons
    return reason


class TestArithmetic:
    def test_headroom_is_rounded_up_and_every_term_is_there(self) -> None:
        inventory = fleet("n: 1x1GiB")
        inventory = replace(inventory, nodes=(replace(inventory.nodes[0], devices=(gpu("n", 0, 101),)),))
        inventory = with_device(inventory, "n/gpu-0", held_bytes=10)
        wanted = [
            Demand(model="a", num_replicas=1, priority=1, estimate=estimate(30, loading=7)),
            Demand(model="b", num_replicas=1, priority=1, estimate=estimate(20, loading=9)),
        ]
        (proof,) = certify(solve(inventory, wanted, Policy()), inventory, wanted).devices
        assert (proof.total_bytes, proof.headroom_bytes, proof.held_bytes, proof.allowed_bytes) == (101, 21, 10, 70)
        assert (proof.rest_bytes, proof.largest_start, proof.largest_start_bytes) == (50, "b#0", 9)
        assert (proof.peak_bytes, proof.slack_bytes, proof.holds) == (59, 11, True)

    def test_a_plan_that_breaks_headroom_gets_a_certificate_that_says_so(self) -> None:
        inventory = fleet("n: 1x24GiB")
        broken = plan_of(put("m#0", "n/gpu-0", estimate(20 * GIB)), headroom=0.2)
        certificate = certify(broken, inventory, [demand("m", gib=20)])
        assert (certificate.holds, certificate.devices[0].slack_bytes < 0) == (False, True)

    def test_cores_and_host_memory_are_proven_where_somebody_asks_for_them(self) -> None:
        hungry = replace(demand("m", gib=4), cpu_millis=2500, host_memory_bytes=3 * GIB)
        inventory = fleet("a: 1x24GiB", "b: 1x24GiB")
        (proof,) = certify(solve(inventory, [hungry], Policy()), inventory, [hungry]).nodes
        assert (proof.node, proof.taken_cpu_millis, proof.allowed_cpu_millis) == ("a", 2500, 16_000)
        assert (proof.taken_host_bytes, proof.holds) == (3 * GIB, True)

    @given(problems())
    @settings(max_examples=100)
    def test_of_a_plan_that_passes_the_verifier_every_sum_holds(self, question: Question) -> None:
        inventory, demands, policy = question
        plan = solve(*question)
        certificate = certify(plan, inventory, demands)
        assert certificate.holds
        assert verify(plan, inventory, demands, policy) == ()
        for proof in certificate.devices:
            assert proof.slack_bytes == proof.total_bytes - proof.headroom_bytes - proof.held_bytes - proof.peak_bytes
            assert proof.rest_bytes == sum(share.rest_bytes for share in proof.shares)

    @given(problems())
    @settings(max_examples=50)
    def test_every_other_device_has_a_reason(self, question: Question) -> None:
        inventory, demands, _ = question
        plan = solve(*question)
        for entry in certify(plan, inventory, demands).elsewhere:
            assert sum(reason.num_devices for reason in entry.reasons) == len(inventory.devices) - len(entry.on)

    @given(problems())
    @settings(max_examples=100)
    def test_what_is_refused_fits_on_no_device(self, question: Question) -> None:
        inventory, demands, _ = question
        plan = solve(*question)
        refused = [entry for entry in certify(plan, inventory, demands).elsewhere if entry.num_refused]
        assert all(reason.cause for entry in refused for reason in entry.reasons)
        assert {entry.subject for entry in refused} == {refusal.model for refusal in plan.refusals}

    def test_the_properties_find_a_plan_that_refuses_in_vain(self) -> None:
        inventory, wanted = fleet("n: 1x24GiB"), [demand("m", gib=30)]
        plan = solve(inventory, wanted, Policy())
        assert only(of(certify(plan, inventory, [demand("m", gib=3)]), "m")).cause is None


class TestWhyNotElsewhere:
    FLEET = fleet("n: 2x24GiB")

    def reason(self, inventory: Inventory, wanted: Demand) -> Reason:
        """Why the one replica, on n/gpu-0, is not on n/gpu-1."""
        plan = plan_of(put(f"{wanted.model}#0", "n/gpu-0", wanted.estimate), headroom=0.2)
        return only(of(certify(plan, inventory, [wanted]), f"{wanted.model}#0"))

    def test_it_would_fit_there_too(self) -> None:
        reason = self.reason(self.FLEET, demand("m", gib=4))
        assert (reason.cause, reason.devices[0].device) == (None, "n/gpu-1")

    def test_too_small(self) -> None:
        reason = self.reason(fleet("n: 1x80GiB 1x24GiB"), demand("m", gib=20))
        assert reason.cause is Cause.TOO_SMALL
        assert (reason.devices[0].needed, reason.devices[0].available) == (20 * GIB, int(24 * GIB * 0.8))

    def test_no_room_beside_what_others_hold(self) -> None:
        reason = self.reason(with_device(self.FLEET, "n/gpu-1", held_bytes=10 * GIB), demand("m", gib=12))
        assert reason.cause is Cause.NO_ROOM
        assert reason.devices[0].available == int(24 * GIB * 0.8) - 10 * GIB

    def test_no_room_beside_a_replica_with_a_larger_start(self) -> None:
        wanted = [demand("a", gib=9), demand("b", gib=8, loading_gib=5)]
        plan = plan_of(
            put("a#0", "n/gpu-0", wanted[0].estimate), put("b#0", "n/gpu-1", wanted[1].estimate), headroom=0.2
        )
        reason = only(of(certify(plan, self.FLEET, wanted), "a#0"))
        assert (reason.cause, reason.devices[0].available) == (Cause.NO_ROOM, int(24 * GIB * 0.8) - 13 * GIB)

    @pytest.mark.parametrize(
        ("changes", "cause", "state"),
        [
            ({"cordoned": True}, Cause.CORDONED, "cordoned"),
            ({"health": DeviceHealth.QUARANTINED}, Cause.UNHEALTHY, "quarantined"),
        ],
    )
    def test_a_device_that_takes_no_shares(self, changes: dict[str, object], cause: Cause, state: str) -> None:
        changed = with_device(self.FLEET, "n/gpu-1", **changes)  # type: ignore[arg-type]  # one of two keywords
        reason = self.reason(changed, demand("m", gib=4))
        assert (reason.cause, reason.devices[0].state) == (cause, state)

    def test_another_type(self) -> None:
        reason = self.reason(self.FLEET, replace(demand("m", gib=4), device_types=("H100",)))
        assert (reason.cause, reason.devices[0].state) == (Cause.WRONG_TYPE, "NVIDIA Test")

    def test_too_few_devices_on_the_node(self) -> None:
        inventory = fleet("n: 2x24GiB", "x: 1x24GiB")
        wanted = demand("m", gib=4, tensor_parallel=2)
        plan = plan_of(put("m#0", "n/gpu-0+n/gpu-1", wanted.estimate), headroom=0.2)
        reason = only(of(certify(plan, inventory, [wanted]), "m#0"))
        assert (reason.cause, reason.devices[0].needed, reason.devices[0].available) == (Cause.TOO_FEW_DEVICES, 2, 1)

    def test_no_cores_and_no_host_memory_on_the_node(self) -> None:
        inventory = fleet("n: 1x24GiB", "x: 1x24GiB")
        busy = replace(inventory.nodes[1], held_cpu_millis=15_000, held_host_memory_bytes=100 * GIB)
        inventory = replace(inventory, nodes=(inventory.nodes[0], busy))
        cores = self.reason(inventory, replace(demand("m", gib=4), cpu_millis=1500))
        assert (cores.cause, cores.devices[0].unit, cores.devices[0].available) == (Cause.NO_CPU, Unit.CPU_MILLIS, 1000)
        memory = self.reason(inventory, replace(demand("m", gib=4), host_memory_bytes=4 * GIB))
        assert (memory.cause, memory.devices[0].needed) == (Cause.NO_HOST_MEMORY, 4 * GIB)

    def test_of_many_devices_the_nearest_are_named_and_all_are_counted(self) -> None:
        inventory = fleet("n: 40x24GiB")
        plan = plan_of(headroom=0.2)
        refused = solve(inventory, [demand("m", gib=30)], Policy()).refusals
        (entry,) = certify(replace(plan, refusals=refused), inventory, [demand("m", gib=30)]).elsewhere
        assert (only(entry).num_devices, len(only(entry).devices), entry.num_refused) == (40, 16, 1)

    def test_on_a_host_the_memory_of_the_node_is_the_device(self) -> None:
        inventory = fleet("n: 1x24GiB", "x: 1x24GiB")
        hosts = [
            replace(node, devices=(replace(node.devices[0], kind=DeviceKind.HOST),), host_memory_bytes=24 * GIB)
            for node in inventory.nodes
        ]
        inventory = replace(inventory, nodes=tuple(hosts))
        wanted = replace(demand("m", gib=12), host_memory_bytes=4 * GIB)
        full = demand("other", gib=16)
        plan = plan_of(put("m#0", "n/gpu-0", wanted.estimate), put("other#0", "x/gpu-0", full.estimate), headroom=0.2)
        assert certify(plan, inventory, [wanted, full]).nodes[0].taken_host_bytes == 16 * GIB


class TestBound:
    def test_goals_and_gap_are_the_plans(self) -> None:
        plan: Plan = solve(fleet("n: 1x24GiB"), [demand("m", gib=4)], Policy())
        certificate = certify(plan, fleet("n: 1x24GiB"), [demand("m", gib=4)])
        assert (certificate.goals, certificate.gap, certificate.solver) == (plan.goals, plan.gap, plan.solver)

    def test_it_is_plain_json(self) -> None:
        plan = solve(fleet("n: 2x24GiB"), [demand("m", gib=4)], Policy())
        assert to_json_value(certify(plan, fleet("n: 2x24GiB"), [demand("m", gib=4)]))["devices"][0]["holds"] is True


class TestIndependence:
    def test_the_certificate_imports_values_alone(self) -> None:
        values = {"placement.demand", "placement.inventory", "placement.plan", "placement.elsewhere"}
        for module in (placement.certificate, placement.elsewhere):
            tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
            imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
            assert {name for name in imported if name.startswith("placement")} <= values
