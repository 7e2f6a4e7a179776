"""Polls of one device in one line each: `signals(temperature_c=75)`, `history([(0, signals()), ...])`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from placement.device_history import DeviceHistory, update
from placement.forecast import Forecast, forecast
from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll, Silence

DEVICE = "GPU-0"


def signals(**values: Any) -> DeviceSignals:
    """A healthy, busy device but for what is named."""
    healthy: dict[str, Any] = {
        "temperature_c": 60.0, "slowdown_c": 85.0, "power_w": 300.0, "power_limit_w": 400.0, "utilization": 0.9,
        "ecc_corrected": 0, "pcie_replays": 0,
    }  # fmt: skip
    return DeviceSignals(
        device=DEVICE, uuid="GPU-u", kind=DeviceKind.CUDA, product="NVIDIA Test", total_bytes=1, used_bytes=0,
        **(healthy | values),
    )  # fmt: skip


def silence() -> Silence:
    return Silence(device=DEVICE, reason="deadline")


def history(polls: Iterable[tuple[float, Poll]]) -> DeviceHistory:
    found: DeviceHistory | None = None
    for time_s, poll in polls:
        found = update(found, poll, time_s)
    assert found is not None
    return found


def every(step_s: float, *, until_s: float, poll: Callable[[float], Poll]) -> DeviceHistory:
    """One poll each `step_s` from 0 to `until_s`, made by its time."""
    return history((index * step_s, poll(index * step_s)) for index in range(int(until_s // step_s) + 1))


def told(found: DeviceHistory, *, now_s: float | None = None, horizon_s: float = 1800.0) -> Forecast:
    """The forecast at the last poll, which must be one."""
    answer = forecast(found, now_s=found.last_s if now_s is None else now_s, horizon_s=horizon_s)
    assert isinstance(answer, Forecast), answer
    return answer
