"""Measured beats computed: which measurement the next plan counts with, and under which key it lies."""

from __future__ import annotations

from placement.demand import Estimate, Part, PartName
from placement.estimate import Measurement
from serve_app.fleet.measurements import measurement_of, the_larger

MIB = 2**20
ESTIMATE = Estimate(
    parts=(
        Part(name=PartName.WEIGHTS, num_bytes=100 * MIB, source="test"),
        Part(name=PartName.KV_CACHE, num_bytes=50 * MIB, source="test"),
        Part(name=PartName.CONTEXT, num_bytes=900 * MIB, source="test"),
    )
)


def measured(context_bytes: int) -> Measurement:
    return Measurement(when="2026-11-23", engine="test", context_bytes=context_bytes)


class TestSplit:
    def test_what_is_no_weights_and_no_kv_is_context(self) -> None:
        measurement = measurement_of(ESTIMATE, rest_bytes=750 * MIB, peak_bytes=800 * MIB, when="2026-11-23")
        assert measurement.context_bytes == 600 * MIB
        assert measurement.peak_extra_bytes == 50 * MIB

    def test_a_peak_below_rest_counts_as_none(self) -> None:
        measurement = measurement_of(ESTIMATE, rest_bytes=750 * MIB, peak_bytes=700 * MIB, when="2026-11-23")
        assert measurement.peak_extra_bytes == 0


class TestTheLarger:
    def test_what_an_engine_held_once_it_will_hold_again(self) -> None:
        assert the_larger(measured(7), measured(5)) == measured(7)
        assert the_larger(measured(5), measured(7)) == measured(7)
        assert the_larger(None, measured(5)) == measured(5)
