"""Run in a mount namespace of its own: a store on a tmpfs that really fills up. Prints what it found as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.errors import HeadroomError
from serve_app.rollout.content_store import ContentStore
from serve_app.rollout.ship_errors import ShipFailed
from serve_app.rollout.ship_folder import FolderSource
from serve_app.rollout.ship_parcel import pack
from serve_app.rollout.ship_pump import Readable
from tests.serve_app.rollout.parcels import made

DISK_BYTES = 4 << 20


class _FillsTheDisk:
    """The disk has room when the copy begins; somebody else takes it meanwhile."""

    def __init__(self, source: FolderSource, disk: Path) -> None:
        self._source = source
        self._disk = disk

    @contextmanager
    def read(self, name: str, offset: int) -> Iterator[Readable]:
        with self._source.read(name, offset) as readable:
            if name == "model.safetensors":
                with (self._disk / "other").open("wb") as other:
                    _fill(other.fileno())
            yield readable


def _fill(descriptor: int) -> None:
    try:
        while os.write(descriptor, bytes(1 << 16)):
            pass
    except OSError:
        return


def main(work: Path) -> None:
    disk = work / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "headroom-test", str(disk)]
    subprocess.run(mount, check=True)
    store = ContentStore(disk / "store", keep_free_bytes=0)
    old, new = (pack(made(work / "m", step=step, seed=step, num_bytes=1 << 20)) for step in (1, 2))
    store.receive(old.parcel, FolderSource(old.path, old.stamps))
    told = ""
    try:
        store.receive(new.parcel, _FillsTheDisk(FolderSource(new.path, new.stamps), disk))
    except ShipFailed as error:
        told = error.what
    store.verify(old.parcel.digest)
    (disk / "other").unlink()
    left = [path.name for path in (disk / "store" / "partial").iterdir() if path.is_dir()]
    try:
        store.receive(new.parcel, FolderSource(new.path, new.stamps))
        after = store.verify(new.parcel.digest).weights_version
    except HeadroomError as error:
        after = str(error)
    sys.stdout.write(json.dumps({"told": told, "left": left, "after": after == new.parcel.weights_version}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
