"""One arrival of a stream and the seat it gets: the values of online placement.

Shares here are counted in thousandths of a device (millis), not in bytes: whoever asks for half a device gets half of
its memory with it. Knows nothing of how a seat is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.errors import InvalidProblem
from placement.plan import Cause

WHOLE_DEVICE_MILLIS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one arrival wants of one node.

    `device_millis` is per device: 1000 for whole devices, less for a part of a single one, 0 where no device is
    wanted. `device_types` are the products it may lie on, any when empty.
    """

    cpu_millis: int
    host_memory_bytes: int = 0
    num_devices: int = 0
    device_millis: int = 0
    device_types: tuple[str, ...] = ()

    @property
    def total_device_millis(self) -> int:
        return self.num_devices * self.device_millis

    @property
    def is_part_of_a_device(self) -> bool:
        return self.num_devices == 1 and self.device_millis < WHOLE_DEVICE_MILLIS


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyNode:
    """A node as it is before anything lies on it; all its devices are of one type."""

    name: str
    device_type: str
    num_devices: int
    cpu_millis: int
    host_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where an ask lies: a node by name and its devices by index, none where none were wanted."""

    node: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSeat:
    """Why an ask lies nowhere: nodes counted by the first thing they lack."""

    causes: tuple[tuple[Cause, int], ...]
    message: str


def check_ask(ask: Ask) -> None:
    """Raises InvalidProblem for an ask that no node could be held to."""
    if ask.cpu_millis < 0 or ask.host_memory_bytes < 0 or ask.num_devices < 0:
        raise InvalidProblem(f"{ask} asks for less than nothing. Ask for 0 or more of each.")
    if ask.num_devices == 0 and ask.device_millis != 0:
        raise InvalidProblem(f"{ask} asks for a part of no device. Set `num_devices` to 1, or `device_millis` to 0.")
    allowed = {0: (0, 0), 1: (1, WHOLE_DEVICE_MILLIS)}.get(ask.num_devices, (WHOLE_DEVICE_MILLIS, WHOLE_DEVICE_MILLIS))
    if not allowed[0] <= ask.device_millis <= allowed[1]:
        raise InvalidProblem(
            f"{ask} asks for {ask.device_millis} thousandths per device; expected {allowed[0]} to {allowed[1]}. "
            "Only a single device can be taken in part."
        )


def check_node(node: EmptyNode) -> None:
    """Raises InvalidProblem for a node with less than nothing."""
    if min(node.num_devices, node.cpu_millis, node.host_memory_bytes) < 0:
        raise InvalidProblem(f"Node '{node.name}' has less than nothing of something: {node}. Expected 0 or more.")
