"""Why a checkpoint did not arrive although nothing is wrong with it."""

from __future__ import annotations

import errno
from pathlib import Path

from serve_app.errors import HeadroomError

FULL: frozenset[int] = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ShipFailed(HeadroomError):
    """A node, a network or a disk: the same shipment may work later, and goes on where this one broke off."""


def disk_full(folder: Path, *, needed_bytes: int | None = None, free_bytes: int | None = None) -> ShipFailed:
    known = needed_bytes is not None and free_bytes is not None
    numbers = f" {needed_bytes} bytes are needed, {free_bytes} may be used." if known else ""
    return ShipFailed(
        f"The disk below {folder} has no room for the checkpoint; what had arrived of it was removed.{numbers}",
        expected="Nothing that was there before has changed.",
        advice="Free disk space, or archive checkpoints with `headroom checkpoints archive`, then ship again.",
    )


def broke_off(what: str, error: BaseException) -> ShipFailed:
    return ShipFailed(
        f"{what}: {str(error) or type(error).__name__}.",
        expected="What has arrived is kept, and the next try goes on from there.",
        advice="Look after the node or its network, then ship again.",
    )
