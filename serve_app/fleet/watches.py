"""The watches of the fleet: one per node, and the node's first warden as the backup that answers when it does not.

The only file that starts watches. Polls are asked for off the event loop; nothing here judges what they say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from placement.inventory import Inventory, Node
from placement.signals import Poll, Silence
from serve_app.fleet.names import NAMESPACE, watch_name
from serve_app.fleet.node_watch import NodeWatch, Polling
from serve_app.logs import logger

POLL_TIMEOUT_S = 3.0
_ANSWER_S = POLL_TIMEOUT_S + 1.0
_SILENT_ROUNDS = 2
"""A node whose watch and backup both stay silent in so many rounds running is silent; one round may be a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolls:
    """One round at one node. `polls` is empty when nobody answered, which may yet be a restart."""

    node: str
    polls: tuple[Poll, ...]
    by_backup: bool
    duration_s: float


class Watches:
    def __init__(self) -> None:
        self._watches: dict[str, Any] = {}
        self._backups: dict[str, Any] = {}
        self._silent_rounds: dict[str, int] = {}

    def prepare(self, node: Node, *, selector: Mapping[str, str], backup: Any) -> None:
        """Start the node's watch unless it runs; `backup` is the handle of one of its wardens."""
        self._backups[node.name] = backup
        self._watches[node.name] = (
            ray.remote(NodeWatch)
            .options(
                name=watch_name(node.name),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                num_cpus=0,
                label_selector=dict(selector),
            )
            .remote()
        )

    async def poll(self, inventory: Inventory) -> tuple[NodePolls, ...]:
        """Every node that has a watch, side by side."""
        nodes = [node for node in inventory.nodes if node.name in self._watches]
        return tuple(await asyncio.gather(*(self._round(node) for node in nodes)))

    async def _round(self, node: Node) -> NodePolls:
        began_s, polling = time.monotonic(), _polling(node)
        polls, by_backup = await _asked(self._watches[node.name], polling), False
        if polls is None:
            polls, by_backup = await _asked(self._backups[node.name], polling), True
        rounds = self._silent_rounds[node.name] = 0 if polls is not None else self._silent_rounds.get(node.name, 0) + 1
        if by_backup and rounds in (0, 1):
            _log.warning("the watch does not answer", node=node.name, backup_answers=polls is not None)
        if polls is None:
            polls = _silence(node) if rounds >= _SILENT_ROUNDS else ()
        return NodePolls(
            node=node.name, polls=polls, by_backup=by_backup and rounds == 0, duration_s=time.monotonic() - began_s
        )


def _polling(node: Node) -> Polling:
    first = node.devices[0]
    return Polling(
        kind=first.kind,
        node=node.name,
        known={device.id: device.uuid for device in node.devices},
        host_total_bytes=first.total_bytes,
    )


def _silence(node: Node) -> tuple[Silence, ...]:
    return tuple(Silence(device=device.id, reason=f"the node {node.name} does not answer") for device in node.devices)


async def _asked(watch: Any, polling: Polling) -> tuple[Poll, ...] | None:
    """None when the actor is dead, or does not answer in time."""
    reference = watch.poll.remote(polling, POLL_TIMEOUT_S)
    try:
        polls: tuple[Poll, ...] = await asyncio.wait_for(asyncio.wrap_future(reference.future()), _ANSWER_S)
    except (TimeoutError, ray.exceptions.RayError):
        return None
    return polls


_log = logger("headroom.watch")
