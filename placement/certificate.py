"""The proof that goes with a plan: the arithmetic of headroom on every device, the bounds, and why not elsewhere.

Shares no code with the solver: like `check.py` it imports the values alone and states the rules a second time, from the
spec. Where `check.py` only says what is broken, this writes out the sums, so that a reader can add them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from placement.demand import Demand, Estimate
from placement.elsewhere import Elsewhere, why_not_elsewhere
from placement.inventory import Device, DeviceKind, Inventory, Node
from placement.plan import GoalReached, Placement, Plan, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareProof:
    """What one replica takes of the device: always, and more while it starts."""

    replica: str
    rest_bytes: int
    start_bytes: int
    offload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingProof:
    holder: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProof:
    """total - headroom - held = allowed; all rests + the largest start = peak; allowed - peak = slack, never below 0.

    `headroom_bytes` are rounded up to a whole byte. `holds` says that the slack is not negative; an empty device
    holds whatever lies there already.
    """

    device: str
    total_bytes: int
    headroom_bytes: int
    holdings: tuple[HoldingProof, ...]
    held_bytes: int
    allowed_bytes: int
    shares: tuple[ShareProof, ...]
    rest_bytes: int
    largest_start: str | None
    largest_start_bytes: int
    peak_bytes: int
    slack_bytes: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProof:
    """Cores and host memory that replicas take beside their devices, and what they may take together.

    On a node whose device is its memory, what lies on the device counts as host memory too.
    """

    node: str
    allowed_cpu_millis: int
    taken_cpu_millis: int
    allowed_host_bytes: int
    taken_host_bytes: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`gap` and `goals` are the solver's own bound on how much better a plan could be; all else is added up here.

    `nodes` names those where a replica asks for cores or host memory. `elsewhere` has an entry for each replica that
    is placed and for each model that is refused.
    """

    inventory_version: int
    headroom: float
    strategy: Strategy
    solver: str
    gap: float | None
    goals: tuple[GoalReached, ...]
    devices: tuple[DeviceProof, ...]
    nodes: tuple[NodeProof, ...]
    elsewhere: tuple[Elsewhere, ...]

    @property
    def holds(self) -> bool:
        return all(proof.holds for proof in self.devices) and all(proof.holds for proof in self.nodes)


def certify(plan: Plan, inventory: Inventory, demands: Sequence[Demand]) -> Certificate:
    """Every sum of the plan on this inventory; of a plan that does not hold it says where and by how much."""
    devices = tuple(_device_proof(device, plan) for node in inventory.nodes for device in node.devices)
    asked = {demand.model: demand for demand in demands}
    nodes = tuple(_node_proofs(inventory, plan, asked, {proof.device: proof for proof in devices}))
    return Certificate(
        inventory_version=inventory.version,
        headroom=plan.headroom,
        strategy=plan.strategy,
        solver=plan.solver,
        gap=plan.gap,
        goals=plan.goals,
        devices=devices,
        nodes=nodes,
        elsewhere=why_not_elsewhere(plan, inventory, demands),
    )


def _device_proof(device: Device, plan: Plan) -> DeviceProof:
    shares = tuple(_share(placement) for placement in plan.placements if device.id in placement.devices)
    largest = max(shares, key=lambda share: share.start_bytes, default=None)
    start = largest.start_bytes if largest else 0
    headroom, held = _headroom_bytes(device.total_bytes, plan.headroom), sum(h.num_bytes for h in device.holdings)
    rest = sum(share.rest_bytes for share in shares)
    allowed = device.total_bytes - headroom - held
    return DeviceProof(
        device=device.id,
        total_bytes=device.total_bytes,
        headroom_bytes=headroom,
        holdings=tuple(HoldingProof(holder=h.holder, num_bytes=h.num_bytes) for h in device.holdings),
        held_bytes=held,
        allowed_bytes=allowed,
        shares=shares,
        rest_bytes=rest,
        largest_start=largest.replica if largest and start else None,
        largest_start_bytes=start,
        peak_bytes=rest + start,
        slack_bytes=allowed - rest - start,
        holds=not shares or rest + start <= allowed,
    )


def _share(placement: Placement) -> ShareProof:
    rest, start = _rest_and_start(placement.estimate)
    return ShareProof(
        replica=placement.replica, rest_bytes=rest, start_bytes=start, offload_bytes=placement.offload_bytes
    )


def _node_proofs(
    inventory: Inventory, plan: Plan, asked: dict[str, Demand], proofs: dict[str, DeviceProof]
) -> Iterator[NodeProof]:
    for node in inventory.nodes:
        here = [(p, asked[p.model]) for p in plan.placements if p.node == node.name and p.model in asked]
        millis = sum(demand.cpu_millis for _, demand in here)
        beside = sum(d.host_memory_bytes + p.offload_bytes * len(p.devices) for p, d in here)
        if not (millis or beside):
            continue
        hosts = [proofs[device.id] for device in node.devices if device.kind is DeviceKind.HOST]
        taken = beside + sum(proof.peak_bytes for proof in hosts)
        allowed_millis, allowed = node.num_cpus * 1000 - node.held_cpu_millis, _allowed_host_bytes(node, plan, hosts)
        yield NodeProof(
            node=node.name,
            allowed_cpu_millis=allowed_millis,
            taken_cpu_millis=millis,
            allowed_host_bytes=allowed,
            taken_host_bytes=taken,
            holds=(millis <= allowed_millis or not millis) and (taken <= allowed or not beside),
        )


def _allowed_host_bytes(node: Node, plan: Plan, hosts: Sequence[DeviceProof]) -> int:
    if hosts:
        return sum(max(0, proof.allowed_bytes) for proof in hosts)
    kept = _headroom_bytes(node.host_memory_bytes, plan.headroom)
    return node.host_memory_bytes - kept - node.held_host_memory_bytes


def _headroom_bytes(total_bytes: int, headroom: float) -> int:
    """Rounded up to a whole byte; `headroom` is read as the decimal it is written as."""
    kept, of = Decimal(str(headroom)).as_integer_ratio()
    return -(-total_bytes * kept // of)


def _rest_and_start(estimate: Estimate) -> tuple[int, int]:
    rest = sum(part.num_bytes for part in estimate.parts if not part.only_while_starting)
    return rest, sum(part.num_bytes for part in estimate.parts if part.only_while_starting)
