"""Sizes in human units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.sizes import size_bytes, size_text


class TestSizeBytes:
    @pytest.mark.parametrize(
        ("text", "num_bytes"),
        [("512MiB", 512 * 2**20), ("2GiB", 2**31), ("1.5 GB", 1_500_000_000), ("17B", 17), ("1kib", 1024), (42, 42)],
    )
    def test_units_are_binary_with_an_i_and_decimal_without(self, text: object, num_bytes: int) -> None:
        assert size_bytes(text) == num_bytes

    @pytest.mark.parametrize(
        "value", ["512", "MiB", "-1GiB", "1e3MiB", "1 GiB 2", "", None, 1.5, True, [1], "512M", "1PiB", "1IB"]
    )
    def test_anything_else_is_no_size(self, value: object) -> None:
        with pytest.raises(ValueError):
            size_bytes(value)

    @given(st.integers(min_value=0, max_value=2**60))
    def test_a_whole_number_is_bytes_already(self, num_bytes: int) -> None:
        assert size_bytes(num_bytes) == size_bytes(f"{num_bytes}B") == num_bytes

    @given(st.integers(min_value=1, max_value=2**15), st.sampled_from(["KiB", "MiB", "GiB"]))
    def test_what_is_printed_reads_back(self, number: int, unit: str) -> None:
        num_bytes = size_bytes(f"{number}{unit}")
        assert size_bytes(size_text(num_bytes)) == pytest.approx(num_bytes, rel=0.005)
