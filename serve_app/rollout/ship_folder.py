"""Bytes of a checkpoint that this process can see: the same machine, or a shared disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serve_app.rollout.ship_open import Stamp, opened, stamp_of
from serve_app.rollout.ship_parcel import refused
from serve_app.rollout.ship_pump import Readable


class FolderSource:
    """`stamps` are those of its files when it was packed; one that has another now is refused."""

    def __init__(self, path: Path, stamps: Mapping[str, Stamp]) -> None:
        self._path = path
        self._stamps = stamps

    @contextmanager
    def read(self, name: str, offset: int) -> Iterator[Readable]:
        with opened(self._path, name) as file:
            self._check(name, stamp_of(file))
            os.posix_fadvise(file.fileno(), offset, 0, os.POSIX_FADV_SEQUENTIAL)
            file.seek(offset)
            yield file
            self._check(name, stamp_of(file))

    def _check(self, name: str, stamp: Stamp) -> None:
        if stamp != self._stamps.get(name):
            raise refused(f"{name} of {self._path} was changed while it was copied")
