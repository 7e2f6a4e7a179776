"""What an estimate said and what an engine was seen to take, part by part, with the error of the estimate."""

from __future__ import annotations

from dataclasses import dataclass

from placement.demand import Estimate, PartName
from placement.estimate import Measurement

RUNTIME = (PartName.ACTIVATION, PartName.CUDA_GRAPHS, PartName.CONTEXT)
"""What cannot be told apart from outside: all that is neither weights nor cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPart:
    """`measured_bytes` None: nobody looked."""

    name: str
    estimated_bytes: int
    measured_bytes: int | None

    @property
    def error_percent(self) -> float | None:
        """How far the estimate lies above (+) or below (-) what was measured; None without anything to divide by."""
        if not self.measured_bytes:
            return None
        return (self.estimated_bytes / self.measured_bytes - 1) * 100


def measured_parts(estimate: Estimate, measured: Measurement) -> tuple[MeasuredPart, ...]:
    """`estimate` must be one that `measured` had no part in.

    Weights that the engine did not measure count as estimated when the rest is taken apart. Older measurements took
    weights and cache as they were planned and state no sums; these are made up of their parts.
    """
    weights, cache = estimate.part_bytes(PartName.WEIGHTS), estimate.part_bytes(PartName.KV_CACHE)
    runtime = sum(estimate.part_bytes(name) for name in RUNTIME)
    rest, seen = measured.rest_bytes, _sum(measured.context_bytes, measured.activation_bytes or 0)
    if rest is None:
        rest = _sum(seen, measured.weights_bytes, cache)
    if rest is not None and measured.kv_cache_bytes is not None:
        held = weights if measured.engine_weights_bytes is None else measured.engine_weights_bytes
        seen = max(0, rest - held - measured.kv_cache_bytes)
    peak = measured.peak_bytes if measured.peak_bytes is not None else _sum(rest, measured.peak_extra_bytes)
    return (
        MeasuredPart(name="weights", estimated_bytes=weights, measured_bytes=measured.engine_weights_bytes),
        MeasuredPart(name="KV cache", estimated_bytes=cache, measured_bytes=measured.kv_cache_bytes),
        MeasuredPart(name="activation, graphs, context", estimated_bytes=runtime, measured_bytes=seen),
        MeasuredPart(name="at rest", estimated_bytes=estimate.rest_bytes, measured_bytes=rest),
        MeasuredPart(name="peak of start", estimated_bytes=estimate.peak_bytes, measured_bytes=peak),
    )


def _sum(*terms: int | None) -> int | None:
    known = [term for term in terms if term is not None]
    return sum(known) if len(known) == len(terms) else None
