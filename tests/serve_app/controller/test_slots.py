"""From a plan to slots and deployments."""

from __future__ import annotations

from placement.demand import Demand, Estimate, Part, PartName
from placement.inventory import Device, DeviceKind, Inventory, Node
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import ModelSettings
from serve_app.controller.slots import deployments_of, slots_of

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


class TestSlots:
    def test_a_slot_carries_the_bytes_of_the_plan(self) -> None:
        inventory = Inventory(version=1, nodes=(gpu_node("a", 1),))
        (slot,) = slots_of(solve(inventory, [demand("m")], Policy()), inventory)
        assert (slot.share_bytes, slot.peak_bytes, slot.kv_cache_bytes) == (400 * MIB, 450 * MIB, 100 * MIB)
        assert (slot.name, slot.deployment, slot.device_uuids) == ("m#0", "m@a", ("GPU-a-0",))

    def test_every_device_of_a_tensor_parallel_replica_has_a_seat(self) -> None:
        inventory = Inventory(version=1, nodes=(gpu_node("a", 2),))
        (slot,) = slots_of(solve(inventory, [demand("m", tensor_parallel=2)], Policy()), inventory)
        assert {(seat.device, seat.bundle_index) for seat in slot.seats} == {("a/gpu-0", 0), ("a/gpu-1", 1)}


class TestDeployments:
    def test_one_deployment_per_model_and_node(self) -> None:
        inventory = Inventory(version=1, nodes=(gpu_node("a", 1), gpu_node("b", 1)))
        plan = solve(inventory, [demand("m", replicas=3)], Policy())
        deployments = deployments_of(slots_of(plan, inventory), [model("m")])
        assert {d.spec.deployment for d in deployments} <= {"m@a", "m@b"}
        assert sum(d.num_replicas for d in deployments) == len(plan.placements)

    def test_a_deployment_says_its_devices_and_bytes_for_the_dashboard(self) -> None:
        inventory = Inventory(version=1, nodes=(gpu_node("a", 1),))
        (deployment,) = deployments_of(slots_of(solve(inventory, [demand("m")], Policy()), inventory), [model("m")])
        assert (deployment.devices, deployment.share_bytes) == (("a/gpu-0",), 400 * MIB)
