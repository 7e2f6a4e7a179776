"""Who lies beside the plan, a job or the candidate of a rollout, and where. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from placement.demand import Demand, Estimate, Part, PartName
from serve_app.fleet.groups import Seat
from serve_app.fleet.names import TRAINING


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What asks for room: bytes on each of `num_devices` devices of one node with the role."""

    name: str
    num_bytes: int
    priority: int
    num_devices: int = 1
    role: str = TRAINING

    def demand(self) -> Demand:
        part = Part(name=PartName.CONTEXT, num_bytes=self.num_bytes, source="asked for")
        return Demand(
            model=self.name,
            num_replicas=1,
            priority=self.priority,
            estimate=Estimate(parts=(part,)),
            tensor_parallel=self.num_devices,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A guest that has its place since `since_s` of the monotonic clock, at the earliest since this process began."""

    guest: Guest
    devices: tuple[str, ...]
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    node: str
    seats: tuple[Seat, ...]
    device_uuids: tuple[str, ...]
