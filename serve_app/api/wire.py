"""What the admin address answers, as JSON: one definition for the server that writes it and the command that reads it.

Readers pass over fields they do not know, so that an older command can ask a newer cluster.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from placement.inventory import DeviceHealth, DeviceKind


class WireModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class HolderKind(StrEnum):
    REPLICA = "replica"
    LEASED = "leased"
    JOB = "job"
    RESERVED = "reserved"
    FOREIGN = "foreign"


class HolderView(WireModel):
    """One holder of a share, or of bytes nobody planned. Bytes are per device.

    `planned_bytes` at rest, `peak_bytes` while starting; both 0 where nothing was planned. `measured_bytes` is None
    where it cannot be read. `state` is the share's own word, such as ready or starting; empty for foreign holders.
    """

    name: str
    kind: HolderKind
    planned_bytes: int
    measured_bytes: int | None
    peak_bytes: int
    state: str = ""


class DeviceView(WireModel):
    """One device as read now. `headroom_ratio` is free of total; `passes` says whether that keeps the headroom."""

    id: str
    node: str
    kind: DeviceKind
    product: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    headroom_ratio: float
    passes: bool
    health: DeviceHealth
    holders: tuple[HolderView, ...]
    cordoned: bool = False
    reasons: tuple[str, ...] = ()
    """Why it is not simply healthy, a clause each."""
    forecast: str = ""
    temperature_c: float | None = None
    slowdown_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilization: float | None = None


class FleetView(WireModel):
    """GET /admin/fleet. `source` is `machine` when no cluster answered and the command read the devices itself."""

    headroom: float
    devices: tuple[DeviceView, ...]
    strategy: str | None = None
    """Of the plan in force (row A3)."""
    source: Literal["cluster", "machine"] = "cluster"


class ModelHealth(WireModel):
    """`status` is ready, starting, failing, refused, asleep or unloaded; `reason` says why it is not ready."""

    status: str
    reason: str = ""
    num_ready: int = 0
    num_wanted: int = 0


class HealthView(WireModel):
    """GET /health. `status` is ok, degraded, starting or down."""

    status: str
    reason: str = ""
    models: dict[str, ModelHealth] = {}


class ModelInfo(WireModel):
    """One entry of GET /models/info. None where nothing is loaded, or the checkpoint does not say.

    `memory_bytes` is measured, over all replicas.
    """

    id: str
    loaded: bool
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    weights_version: str | None = None
    memory_bytes: int | None = None
    max_model_len: int | None = None
    resting: str | None = None
    """`asleep` or `unloaded`."""
    pinned: bool = False
    idle_s: float = 0.0


class ModelsInfoView(WireModel):
    models: tuple[ModelInfo, ...]


class ApplyRequest(BaseModel):
    """POST /admin/apply: what cluster.yaml says below `args`, and the directory where its relative paths start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    args: dict[str, Any]
    config_dir: str
    dry_run: bool = False


class ApplyOutcome(StrEnum):
    PROPOSED = "proposed"
    """A dry run: this would be done."""
    ACCEPTED = "accepted"
    """Under way; `GET /admin/apply` says how far."""
    REFUSED = "refused"
    INVALID = "invalid"
    BUSY = "busy"


class ApplyAnswer(WireModel):
    """`plan`, `inventory` and `steps` are values of `placement` as its codec writes them."""

    outcome: ApplyOutcome
    message: str
    plan: dict[str, Any] | None = None
    inventory: dict[str, Any] | None = None
    steps: dict[str, Any] | None = None
    resting: dict[str, str] = {}
    """Models that do not run afterwards although the file names them, and why."""
    giving_way: dict[str, str] = {}
    """Running jobs that go back to their queue first, and why."""


class TtlView(WireModel):
    """POST /admin/cache/ttl. `source` is configured, raised or pinned."""

    mode: str
    ttl_seconds: float
    source: str


class ApplyProgress(WireModel):
    """GET /admin/apply. `status` is none, applying, done or failed."""

    status: str
    done: int
    num_batches: int
    doing: str
    message: str


class ModelAction(StrEnum):
    """POST /models/<action>, with the model's id in the body."""

    LOAD = "load"
    UNLOAD = "unload"
    """Away until somebody loads it."""
    SLEEP = "sleep"
    """Away until the next request for it."""
    WAKE = "wake"
    PIN = "pin"
    """Never put to sleep to make room."""
    UNPIN = "unpin"


class ModelRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str


class ModelOutcome(StrEnum):
    DONE = "done"
    ACCEPTED = "accepted"
    """Under way; `GET /models/info` says how far."""
    REFUSED = "refused"
    UNKNOWN = "unknown"
    BUSY = "busy"


class ModelAnswer(WireModel):
    outcome: ModelOutcome
    message: str


class RouteAsked(BaseModel):
    """POST /admin/route/explain: a request's body, and what its headers would say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request: dict[str, Any]
    mode: str | None = None
    weights_version: str | None = None
    downshift: bool = True


class RouteStep(WireModel):
    """`why_not` is None where the model is well."""

    mode: str
    model: str
    why_not: str | None


class RouteReplica(WireModel):
    """`rank` counts from 0, None: would not be asked; `passed_over` says why it is not the first."""

    replica: str
    deployment: str
    rank: int | None
    in_flight: int
    max_num_seqs: int
    breaker: str
    passed_over: str | None


class RouteView(WireModel):
    """Where a request would go now. `steps` are its model and those below, `replicas` are of the first step."""

    model: str
    outcome: str
    mode: str = ""
    weights_version: str = ""
    cache: str = ""
    steps: tuple[RouteStep, ...] = ()
    replicas: tuple[RouteReplica, ...] = ()


class AlertView(WireModel):
    """One entry of GET /v1/alerts. Times in seconds since 1970, None: not yet.

    `device` empty: the whole fleet; `model:<id>`: it is of a model.
    """

    id: int
    rule: str
    device: str
    severity: str
    action: str
    dry_run: bool
    message: str
    fired_at_s: float
    acted_at_s: float | None
    cleared_at_s: float | None


class AlertsView(WireModel):
    """Newest first. `next` is the `before` of the next page, None at the end."""

    alerts: tuple[AlertView, ...]
    next: int | None = None


class StandingView(WireModel):
    device: str
    health: str
    cordoned: bool
    reasons: tuple[str, ...] = ()


class CordonAnswer(WireModel):
    """POST /admin/cordon, /admin/drain, /admin/uncordon: the devices concerned, as they stand now."""

    devices: tuple[StandingView, ...]


class ObjectiveView(WireModel):
    """What is promised: `target` of all must be good, 0 to 1. `within_s` is None where time does not decide."""

    name: str
    target: float
    window_s: float
    within_s: float | None = None


class BurnView(WireModel):
    """One entry of GET /v1/objectives; figures as `placement.objectives.Burn` has them."""

    objective: ObjectiveView
    num_good: int
    num_total: int
    budget_left: float
    long_rate: float | None
    short_rate: float | None
    is_burning: bool


class ObjectivesView(WireModel):
    objectives: tuple[BurnView, ...]
