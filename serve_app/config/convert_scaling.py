"""From the sections on scaling to the settings of its policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serve_app.config.scaling_schema import BandSection, LimitsSection, ScalingSection, ScheduleSection
from serve_app.config.section import Section
from serve_app.scaling.rules import (
    ENGINE_BANDS,
    GATEWAY_BANDS,
    TRAINER_BANDS,
    Band,
    Kind,
    Limits,
    ScalingSettings,
    Schedule,
    Target,
    target_named,
)


def scaling_settings(section: ScalingSection) -> ScalingSettings:
    engines = {
        Target(kind=Kind.ENGINE, model=model).name: _limits(limits) for model, limits in section.engines.limits.items()
    }
    return ScalingSettings(
        bands={
            Kind.GATEWAY: _bands(section.gateway, GATEWAY_BANDS),
            Kind.ENGINE: _bands(section.engines, ENGINE_BANDS),
            Kind.TRAINER: _bands(section.trainers, TRAINER_BANDS),
        },
        limits={
            Target(kind=Kind.GATEWAY).name: _limits(section.gateway.limits),
            Target(kind=Kind.TRAINER).name: _limits(section.trainers.limits),
            **engines,
        },
        schedules=tuple(_schedule(schedule) for schedule in section.schedules),
        cooldown_s=section.cooldown_s,
        retry_s=section.retry_s,
    )


def _bands(section: Section, defaults: Iterable[Band]) -> tuple[Band, ...]:
    """What the file says of a band; what it leaves out is the built-in figure."""
    return tuple(_band(band, getattr(section, band.signal.value)) for band in defaults)


def _band(default: Band, section: BandSection) -> Band:
    return replace(default, **{name: getattr(section, name) for name in section.model_fields_set})


def _limits(section: LimitsSection) -> Limits:
    return Limits(min_replicas=section.min_replicas, max_replicas=section.max_replicas)


def _schedule(section: ScheduleSection) -> Schedule:
    return Schedule(
        name=section.name,
        target=target_named(section.target).name,
        cron=section.cron,
        duration_s=section.duration_s,
        timezone=section.timezone,
        limits=_limits(section),
    )
