"""How unevenly devices are filled.

The measure is that of the exact model: the squared fill at the peak, in thousandths, the square drawn by its tangents.
"""

from __future__ import annotations

from placement.exact_model import FULL, TANGENT_STEP
from placement.problem import Answer, Problem, loads_of


def unevenness(problem: Problem, answer: Answer) -> int:
    loads = loads_of(problem, answer.sets, answer.offloads)
    both = zip(loads, problem.devices, strict=True)
    return sum(cost_of_peak(load.peak_bytes, device.total_bytes) for load, device in both if load.peak_bytes)


def cost_of_peak(peak_bytes: int, total_bytes: int) -> int:
    fill = -(-FULL * peak_bytes // total_bytes)
    at = min(FULL, fill // TANGENT_STEP * TANGENT_STEP)
    return max(2 * at * fill - at * at, 2 * (at + TANGENT_STEP) * fill - (at + TANGENT_STEP) ** 2)
