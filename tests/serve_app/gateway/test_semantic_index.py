"""The index of questions: the nearest of one group, within its bounds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.embedding import Vector
from serve_app.gateway.semantic_index import MAX_GROUP_ENTRIES, SemanticIndex
from tests.serve_app.gateway.test_cache import key

NUM_DIMS = 8
BOUND_BYTES = 16 * 1024

steps = st.lists(
    st.tuples(st.sampled_from(["put", "discard", "used", "ask"]), st.integers(0, 30), st.integers(0, 3)), max_size=80
)


def vector(*numbers: float) -> Vector:
    raw = np.zeros(NUM_DIMS, dtype=np.float32)
    raw[: len(numbers)] = numbers
    found: Vector = raw / np.linalg.norm(raw)
    return found


def index(max_bytes: int = 2**20) -> SemanticIndex:
    return SemanticIndex(num_dims=NUM_DIMS, max_bytes=max_bytes)


class TestTheIndex:
    def test_gives_the_nearest_first_and_none_below_the_threshold(self) -> None:
        known = index()
        for number, slope in enumerate((0.0, 0.1, 0.3, 5.0)):
            known.put(b"g", key(number), vector(1, slope))
        found = known.nearest(b"g", vector(1), at_least=0.9, most=2)
        assert [name for name, _ in found] == [key(0), key(1)]
        assert [name for name, _ in known.nearest(b"g", vector(1), at_least=0.9, most=9)] == [key(0), key(1), key(2)]

    def test_never_looks_into_another_group(self) -> None:
        known = index()
        known.put(b"one", key(1), vector(1))
        assert known.nearest(b"other", vector(1), at_least=0.0, most=9) == ()

    def test_keeps_of_one_group_what_was_used_last(self) -> None:
        known = index(2**30)
        for number in range(MAX_GROUP_ENTRIES):
            known.put(b"g", key(number), vector(1))
        known.used(key(0))
        known.put(b"g", key(MAX_GROUP_ENTRIES), vector(1))
        names = {name for name, _ in known.nearest(b"g", vector(1), at_least=0.0, most=MAX_GROUP_ENTRIES + 1)}
        assert len(names) == MAX_GROUP_ENTRIES
        assert key(0) in names
        assert key(1) not in names

    @given(steps)
    def test_holds_what_a_plain_list_would_within_its_bytes(self, steps: list[tuple[str, int, int]]) -> None:
        known = index(BOUND_BYTES)
        groups: dict[bytes, bytes] = {}
        for what, number, group in steps:
            name = bytes([group])
            if what == "put":
                known.put(name, key(number), vector(1, number))
                groups[key(number)] = name
            elif what == "discard":
                known.discard(key(number))
                groups.pop(key(number), None)
            elif what == "used":
                known.used(key(number))
            else:
                found = known.nearest(name, vector(1, number), at_least=0.9999, most=99)
                assert all(groups[one] == name for one, _ in found)
            assert known.num_bytes <= BOUND_BYTES
            assert known.num_entries <= len(groups)
        held = {one for group in range(4) for one, _ in known.nearest(bytes([group]), vector(1), at_least=-1, most=99)}
        assert len(held) == known.num_entries
        for one in held:
            known.discard(one)
        assert known.num_bytes == 0
