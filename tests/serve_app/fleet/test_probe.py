"""A probe passes on memory that works, and fails for a reason where it does not."""

from __future__ import annotations

import pytest

from placement.inventory import DeviceKind
from serve_app.fleet import probe as module
from serve_app.fleet.probe import ProbeResult, probe


class TestProbe:
    def test_this_machines_memory_passes(self) -> None:
        assert probe(DeviceKind.HOST, "n/host", timeout_s=60) == ProbeResult(has_passed=True, reason="")

    def test_a_gpu_that_does_not_work_fails_and_says_why(self) -> None:
        result = probe(DeviceKind.CUDA, "GPU-of-nobody", timeout_s=120)
        assert not result.has_passed
        assert result.reason

    def test_one_that_takes_too_long_has_failed(self) -> None:
        result = probe(DeviceKind.HOST, "n/host", timeout_s=0.001)
        assert (result.has_passed, "did not end" in result.reason) == (False, True)

    def test_a_wrong_product_is_found(self) -> None:
        with pytest.raises(SystemExit, match="came out as 1"):
            module._compare(1, module._expected())
