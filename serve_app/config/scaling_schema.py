"""What cluster.yaml may say of scaling. The figures of row B10 are those of `serve_app.scaling.rules`."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.health_schema import DAY_S, Cron, TimeZone
from serve_app.config.schema_types import EXPECTED, Name
from serve_app.config.section import Section
from serve_app.scaling.rules import (
    ENGINE_BANDS,
    GATEWAY_BANDS,
    MAX_REPLICAS,
    TRAINER_BANDS,
    Band,
    ScalingSettings,
    Signal,
)

MAX_SCHEDULES = 100
_DEFAULT = ScalingSettings()


class BandSection(Section):
    up: float | None = Field(None, ge=0.0, le=1e9, description="One more when above this; null never.")
    up_hold_s: float = Field(
        300.0, ge=0.0, le=DAY_S, description="How long it must be above, without a break, in seconds."
    )
    down: float | None = Field(
        None, ge=0.0, le=1e9, description="One fewer when below this and nothing is above its `up`; null never."
    )
    down_hold_s: float = Field(
        1200.0, ge=0.0, le=DAY_S, description="How long it must be below, without a break, in seconds."
    )


class LimitsSection(Section):
    min_replicas: int | None = Field(
        None, ge=0, le=MAX_REPLICAS, description="Fewest; null keeps the configured number, 0 lets a model sleep."
    )
    max_replicas: int | None = Field(None, ge=1, le=MAX_REPLICAS, description="Most; null keeps the configured number.")


def _band(bands: tuple[Band, ...], signal: Signal) -> BandSection:
    band = next(one for one in bands if one.signal is signal)
    return BandSection(up=band.up, up_hold_s=band.up_hold_s, down=band.down, down_hold_s=band.down_hold_s)


def _band_field(bands: tuple[Band, ...], signal: Signal, description: str) -> BandSection:
    """What a file leaves out of one band is taken from the built-in one by `convert`, not from `BandSection`."""
    field: BandSection = Field(default_factory=lambda: _band(bands, signal), description=description)
    return field


class GatewayScaling(Section):
    limits: LimitsSection = Field(default_factory=LimitsSection, description="Between how many it may move.")
    cpu: BandSection = _band_field(GATEWAY_BANDS, Signal.CPU, "Part of its cores that a gateway replica uses, 0 to 1.")
    overhead_s: BandSection = _band_field(
        GATEWAY_BANDS, Signal.OVERHEAD_S, "Time that 95 % of requests spend outside the engines at most, in seconds."
    )
    memory: BandSection = _band_field(GATEWAY_BANDS, Signal.MEMORY, "Part of its memory in use, 0 to 1.")


class EngineScaling(Section):
    limits: dict[Name, LimitsSection] = Field(
        default_factory=dict,
        description="Between how many each model may move, e.g. {mini: {min_replicas: 1, max_replicas: 4}}.",
    )
    queue: BandSection = _band_field(ENGINE_BANDS, Signal.QUEUE, "Requests of a model that wait for an engine.")
    compute: BandSection = _band_field(ENGINE_BANDS, Signal.COMPUTE, "Use of the devices a model runs on, 0 to 1.")
    memory: BandSection = _band_field(ENGINE_BANDS, Signal.MEMORY, "Part of the KV cache in use, 0 to 1.")
    first_token_s: BandSection = _band_field(
        ENGINE_BANDS, Signal.FIRST_TOKEN_S, "Time to first token of 95 % of requests at most, in seconds."
    )


class TrainerScaling(Section):
    limits: LimitsSection = Field(default_factory=LimitsSection, description="Between how many it may move.")
    queued_jobs: BandSection = _band_field(TRAINER_BANDS, Signal.QUEUED_JOBS, "Training jobs that wait.")


class ScheduleSection(LimitsSection):
    name: Name = Field(description="Name of the window, shown where its limits hold.")
    target: str = Field(
        min_length=1,
        max_length=80,
        description="gateway, trainers, or a model id.",
        json_schema_extra={EXPECTED: "gateway, trainers, or a model id"},
    )
    cron: Cron = Field(description="When it opens, e.g. '0 22 * * *'.")
    duration_s: float = Field(ge=60.0, le=7 * DAY_S, description="How long it stays open, in seconds.")
    timezone: TimeZone = Field("UTC", description="Time zone of the schedule.")


class ScalingSection(Section):
    cooldown_s: float = Field(
        _DEFAULT.cooldown_s, ge=0.0, le=DAY_S, description="Least time between two changes of one target, in seconds."
    )
    retry_s: float = Field(
        _DEFAULT.retry_s,
        ge=5.0,
        le=DAY_S,
        description="Rest before a change that was blocked is tried again, in seconds.",
    )
    gateway: GatewayScaling = Field(default_factory=GatewayScaling, description="Gateway replicas.")
    engines: EngineScaling = Field(default_factory=EngineScaling, description="Engines of each model.")
    trainers: TrainerScaling = Field(default_factory=TrainerScaling, description="Training jobs that run at once.")
    schedules: list[ScheduleSection] = Field(
        default_factory=list,
        max_length=MAX_SCHEDULES,
        description=(
            "Windows with other limits, to save cost or to be ready, each {name, target, cron, duration_s, timezone, "
            "min_replicas, max_replicas}."
        ),
    )
