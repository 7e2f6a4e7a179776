"""What a device's polls say of its future, and when it is emptied for that."""

from __future__ import annotations

from collections.abc import Iterator

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll, Silence
from serve_app.controller.forecasts import Forecasts

POLL_S = 5.0


def poll(temperature_c: float) -> DeviceSignals:
    return DeviceSignals(
        device="n/gpu-0",
        uuid="GPU-0",
        kind=DeviceKind.CUDA,
        product="test",
        total_bytes=100,
        used_bytes=10,
        temperature_c=temperature_c,
        slowdown_c=85.0,
        power_w=100.0,
        power_limit_w=400.0,
    )


def seen(polls: Iterator[Poll], *, preempt_at: float | None = 0.8) -> tuple[Forecasts, float]:
    """The forecasts after these polls, five seconds apart, and when the last one was."""
    forecasts, now_s = Forecasts(), 0.0
    for one in polls:
        now_s += POLL_S
        forecasts.saw([one], now_s=now_s, preempt_at=preempt_at)
    return forecasts, now_s


def rising(minutes: int) -> Iterator[Poll]:
    return (poll(60 + number * POLL_S / 60) for number in range(int(minutes * 60 / POLL_S)))


def steady(minutes: int) -> Iterator[Poll]:
    return (poll(60) for _ in range(int(minutes * 60 / POLL_S)))


class TestForecasts:
    def test_a_device_on_its_way_to_its_limit_has_risk_a_row_and_advice(self) -> None:
        forecasts, _ = seen(rising(20))
        assert forecasts.risk_permille["n/gpu-0"] > 800
        assert "85 °C" in forecasts.row("n/gpu-0")
        assert "°C/min" in forecasts.advice("n/gpu-0")

    def test_a_steady_one_has_hardly_any_and_no_advice(self) -> None:
        forecasts, now_s = seen(steady(20))
        assert forecasts.risk_permille["n/gpu-0"] < 100
        assert forecasts.advice("n/gpu-0") == ""
        assert not forecasts.to_empty(now_s=now_s)

    def test_it_is_emptied_where_that_was_asked_for(self) -> None:
        forecasts, now_s = seen(rising(20))
        assert forecasts.to_empty(now_s=now_s) == {"n/gpu-0"}

    def test_it_is_not_where_it_was_not(self) -> None:
        forecasts, now_s = seen(rising(20), preempt_at=None)
        assert not forecasts.to_empty(now_s=now_s)

    def test_it_stays_empty_for_a_while_though_it_cools_down(self) -> None:
        forecasts, now_s = seen(rising(20))
        assert forecasts.to_empty(now_s=now_s + 600)
        assert not forecasts.to_empty(now_s=now_s + 1000)

    def test_a_device_that_fell_silent_is_at_risk(self) -> None:
        silence = [Silence(device="n/gpu-0", reason="gone")] * 12
        forecasts, _ = seen(iter([*steady(10), *silence]))
        assert forecasts.risk_permille["n/gpu-0"] > 800

    def test_nothing_is_said_of_a_device_nobody_polled(self) -> None:
        assert Forecasts().row("n/gpu-0") == ""
        assert Forecasts().risk("n/gpu-0") == ()
