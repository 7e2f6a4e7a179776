"""Which maintenance windows are open at a moment, and which cordons must be laid or lifted for that. No clock, no I/O.

A window is open from an opening by its schedule until `duration_s` of real time have passed, whatever clocks are set to
meanwhile (summer time). Its cordons are held in its own name, so that its end lifts nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim

from placement.health_state import Cordon, FleetHealth
from serve_app.config.settings import WindowSettings

HOLDER_PREFIX = "window:"
"""Of the names in which windows hold cordons; no person's name begins so."""


class Opening(Protocol):
    """Whatever opens by a schedule and stays open for a time."""

    @property
    def cron(self) -> str: ...

    @property
    def duration_s(self) -> float: ...

    @property
    def timezone(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lay:
    device: str
    cordon: Cordon


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    device: str
    by: str


def is_open(window: Opening, at: datetime) -> bool:
    """`at` has a time zone."""
    opened = last_opening(window, at)
    return opened is not None and at.astimezone(UTC) - opened < timedelta(seconds=window.duration_s)


def last_opening(window: Opening, at: datetime) -> datetime | None:
    """The latest not after `at`, in UTC; None when the schedule had none in fifty years."""
    just_after = at.astimezone(_zone(window.timezone)).replace(microsecond=0) + timedelta(seconds=1)
    found = next(CronSim(window.cron, just_after, reverse=True), None)
    return None if found is None else found.astimezone(UTC)


def turns(windows: Iterable[WindowSettings], fleet: FleetHealth, at: datetime) -> tuple[Lay | Lift, ...]:
    """What makes the fleet's cordons those of the windows open now; also of windows no longer in the settings."""
    opened = [window for window in windows if is_open(window, at)]
    return tuple(
        turn
        for device, record in fleet.records.items()
        for turn in _turns_of(device, record.standing.cordons, _cordons(opened, device))
    )


def strangers(windows: Iterable[WindowSettings], devices: Iterable[str]) -> tuple[str, ...]:
    """Devices and nodes that a window names and the fleet does not have, each once."""
    known = set(devices)
    nodes = {_node(device) for device in known}
    named = (name for window in windows for name in sorted((window.devices - known) | (window.nodes - nodes)))
    return tuple(dict.fromkeys(named))


def _turns_of(device: str, held: tuple[Cordon, ...], due: tuple[Cordon, ...]) -> Iterator[Lay | Lift]:
    holders = {cordon.by for cordon in due}
    yield from (Lay(device=device, cordon=cordon) for cordon in due if cordon not in held)
    for cordon in held:
        if cordon.by.startswith(HOLDER_PREFIX) and cordon.by not in holders:
            yield Lift(device=device, by=cordon.by)


def _cordons(opened: Iterable[WindowSettings], device: str) -> tuple[Cordon, ...]:
    return tuple(
        Cordon(by=f"{HOLDER_PREFIX}{window.name}", drains=window.drains)
        for window in opened
        if device in window.devices or _node(device) in window.nodes
    )


def _node(device: str) -> str:
    return device.rpartition("/")[0]


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
