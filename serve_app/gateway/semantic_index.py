"""Vectors of stored questions by group, and the nearest of them. Bounded by bytes; the least recently used leave first.

A plain scan of one group's matrix. Points at stored answers by their key and knows neither answers nor texts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np

from serve_app.gateway.embedding import Vector

ENTRY_OVERHEAD_BYTES: Final = 512
"""Charged for each entry beside its vector: keys, and their places in two maps and a list."""
_GROUP_OVERHEAD_BYTES: Final = 512
MAX_GROUP_ENTRIES: Final = 2048
"""Every look-up scans its group, on the event loop: of more the least recently used leave."""


class _Group:
    """Rows of a matrix that doubles as it fills; the last row takes the place of one that leaves."""

    __slots__ = ("keys", "matrix", "rows")

    def __init__(self, num_dims: int) -> None:
        self.matrix = np.empty((1, num_dims), dtype=np.float32)
        self.keys: list[bytes] = []
        self.rows: OrderedDict[bytes, int] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        return self.matrix.nbytes + len(self.keys) * ENTRY_OVERHEAD_BYTES + _GROUP_OVERHEAD_BYTES

    def put(self, key: bytes, vector: Vector) -> None:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = len(self.keys)
            self.keys.append(key)
            if row == len(self.matrix):
                self._resize(2 * row)
        self.matrix[row] = vector

    def remove(self, key: bytes) -> None:
        row, last = self.rows.pop(key), self.keys.pop()
        if last != key:
            self.matrix[row] = self.matrix[len(self.keys)]
            self.keys[row] = last
            self.rows[last] = row
        if 4 * len(self.keys) < len(self.matrix):
            self._resize(len(self.matrix) // 2)

    def _resize(self, num_rows: int) -> None:
        matrix = np.empty((num_rows, self.matrix.shape[1]), dtype=np.float32)
        kept = min(len(self.matrix), num_rows)
        matrix[:kept] = self.matrix[:kept]
        self.matrix = matrix


class SemanticIndex:
    """`vectors` have length 1 and `num_dims` numbers."""

    def __init__(self, *, num_dims: int, max_bytes: int) -> None:
        self._num_dims = num_dims
        self._max_bytes = max_bytes
        self._groups: dict[bytes, _Group] = {}
        self._used: OrderedDict[bytes, bytes] = OrderedDict()
        self.num_bytes = 0

    @property
    def num_entries(self) -> int:
        return len(self._used)

    def nearest(self, group: bytes, vector: Vector, *, at_least: float, most: int) -> tuple[tuple[bytes, float], ...]:
        """Keys with their cosines, the most similar first."""
        known = self._groups.get(group)
        if known is None:
            return ()
        cosines = known.matrix[: len(known.keys)] @ vector
        rows = np.flatnonzero(cosines >= at_least)
        best = rows[np.argsort(-cosines[rows], kind="stable")[:most]]
        return tuple((known.keys[row], min(1.0, float(cosines[row]))) for row in best)

    def put(self, group: bytes, key: bytes, vector: Vector) -> None:
        """Replaces what was there under the key. Nothing is kept that the bound has no room for."""
        self.discard(key)
        known = self._groups.setdefault(group, _Group(self._num_dims))
        before = known.num_bytes if known.keys else 0
        known.put(key, vector)
        self.num_bytes += known.num_bytes - before
        self._used[key] = group
        if len(known.keys) > MAX_GROUP_ENTRIES:
            self.discard(next(iter(known.rows)))
        while self.num_bytes > self._max_bytes:
            self.discard(next(iter(self._used)))

    def used(self, key: bytes) -> None:
        group = self._used.get(key)
        if group is not None:
            self._used.move_to_end(key)
            self._groups[group].rows.move_to_end(key)

    def discard(self, key: bytes) -> None:
        name = self._used.pop(key, None)
        if name is None:
            return
        group = self._groups[name]
        before = group.num_bytes
        group.remove(key)
        if group.keys:
            self.num_bytes += group.num_bytes - before
        else:
            del self._groups[name]
            self.num_bytes -= before

    def clear(self) -> None:
        self._groups.clear()
        self._used.clear()
        self.num_bytes = 0
