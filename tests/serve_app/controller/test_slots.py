"""From a plan to slots and deployments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from placement.demand import Demand, Estimate, Part, PartName
from placement.inventory import Device, DeviceKind, Inventory, Node
from placement.plan import Plan
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import ModelSettings
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.slots import beside, deployments_of, slots_of
from serve_app.engines.spec import EngineArguments

MIB = 2**20


def gpu_node(name: str, num_gpus: int) -> Node:
    devices = tuple(
        Device(
            id=f"{name}/gpu-{index}",
            uuid=f"GPU-{name}-{index}",
            node=name,
            index=index,
            kind=DeviceKind.CUDA,
            product="test",
            total_bytes=1000 * MIB,
        )
        for index in range(num_gpus)
    )
    return Node(name=name, num_cpus=8, host_memory_bytes=10_000 * MIB, devices=devices)


def demand(model: str, *, replicas: int = 1, tensor_parallel: int = 1) -> Demand:
    parts = (
        Part(name=PartName.WEIGHTS, num_bytes=300 * MIB, source="test"),
        Part(name=PartName.KV_CACHE, num_bytes=100 * MIB, source="test"),
        Part(name=PartName.LOADING, num_bytes=50 * MIB, source="test", only_while_starting=True),
    )
    return Demand(
        model=model,
        num_replicas=replicas,
        priority=1,
        estimate=Estimate(parts=parts),
        tensor_parallel=tensor_parallel,
    )


def model(name: str) -> ModelSettings:
    return ModelSettings(
        id=name,
        source="default:mini",
        dtype="float32",
        max_model_len=64,
        max_num_seqs=2,
        num_replicas=1,
        priority=1,
        kv_cache_bytes=None,
        tensor_parallel=1,
        path="models[0]",
    )


def slots(plan: Plan, inventory: Inventory, *, version: str = "v1", **changes: int) -> tuple[Slot, ...]:
    models = [replace(model("m"), **changes)]  # type: ignore[arg-type]  # whole numbers, by key
    return slots_of(plan, inventory, models, {"m": Weights(path=Path("c"), version=version, step=1)})


ONE_GPU = Inventory(version=1, nodes=(gpu_node("a", 1),))


class TestSlots:
    def test_a_slot_carries_the_bytes_of_the_plan(self) -> None:
        (slot,) = slots(solve(ONE_GPU, [demand("m")], Policy()), ONE_GPU)
        assert (slot.name, slot.replica) == ("m#0", "m#0")
        assert (slot.share_bytes, slot.peak_bytes, slot.kv_cache_bytes) == (400 * MIB, 450 * MIB, 100 * MIB)
        assert (slot.node, slot.deployment, slot.device_uuids) == ("a", "m@a", ("GPU-a-0",))

    def test_a_slot_says_everything_an_engine_starts_with(self) -> None:
        (slot,) = slots(solve(ONE_GPU, [demand("m")], Policy()), ONE_GPU)
        assert slot.arguments == EngineArguments(dtype="float32", max_model_len=64, max_num_seqs=2, tensor_parallel=1)
        assert slot.weights.version == "v1"

    def test_every_device_of_a_tensor_parallel_replica_has_a_seat(self) -> None:
        inventory = Inventory(version=1, nodes=(gpu_node("a", 2),))
        (slot,) = slots(solve(inventory, [demand("m", tensor_parallel=2)], Policy()), inventory)
        assert {(seat.device, seat.bundle_index) for seat in slot.seats} == {("a/gpu-0", 0), ("a/gpu-1", 1)}


class TestBesideWhatRuns:
    PLAN = solve(ONE_GPU, [demand("m")], Policy())

    def test_an_engine_that_may_go_on_keeps_its_slot_whatever_is_predicted_now(self) -> None:
        (runs,) = slots(self.PLAN, ONE_GPU)
        (new,) = slots(self.PLAN, ONE_GPU)
        assert beside([replace(new, share_bytes=1, peak_bytes=2)], [runs], mark="7") == (runs,)

    @pytest.mark.parametrize("changed", [{"version": "v2"}, {"max_num_seqs": 4}])
    def test_another_engine_of_the_same_name_gets_a_name_of_its_own(self, changed: dict[str, Any]) -> None:
        (runs,) = slots(self.PLAN, ONE_GPU)
        (new,) = beside(slots(self.PLAN, ONE_GPU, **changed), [runs], mark="7")
        assert (new.name, new.replica) == ("m#0.7", "m#0")

    def test_what_follows_a_marked_slot_is_told_apart_again(self) -> None:
        (runs,) = slots(self.PLAN, ONE_GPU)
        (second,) = beside(slots(self.PLAN, ONE_GPU, max_num_seqs=4), [runs], mark="7")
        (third,) = beside(slots(self.PLAN, ONE_GPU, max_num_seqs=8), [second], mark="8")
        assert third.name == "m#0"


class TestDeployments:
    def test_one_deployment_per_model_and_node(self) -> None:
        inventory = Inventory(version=1, nodes=(gpu_node("a", 1), gpu_node("b", 1)))
        plan = solve(inventory, [demand("m", replicas=3)], Policy())
        deployments = deployments_of(slots(plan, inventory))
        assert {d.name for d in deployments} <= {"m@a", "m@b"}
        assert sum(d.num_replicas for d in deployments) == len(plan.placements)

    def test_a_deployment_says_its_devices_and_bytes_for_the_dashboard(self) -> None:
        (deployment,) = deployments_of(slots(solve(ONE_GPU, [demand("m")], Policy()), ONE_GPU))
        assert (deployment.devices, deployment.share_bytes) == (("a/gpu-0",), 400 * MIB)
