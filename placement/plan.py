"""The answer of the solver: which replica on which device with how many bytes, and what was refused and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from placement.demand import Estimate


class Strategy(StrEnum):
    SINGLE_DEVICE = "single-device"
    MULTI_DEVICE = "multi-device"
    TENSOR_PARALLEL = "tensor-parallel"
    OFFLOAD = "offload"
    REDUCED = "reduced"


class RefusalKind(StrEnum):
    BLOCKED = "blocked"
    """May become possible when something else changes."""
    INFEASIBLE = "infeasible"
    """Never on this hardware."""


class Cause(StrEnum):
    """Why one device could not take one replica."""

    TOO_SMALL = "too_small"
    """The empty device, less headroom, is smaller than the replica's peak."""
    NO_ROOM = "no_room"
    UNHEALTHY = "unhealthy"
    CORDONED = "cordoned"
    TOO_FEW_DEVICES = "too_few_devices"
    """The node has fewer usable devices than `tensor_parallel`."""
    WRONG_TYPE = "wrong_type"
    """None of the device types the demand names."""
    NO_CPU = "no_cpu"
    NO_HOST_MEMORY = "no_host_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One replica's share of one or more devices of one node.

    `replica` is `<model>#<ordinal>`; `estimate` is per device and as it lies there; `reason` is one clause for
    people. `offload_bytes`, per device: weights that lie in the node's host memory, already taken off the estimate.
    """

    replica: str
    model: str
    node: str
    devices: tuple[str, ...]
    estimate: Estimate
    reason: str
    offload_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why `num_replicas` of a model were not placed: facts, from which `message` is made.

    `causes` counts devices by cause. `needed_bytes` is the replica's peak on each device. `best_device` is the
    usable device without room for it that comes nearest, with `best_room_bytes` above its headroom; None when no
    device is usable.
    """

    model: str
    num_replicas: int
    kind: RefusalKind
    causes: tuple[tuple[Cause, int], ...]
    needed_bytes: int
    best_device: str | None
    best_room_bytes: int
    advice: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalReached:
    """One goal of the solve: the value reached and the value that cannot be beaten (equal: proven best)."""

    name: str
    value: int
    bound: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Immutable; `inventory_version` names the snapshot it was made from.

    `gap` is the proven distance to the optimum as a fraction of the first goal that is not proven best (0.0: all
    are), None when nothing is proven.
    """

    inventory_version: int
    headroom: float
    strategy: Strategy
    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]
    solver: str
    gap: float | None
    goals: tuple[GoalReached, ...] = ()
    """In their order; empty when no solver with a bound was asked."""
