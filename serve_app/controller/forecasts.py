"""What the devices' polls so far say of their future: kept per device, looked at once a while."""

from __future__ import annotations

from collections.abc import Iterable

from placement.device_history import DeviceHistory, update
from placement.forecast import Forecast, NoForecast, forecast, risk_permille, should_preempt
from placement.signals import Poll

HORIZON_S = 1800.0
HORIZON_LABEL = "30m"
_LOOK_S = 30.0
"""A trend over minutes is not another one five seconds later."""
_EMPTY_S = 900.0
"""A device that was emptied before it failed stays so for at least this long: it cools down when nothing runs."""


class Forecasts:
    """Times are seconds of the caller's monotonic clock."""

    def __init__(self) -> None:
        self._histories: dict[str, DeviceHistory] = {}
        self._found: dict[str, Forecast | NoForecast] = {}
        self._looked_s = 0.0
        self._empty_until_s: dict[str, float] = {}

    def saw(self, polls: Iterable[Poll], *, now_s: float, preempt_at: float | None) -> None:
        """`preempt_at` is the risk from which a device is to be emptied before it fails; None never."""
        for poll in polls:
            self._histories[poll.device] = update(self._histories.get(poll.device), poll, now_s)
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        for device, history in self._histories.items():
            found = self._found[device] = forecast(history, now_s=now_s, horizon_s=HORIZON_S)
            if preempt_at is not None and should_preempt(found, threshold=preempt_at):
                self._empty_until_s[device] = now_s + _EMPTY_S

    def to_empty(self, *, now_s: float) -> frozenset[str]:
        """Devices that are likely to fail soon, where that was asked for."""
        return frozenset(device for device, until_s in self._empty_until_s.items() if now_s < until_s)

    @property
    def risk_permille(self) -> dict[str, int]:
        return {device: risk_permille(found) for device, found in self._found.items()}

    def row(self, device: str) -> str:
        """For a table; empty while nothing can be said."""
        found = self._found.get(device)
        return found.row if isinstance(found, Forecast) else ""

    def advice(self, device: str) -> str:
        """A sentence, where there is something to do."""
        found = self._found.get(device)
        return found.advice if isinstance(found, Forecast) and found.risk >= 0.5 else ""

    def risk(self, device: str) -> tuple[tuple[str, float], ...]:
        """Horizon and risk, for metrics."""
        found = self._found.get(device)
        return ((HORIZON_LABEL, found.risk),) if isinstance(found, Forecast) else ()
