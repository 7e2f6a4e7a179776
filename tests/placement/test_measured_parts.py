"""Estimate against measurement: which part was off, and by how much."""

from __future__ import annotations

from typing import Any

import pytest

from placement.demand import Estimate, Part, PartName
from placement.estimate import Measurement
from placement.measured_parts import MeasuredPart, measured_parts

ESTIMATE = Estimate(
    parts=(
        Part(name=PartName.WEIGHTS, num_bytes=100, source="test"),
        Part(name=PartName.KV_CACHE, num_bytes=50, source="test"),
        Part(name=PartName.ACTIVATION, num_bytes=20, source="test"),
        Part(name=PartName.CONTEXT, num_bytes=80, source="test"),
        Part(name=PartName.LOADING, num_bytes=100, source="test", only_while_starting=True),
    )
)


def seen(**facts: Any) -> dict[str, int | None]:
    measured = Measurement(when="2026-11-24", engine="test", **facts)
    return {part.name: part.measured_bytes for part in measured_parts(ESTIMATE, measured)}


class TestMeasuredParts:
    def test_every_part_has_what_the_engine_said_and_what_the_device_showed(self) -> None:
        facts = seen(engine_weights_bytes=104, kv_cache_bytes=48, rest_bytes=300, peak_bytes=340)
        assert facts == {
            "weights": 104,
            "KV cache": 48,
            "activation, graphs, context": 300 - 104 - 48,
            "at rest": 300,
            "peak of start": 340,
        }

    def test_weights_that_no_engine_measured_count_as_estimated(self) -> None:
        facts = seen(kv_cache_bytes=48, rest_bytes=300, peak_bytes=340)
        assert facts["weights"] is None
        assert facts["activation, graphs, context"] == 300 - 100 - 48

    def test_what_was_stored_before_there_were_sums_is_still_compared(self) -> None:
        facts = seen(weights_bytes=100, activation_bytes=0, context_bytes=90, peak_extra_bytes=7)
        assert (facts["activation, graphs, context"], facts["at rest"], facts["peak of start"]) == (90, 240, 247)

    def test_estimated_bytes_are_those_of_the_estimate(self) -> None:
        parts = {
            part.name: part.estimated_bytes
            for part in measured_parts(ESTIMATE, Measurement(when="2026-11-24", engine="test"))
        }
        assert parts["activation, graphs, context"] == 100
        assert (parts["at rest"], parts["peak of start"]) == (ESTIMATE.rest_bytes, ESTIMATE.peak_bytes)


class TestError:
    @pytest.mark.parametrize(
        ("estimated", "measured", "percent"), [(110, 100, 10.0), (90, 100, -10.0), (5, None, None), (5, 0, None)]
    )
    def test_is_how_far_the_estimate_lies_from_what_was_measured(
        self, estimated: int, measured: int | None, percent: float | None
    ) -> None:
        part = MeasuredPart(name="x", estimated_bytes=estimated, measured_bytes=measured)
        assert part.error_percent == (None if percent is None else pytest.approx(percent))
