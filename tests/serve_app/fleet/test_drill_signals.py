"""Signals of a drill: laid over the real ones, named as such, and never a reason to believe that all is well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Silence, ThrottleReason
from serve_app.fleet.drill_signals import drilled

REAL = DeviceSignals(
    device="n/host", uuid="n/host", kind=DeviceKind.HOST, product="memory", total_bytes=100, used_bytes=40
)


def script(tmp_path: Path, told: object) -> Path:
    file = tmp_path / "drill.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return file


class TestDrilled:
    def test_what_the_script_says_lies_over_what_is_real(self, tmp_path: Path) -> None:
        told = {"n/host": {"temperature_c": 86.0, "ecc_uncorrected": 1, "throttle_reasons": ["hw_thermal"]}}
        (poll,) = drilled((REAL,), script(tmp_path, told))
        assert isinstance(poll, DeviceSignals)
        assert (poll.temperature_c, poll.ecc_uncorrected, poll.used_bytes) == (86.0, 1, 40)
        assert poll.throttle_reasons == frozenset({ThrottleReason.HW_THERMAL})

    def test_it_says_that_it_is_a_drill(self, tmp_path: Path) -> None:
        (poll,) = drilled((REAL,), script(tmp_path, {"n/host": {"temperature_c": 20}}))
        assert isinstance(poll, DeviceSignals)
        assert poll.product == "memory (drill)"

    def test_a_device_that_is_not_named_says_what_is_real(self, tmp_path: Path) -> None:
        assert drilled((REAL,), script(tmp_path, {"other/host": {"temperature_c": 99}})) == (REAL,)

    def test_a_device_can_fall_silent(self, tmp_path: Path) -> None:
        assert drilled((REAL,), script(tmp_path, {"n/host": {"silence": "off the bus"}})) == (
            Silence(device="n/host", reason="off the bus (drill)"),
        )

    def test_real_silence_stays(self, tmp_path: Path) -> None:
        real = Silence(device="n/host", reason="gone")
        assert drilled((real,), script(tmp_path, {"n/host": {"temperature_c": 20}})) == (real,)

    @pytest.mark.parametrize(
        "told", ["", "[]", "{", {"n/host": {"colour": "red"}}, {"n/host": {"temperature_c": "hot"}}, {"n/host": 3}]
    )
    def test_a_script_that_is_wrong_is_silence(self, tmp_path: Path, told: object) -> None:
        (poll,) = drilled((REAL,), script(tmp_path, told))
        assert isinstance(poll, Silence)

    def test_so_is_one_that_is_not_there(self, tmp_path: Path) -> None:
        (poll,) = drilled((REAL,), tmp_path / "none.json")
        assert isinstance(poll, Silence)
