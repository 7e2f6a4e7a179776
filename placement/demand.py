"""What we want to run: a demand asks for replicas of one model, each described by an estimate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PartName(StrEnum):
    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    ACTIVATION = "activation"
    CUDA_GRAPHS = "cuda_graphs"
    CONTEXT = "context"
    """Runtime of the processes themselves: CUDA context, or interpreter and libraries on a host."""
    LOADING = "loading"
    """Held only while starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One named term of an estimate, per device of the replica.

    `source` says where the number comes from ("safetensors headers", "measured 2026-11-23", ...).
    """

    name: PartName
    num_bytes: int
    source: str
    only_while_starting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Predicted bytes of one replica on each device it uses."""

    parts: tuple[Part, ...]

    @property
    def rest_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts if not part.only_while_starting)

    @property
    def peak_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def part_bytes(self, name: PartName) -> int:
        return sum(part.num_bytes for part in self.parts if part.name is name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """`num_replicas` of `model`, all alike. A larger `priority` wins.

    `tensor_parallel` devices of one node for each replica; the estimate is per device.
    `path` is the key in cluster.yaml that messages point to, e.g. `models[0]`.
    `device_types` are the products it may lie on, any when empty; `cpu_millis` (thousandths of a core) and
    `host_memory_bytes` are what each replica takes of its node beside its devices. `requests_per_s` is what all
    replicas together are asked to serve; 0 means unknown. `max_offload_bytes`, per device: weights that may lie in
    the node's host memory instead, and are then read over the bus at every step.
    """

    model: str
    num_replicas: int
    priority: int
    estimate: Estimate
    tensor_parallel: int = 1
    path: str = ""
    device_types: tuple[str, ...] = ()
    cpu_millis: int = 0
    host_memory_bytes: int = 0
    requests_per_s: float = 0.0
    max_offload_bytes: int = 0
