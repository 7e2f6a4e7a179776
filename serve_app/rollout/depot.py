"""One node's end of shipping: packs and offers what lies here, receives, keeps and verifies what comes.

Every method blocks and is safe in several threads. Knows no Ray: `depot_actor.py` puts it into an actor.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serve_app.errors import CheckpointRefused
from serve_app.rollout.content_store import KEEP_FREE_BYTES, ContentStore, Received
from serve_app.rollout.content_store_care import Stored
from serve_app.rollout.depot_fetch import StreamSource
from serve_app.rollout.depot_server import DepotServer, Offer
from serve_app.rollout.ship_folder import FolderSource
from serve_app.rollout.ship_parcel import Packed, pack, sees
from serve_app.training.checkpoints import Verified


@dataclass(frozen=True, slots=True, kw_only=True)
class DepotSettings:
    """`host` is this node's address as the others reach it. Nothing outside `roots` is ever packed."""

    node: str
    home: Path
    roots: Sequence[Path]
    host: str = "127.0.0.1"
    keep_free_bytes: int = KEEP_FREE_BYTES


_HOME_ABOVE: Final = 2
"""`<home>/models/<model>/checkpoint-<step>`."""


def store_root(home: Path, node: str) -> Path:
    """A folder per node, so that several nodes of one machine do not share what separate machines would not."""
    if not node or Path(node).name != node or node in (".", ".."):
        raise ValueError(f"{node!r} cannot be the name of a folder")
    return home / "store" / node


def local_checkpoint(path: Path, version: str, node: str) -> Path:
    """Where this node has weights that are at `path` on the controller's: there, else in its own store.

    `path` itself when neither is there; who opens it says so.
    """
    if path.is_dir() or len(path.parents) <= _HOME_ABOVE:
        return path
    stored = store_root(path.parents[_HOME_ABOVE], node) / "checkpoints"
    return next(iter(sorted(stored.glob(f"{version}*"))), path)


class Depot:
    """Listens for other nodes from the first offer on, until `close`."""

    def __init__(self, settings: DepotSettings) -> None:
        self._settings = settings
        self._store = ContentStore(store_root(settings.home, settings.node), keep_free_bytes=settings.keep_free_bytes)
        self._server: DepotServer | None = None

    # -- As source ---------------------------------------------------------------------------------

    def pack(self, checkpoint: Path) -> Packed:
        """Raises: CheckpointRefused, also for a checkpoint outside the roots or reached by a link out of them."""
        real, roots = checkpoint.resolve(), [root.resolve() for root in self._settings.roots]
        if not any(real != root and real.is_relative_to(root) for root in roots):
            raise CheckpointRefused(
                f"The checkpoint {checkpoint} lies outside the allowed roots: it is really {real}.",
                expected=f"Expected a directory below {' or '.join(map(str, roots))}.",
                advice="Move it there, or add its root to `storage.model_roots`.",
            )
        return pack(real)

    def offer(self, packed: Packed) -> Offer:
        """For one receiving node. Packed again, so that only what may be packed here is ever given."""
        if self.pack(packed.path).stamps != packed.stamps:
            raise CheckpointRefused(f"The checkpoint {packed.path} was changed since it was packed.")
        if self._server is None:
            self._server = DepotServer(self._settings.host)
        return self._server.offer(packed)

    def withdraw(self, offer: str) -> None:
        if self._server is not None:
            self._server.withdraw(offer)

    # -- As target ---------------------------------------------------------------------------------

    def sees(self, packed: Packed) -> bool:
        """Whether the checkpoint can be copied without another node's help."""
        return sees(packed)

    def copy(self, packed: Packed) -> Received:
        """Raises: CheckpointRefused, ShipFailed."""
        return self._store.receive(packed.parcel, FolderSource(packed.path, packed.stamps))

    def fetch(self, packed: Packed, offer: Offer, *, source_node: str, within_s: float) -> Received:
        """Raises: CheckpointRefused, ShipFailed."""
        source = StreamSource(offer, node=source_node, deadline_s=time.monotonic() + within_s)
        return self._store.receive(packed.parcel, source)

    # -- As keeper ---------------------------------------------------------------------------------

    def path_of(self, digest: str) -> Path | None:
        return self._store.path_of(digest)

    def stored(self) -> tuple[Stored, ...]:
        return self._store.stored()

    def verify(self, digest: str) -> Verified:
        """Reads every byte. Raises: CheckpointRefused."""
        return self._store.verify(digest)

    def collect(self, keep: Collection[str], newest: int) -> tuple[str, ...]:
        return self._store.collect(keep=keep, newest=newest)

    def remove(self, digest: str) -> None:
        self._store.remove(digest)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
