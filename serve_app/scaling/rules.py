"""What scaling is judged by: signals, the bands they should stay in, limits of counts, and schedules of limits. Pure.

The defaults are row B10 of the specification, figure by figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_REPLICAS: Final = 64
"""Of one target; the same bound as `models[].replicas` and `gateway.replicas`."""
_RESERVED: Final = ("gateway", "trainers")
_MODEL_PREFIX: Final = "model:"


class Kind(StrEnum):
    GATEWAY = "gateway"
    ENGINE = "engine"
    TRAINER = "trainer"


class Signal(StrEnum):
    """Ratios are 0 to 1; times are p95 in seconds."""

    CPU = "cpu"
    OVERHEAD_S = "overhead_s"
    """Time a request spends outside the engines."""
    QUEUE = "queue"
    """Requests of the model that wait for an engine."""
    COMPUTE = "compute"
    """Of the devices that the model runs on."""
    QUEUED_JOBS = "queued_jobs"
    MEMORY = "memory"
    FIRST_TOKEN_S = "first_token_s"  # noqa: S105  # a signal's name, no password


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is scaled. `model` is set for engines alone."""

    kind: Kind
    model: str = ""

    @property
    def name(self) -> str:
        """As people write it: `gateway`, `trainers`, or the model's id."""
        match self.kind:
            case Kind.GATEWAY:
                return "gateway"
            case Kind.TRAINER:
                return "trainers"
            case Kind.ENGINE:
                return f"{_MODEL_PREFIX}{self.model}" if self.model in _RESERVED else self.model


def target_named(name: str) -> Target:
    """The inverse of `Target.name`; any other word is taken for a model, which may not exist."""
    if name == "gateway":
        return Target(kind=Kind.GATEWAY)
    if name == "trainers":
        return Target(kind=Kind.TRAINER)
    return Target(kind=Kind.ENGINE, model=name.removeprefix(_MODEL_PREFIX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A signal should stay between `down` and `up`; outside for the hold time, the count changes. None: no such end."""

    signal: Signal
    up: float | None = None
    up_hold_s: float = 300.0
    down: float | None = None
    down_hold_s: float = 1200.0

    def is_beyond(self, direction: Direction, value: float) -> bool:
        """Strictly: the bound itself is inside. NaN is never beyond."""
        if direction is Direction.UP:
            return self.up is not None and value > self.up
        return self.down is not None and value < self.down

    def bound(self, direction: Direction) -> float | None:
        return self.up if direction is Direction.UP else self.down

    def hold_s(self, direction: Direction) -> float:
        return self.up_hold_s if direction is Direction.UP else self.down_hold_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Fewest and most; None leaves it at the count the configuration names. 0: may end altogether (sleep)."""

    min_replicas: int | None = None
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """While open, these limits replace those of `target` where they are not None."""

    name: str
    target: str
    """`Target.name`."""
    cron: str
    duration_s: float
    timezone: str
    limits: Limits


GATEWAY_BANDS: Final = (
    Band(signal=Signal.CPU, up=0.70, up_hold_s=180, down=0.30, down_hold_s=600),
    Band(signal=Signal.OVERHEAD_S, up=2.0, up_hold_s=300, down=0.5, down_hold_s=900),
    Band(signal=Signal.MEMORY),
)
ENGINE_BANDS: Final = (
    Band(signal=Signal.QUEUE, up=50, up_hold_s=120, down=10, down_hold_s=900),
    Band(signal=Signal.COMPUTE, up=0.85, up_hold_s=300, down=0.40, down_hold_s=1200),
    Band(signal=Signal.MEMORY),
    Band(signal=Signal.FIRST_TOKEN_S),
)
TRAINER_BANDS: Final = (Band(signal=Signal.QUEUED_JOBS, up=20, up_hold_s=600, down=5, down_hold_s=1800),)
"""Source of all three: specification, row B10. Memory and time to first token are optional: no bounds of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSettings:
    """`limits` is by `Target.name`; a target without an entry keeps its configured count."""

    bands: Mapping[Kind, tuple[Band, ...]] = field(
        default_factory=lambda: {Kind.GATEWAY: GATEWAY_BANDS, Kind.ENGINE: ENGINE_BANDS, Kind.TRAINER: TRAINER_BANDS}
    )
    limits: Mapping[str, Limits] = field(default_factory=dict)
    schedules: tuple[Schedule, ...] = ()
    cooldown_s: float = 180.0
    """Between two changes of one target. Below 5 minutes, so that it alone never makes scaling late."""
    retry_s: float = 60.0
    """Between two tries of a change that was blocked or failed."""
