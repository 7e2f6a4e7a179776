"""Which requests are traced: OpenTelemetry's samplers, with a bound on traces begun per second.

The bound stands at the door of the cluster only (the gateway): what a traced request calls must follow it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes


class Budget:
    """Token bucket: `per_s` traces a second, `per_s` at once at most. None is without bound."""

    __slots__ = ("_clock", "_last_s", "_per_s", "_tokens")

    def __init__(self, per_s: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._last_s = clock()
        self._tokens = per_s or 0.0

    def spent(self) -> bool:
        """True when the next `take` would refuse. Takes nothing."""
        if self._per_s is None:
            return False
        now_s = self._clock()
        self._tokens = min(self._per_s, self._tokens + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        return self._tokens < 1.0

    def take(self) -> bool:
        if self._per_s is None:
            return True
        if self.spent():
            return False
        self._tokens -= 1.0
        return True


class Bounded(Sampler):
    """Asks `inner`, then the budget; while `active` is False the budget is not asked."""

    def __init__(self, inner: Sampler, budget: Budget, *, active: bool = True) -> None:
        self._inner = inner
        self._budget = budget
        self.active = active

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.DROP or not self.active or self._budget.take():
            return result
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return f"Bounded({self._inner.get_description()})"


class RequestsOnly(Sampler):
    """For roots: drops the spans that Serve makes around calls between our own deployments (polls, reports).

    They would begin a trace each second and push the requests out of sight. Under a request they stay.
    Source: span names in `ray/serve/_private/router.py` and `replica.py`, 2.60.
    """

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if is_control_call(name):
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"RequestsOnly({self._inner.get_description()})"


def is_control_call(name: str) -> bool:
    """True for Serve's span of a handle call, or of a method other than the HTTP entry point."""
    return name.startswith("route_to_replica") or (
        name.startswith("replica_handle_request ") and not name.endswith(" __call__")
    )


def root_sampler(env: Mapping[str, str], sample_ratio: float) -> Sampler:
    """For requests that bring no parent: OTEL_TRACES_SAMPLER where the user set it, else our own ratio."""
    name = env.get("OTEL_TRACES_SAMPLER", "").strip().removeprefix("parentbased_")
    match name:
        case "always_on":
            return ALWAYS_ON
        case "always_off":
            return ALWAYS_OFF
        case "traceidratio":
            return TraceIdRatioBased(_ratio(env.get("OTEL_TRACES_SAMPLER_ARG", ""), sample_ratio))
        case _:
            return TraceIdRatioBased(sample_ratio)


def _ratio(text: str, default: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if 0.0 <= value <= 1.0 else default


def request_sampler(root: Sampler, budget: Budget) -> tuple[Sampler, Bounded]:
    """The process's sampler, and the part that bounds callers' own `sampled` flags (inactive until told)."""
    from_callers = Bounded(ALWAYS_ON, budget, active=False)
    return ParentBased(root=RequestsOnly(Bounded(root, budget)), remote_parent_sampled=from_callers), from_callers
