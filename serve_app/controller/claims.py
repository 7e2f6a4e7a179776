"""Values that pass between the controller and those who ask it: replicas, gateways, the command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from placement.inventory import DeviceKind
from serve_app.engines.fingerprint import Fingerprint
from serve_app.engines.spec import EngineArguments
from serve_app.fleet.groups import Seat
from serve_app.fleet.measurements import HeldBytes
from tracing.metrics import Delta


class SlotState(StrEnum):
    FREE = "free"
    CLAIMED = "claimed"
    """A replica has it and prepares: imports, reads files. It may not take device memory yet."""
    STARTING = "starting"
    """The one replica that starts on these devices now."""
    READY = "ready"
    DRAINING = "draining"
    """Gets no new requests; ends when those it has are answered."""
    REAPING = "reaping"
    """Its replica died; what it left behind is being ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One checkpoint as served. `version` is the first 12 hex digits of its digest."""

    path: Path
    version: str
    step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One planned replica: the place a starting Serve replica may claim, and everything that runs there.

    `replica` is its name in the plan; `name` differs from it while an engine that runs and the one that follows it
    have the same. `share_bytes` is held at rest and while starting; `peak_bytes` is what starting may reach. Both
    per device.
    """

    name: str
    replica: str
    model: str
    deployment: str
    node: str
    seats: tuple[Seat, ...]
    device_kind: DeviceKind
    device_uuids: tuple[str, ...]
    share_bytes: int
    peak_bytes: int
    kv_cache_bytes: int
    arguments: EngineArguments
    weights: Weights
    port: int | None = None
    """Where its engine listens, if it is free; None: anywhere."""
    is_candidate: bool = False
    """Stands beside the plan with the weights of a rollout; not among those that a switch is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Permission for one replica to use one slot. `epoch` rises for ever; an older one is refused everywhere."""

    slot: Slot
    epoch: int
    internal_secret: str
    expected: Fingerprint | None = None
    """What its engine must say before it may serve; None: nobody knows yet."""


class Told(StrEnum):
    """What a replica hears when it says that it lives."""

    GO_ON = "go on"
    RETIRE = "retire"
    """Answer what is in flight, then end."""
    FENCED = "fenced"
    """The claim is gone: end at once."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """No slot yet, and why; ask again."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyReport:
    """What a replica says when it can serve. Bytes are per device, measured at rest and at the highest."""

    url: str
    load_s: float
    measured_bytes: int
    peak_bytes: int
    held: HeldBytes | None = None
    """What the engine finds that it holds; None where it does not look."""
    weights_version: str | None = None
    """Of the weights that it has; None: those of the slot when it was claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Metrics of one process. Each report is numbered, so that a repeated push counts once."""

    deltas: tuple[Delta, ...]
