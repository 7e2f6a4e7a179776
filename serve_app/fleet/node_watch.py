"""What polls the devices of one node: the watch as an actor, and the same inside a warden, its backup.

Keeps the poller between polls; who decides by what it says is elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from placement.inventory import DeviceKind
from placement.signals import Poll
from serve_app.fleet.device_poller import DevicePoller
from serve_app.fleet.drill_signals import DRILL_VARIABLE, drilled


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """What is to be polled; the same at every poll of a node whose inventory does not change."""

    kind: DeviceKind
    node: str
    known: Mapping[str, str]
    """Device ids and UUIDs as the inventory has them."""
    host_total_bytes: int


class NodePoller:
    """Polls as it is asked to, with a new poller when something else is to be polled."""

    def __init__(self) -> None:
        self._polling: Polling | None = None
        self._poller: DevicePoller | None = None

    def poll(self, polling: Polling, timeout_s: float) -> tuple[Poll, ...]:
        if self._poller is None or polling != self._polling:
            if self._poller is not None:
                self._poller.close()
            self._poller = DevicePoller(
                polling.kind,
                polling.node,
                known=polling.known,
                host_total_bytes=polling.host_total_bytes if polling.kind is DeviceKind.HOST else None,
            )
            self._polling = polling
        polls = self._poller.poll(timeout_s)
        script = os.environ.get(DRILL_VARIABLE)
        return drilled(polls, Path(script)) if script else polls


class NodeWatch:
    """The actor. One thread: a poll that hangs holds back the next one, and the backup answers meanwhile."""

    def __init__(self) -> None:
        self._poller = NodePoller()

    def poll(self, polling: Polling, timeout_s: float) -> tuple[Poll, ...]:
        return self._poller.poll(polling, timeout_s)

    def pid(self) -> int:
        return os.getpid()
