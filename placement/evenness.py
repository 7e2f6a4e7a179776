"""How unevenly devices are filled, and how even they could be at best.

The measure is that of the exact model: the squared fill at the peak, in thousandths, the square drawn by its tangents.
The bound fills devices like water, as if replicas could be cut: all bytes at rest, and the starts that must be
somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from placement.exact_model import FULL, TANGENT_STEP
from placement.feasible import Load
from placement.problem import Answer, Problem, loads_of

HALVINGS = 60
BELOW_SQUARE = (TANGENT_STEP // 2) ** 2
"""The tangents are below the square by no more than this."""
SAFE = 1 - 1e-9
"""Takes the rounding of some thousand additions off a bound."""


def unevenness(problem: Problem, answer: Answer) -> int:
    loads = loads_of(problem, answer.sets, answer.offloads)
    return sum(cost_of_fill(load, device.total_bytes) for load, device in zip(loads, problem.devices, strict=True))


def cost_of_fill(load: Load, total_bytes: int) -> int:
    fill = -(-FULL * load.peak_bytes // total_bytes) if load.peak_bytes else 0
    at = min(FULL, fill // TANGENT_STEP * TANGENT_STEP)
    return max(2 * near * fill - near * near for near in (at, at + TANGENT_STEP))


def least_unevenness(problem: Problem) -> int:
    """No answer that serves every demand is more even."""
    usable = [number for of_node in problem.usable for number in of_node]
    room = [(max(0, problem.budgets[n]), problem.devices[n].total_bytes) for n in usable]
    room = [(budget, total) for budget, total in room if budget and total]
    if not room:
        return 0
    num_bytes = _rest_bytes(problem) + _start_bytes(problem, max(budget for budget, _ in room), len(room))
    return max(0, int(_water(room, num_bytes) * SAFE) - BELOW_SQUARE * len(room))


def _rest_bytes(problem: Problem) -> int:
    return sum(num * rest for _, num, rest in _pieces(problem))


def _pieces(problem: Problem) -> list[tuple[int, int, int]]:
    """Start, number and bytes at rest of the shares of every demand, as much offloaded as may be."""
    return [
        (need.start_bytes, demand.num_replicas * demand.tensor_parallel, need.rest_bytes - offload)
        for demand, need, offload in zip(problem.demands, problem.needs, problem.max_offloads, strict=True)
    ]


def _start_bytes(problem: Problem, largest_budget: int, num_devices: int) -> int:
    """Largest starts of all devices together: shares with a start of so much or more need so many devices."""
    held, devices, together = 0, 0, 0
    for start, num, rest in sorted(_pieces(problem), reverse=True):
        held += num * rest
        needed = min(num_devices, -(-held // largest_budget))
        together += (needed - devices) * start
        devices = needed
    return together


def _water(room: Sequence[tuple[int, int]], num_bytes: int) -> float:
    """Least sum of squared fill when the bytes may be spread at will; for any level this is a bound (Lagrange)."""
    low, high = 0.0, 1.0 / min(total for _, total in room)
    for _ in range(HALVINGS):
        level = (low + high) / 2
        if sum(min(budget, level * total * total) for budget, total in room) < num_bytes:
            low = level
        else:
            high = level
    bound = 2 * high * num_bytes
    for budget, total in room:
        here = min(budget, high * total * total)
        bound += (here / total) ** 2 - 2 * high * here
    return bound * FULL * FULL
