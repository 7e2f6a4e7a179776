"""The memory of this host as a device that is polled: memory within its control groups, processors, temperature.

Who holds what on a host is measured by the wardens (proportional set size), not here: `processes` stays empty.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Protocol

import psutil

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals
from serve_app.fleet.host_memory import HostMemory, read_host_memory

THROTTLED_BY_CRITICAL = ("coretemp", "k10temp")
"""Drivers whose `crit` is the temperature at which the processor slows itself down.

Source: kernel docs hwmon/coretemp (TjMax) and hwmon/k10temp (HTC). With others it may mean anything up to power off.
"""


class Sensor(Protocol):
    """One reading as `psutil.sensors_temperatures` gives it, in °C; None where the driver states no limit."""

    @property
    def current(self) -> float: ...
    @property
    def critical(self) -> float | None: ...


class HostWatch:
    """Polls the host. `total_bytes` narrows its memory to what we may plan with; None takes all of it."""

    def __init__(self, node: str, *, total_bytes: int | None = None) -> None:
        self._node = node
        self._total_bytes = total_bytes
        self._has_polled = False

    def poll(self) -> tuple[DeviceSignals]:
        busy = psutil.cpu_percent() / 100
        utilization = busy if self._has_polled else None  # psutil counts from the call before; the first means nothing
        self._has_polled = True
        temperatures = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        hottest = hottest_processor(temperatures)
        signals = host_signals(
            read_host_memory(),
            self._node,
            total_bytes=self._total_bytes,
            utilization=utilization,
            temperature_c=hottest.current if hottest else None,
            slowdown_c=hottest.critical if hottest else None,
        )
        return (signals,)


def host_signals(
    memory: HostMemory,
    node: str,
    *,
    total_bytes: int | None = None,
    utilization: float | None = None,
    temperature_c: float | None = None,
    slowdown_c: float | None = None,
) -> DeviceSignals:
    """Of `total_bytes`, whatever cannot be had is used; so the rest is what new processes can really take."""
    total = min(total_bytes or memory.total_bytes, memory.total_bytes)
    return DeviceSignals(
        device=f"{node}/host",
        uuid=f"{node}/host",
        kind=DeviceKind.HOST,
        product=f"host memory ({platform.machine()})",
        total_bytes=total,
        used_bytes=max(0, total - memory.available_bytes),
        utilization=utilization,
        temperature_c=temperature_c,
        slowdown_c=slowdown_c,
    )


def hottest_processor(sensors: Mapping[str, Iterable[Sensor]]) -> Sensor | None:
    """The sensor nearest to its limit, of those whose limit is the one where the processor slows itself down."""
    stated = [
        (sensor.critical - sensor.current, sensor)
        for driver in THROTTLED_BY_CRITICAL
        for sensor in sensors.get(driver, ())
        if sensor.critical
    ]
    return min(stated, key=lambda pair: pair[0])[1] if stated else None
