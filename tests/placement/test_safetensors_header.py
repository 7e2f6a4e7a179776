"""A safetensors header is believed only when everything it says can be true of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from placement.errors import BadHeader
from placement.safetensors_header import (
    header_bytes_needed,
    parse_safetensors_header,
    weights_bytes_from_headers,
)


def packed(header: Any, *, data_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def tensor(begin: int, end: int, *, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def parse(file: bytes) -> Any:
    return parse_safetensors_header(file, file_bytes=len(file))


class TestTruth:
    def test_what_the_library_writes_is_read_back(self) -> None:
        file = save({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}, metadata={"format": "pt"})
        header = parse(file)
        assert {(t.name, t.shape, t.num_bytes) for t in header.tensors} == {("a", (3, 5), 60), ("b", (7,), 14)}
        assert header.header_bytes + header.data_bytes == len(file)

    def test_the_first_eight_bytes_say_how_much_to_read(self) -> None:
        file = save({"a": np.zeros(1000, np.float32)})
        needed = header_bytes_needed(file[:8])
        assert parse_safetensors_header(file[:needed], file_bytes=len(file)) == parse(file)

    def test_weights_are_the_bytes_of_all_shards(self) -> None:
        shards = [parse(save({name: np.zeros(n, np.float32)})) for name, n in (("a", 10), ("b", 3))]
        assert weights_bytes_from_headers(shards) == 52

    def test_floats_count_in_the_width_the_engine_runs_them_in(self) -> None:
        header = parse(save({"a": np.zeros(10, np.float32), "ids": np.zeros(10, np.int64)}))
        assert weights_bytes_from_headers([header], float_bytes=2) == 20 + 80

    def test_one_tensor_in_two_shards_is_refused(self) -> None:
        header = parse(save({"a": np.zeros(10, np.float32)}))
        with pytest.raises(BadHeader, match="more than one shard"):
            weights_bytes_from_headers([header, header])


LIES = {
    "no bytes at all": b"",
    "a length without a header": (50).to_bytes(8, "little"),
    "a header longer than possible": (1 << 60).to_bytes(8, "little") + b"{}",
    "no JSON": packed(b"{{"),
    "bytes that are no text": packed(b"\xff\xfe"),
    "deep nesting": packed(b"[" * 100_000),
    "a list": packed([]),
    "one name twice": packed(b'{"a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}, "a": 1}'),
    "an unknown dtype": packed({"a": tensor(0, 4, dtype="Q4")}, data_bytes=4),
    "an unknown key": packed({"a": tensor(0, 4) | {"x": 1}}, data_bytes=4),
    "a negative offset": packed({"a": tensor(-4, 0, shape=[4])}),
    "offsets that fall": packed({"a": tensor(4, 0, shape=[4])}, data_bytes=4),
    "three offsets": packed({"a": tensor(0, 4) | {"data_offsets": [0, 4, 4]}}, data_bytes=4),
    "a true dimension": packed({"a": tensor(0, 1, shape=[True])}, data_bytes=1),
    "a shape that needs more": packed({"a": tensor(0, 4, shape=[5])}, data_bytes=4),
    "a huge shape": packed({"a": tensor(0, 4, shape=[10**18, 10**18])}, data_bytes=4),
    "more dimensions than any model has": packed({"a": tensor(0, 1, shape=[1] * 1000)}, data_bytes=1),
    "an offset beyond the file": packed({"a": tensor(0, 400)}, data_bytes=4),
    "an overlap": packed({"a": tensor(0, 4), "b": tensor(2, 6)}, data_bytes=6),
    "the same bytes twice": packed({"a": tensor(0, 4), "b": tensor(0, 4)}, data_bytes=4),
    "a gap": packed({"a": tensor(0, 4), "b": tensor(6, 8)}, data_bytes=8),
    "bytes after the last tensor": packed({"a": tensor(0, 4)}, data_bytes=5),
}


class TestLies:
    @pytest.mark.parametrize("lie", LIES)
    def test_each_lie_is_refused(self, lie: str) -> None:
        with pytest.raises(BadHeader):
            parse(LIES[lie])

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_header_or_refused(self, file: bytes) -> None:
        try:
            header = parse(file)
        except BadHeader:
            return
        assert sum(tensor.num_bytes for tensor in header.tensors) == header.data_bytes

    @given(st.integers(0, 10_000), st.integers(1, 255))
    def test_a_flipped_byte_never_makes_more_weights_than_the_file_has(self, at: int, flip: int) -> None:
        file = bytearray(save({"a": np.zeros((4, 4), np.float32), "b": np.zeros(9, np.int8)}))
        file[at % len(file)] ^= flip
        try:
            total = weights_bytes_from_headers([parse(bytes(file))])
        except BadHeader:
            return
        assert total <= len(file)

    def test_a_cut_file_is_refused(self, tmp_path: Path) -> None:
        file = save({"a": np.zeros(100, np.float32)})
        (tmp_path / "cut.safetensors").write_bytes(file[:-1])
        with pytest.raises(BadHeader, match="file holds"):
            parse((tmp_path / "cut.safetensors").read_bytes())
