"""Sends a request one step down while its model is under pressure, and tells what it did.

The rules are in `pressure`; this remembers what they need. One owner: the gateway's event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.api.errors import ApiError
from serve_app.api.requests import parse_request
from serve_app.gateway.catalog import Catalog
from serve_app.gateway.decide import Decision, Terms, decide_lower
from serve_app.gateway.pressure import Pressure, RecentTimes, Signs, Why, ways_down
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.run_terms import Engines, Report


@dataclass(frozen=True, slots=True)
class Step:
    """One way a request could go. `why_not` is None where it may."""

    mode: str
    model: str
    why_not: str | None


class Steering:
    """`clock` is monotonic, in seconds."""

    def __init__(self, *, engines: Engines, clock: Callable[[], float]) -> None:
        self._engines = engines
        self._clock = clock
        self._pressure = Pressure()
        self._recent: dict[tuple[str, str], RecentTimes] = {}
        self._catalog = Catalog(models={}, modes={}, serving={})
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._refused = 0

    def update(self, catalog: Catalog) -> None:
        self._catalog = catalog
        known = {(model, mode) for model in catalog.models for mode in catalog.modes}
        self._recent = {key: times for key, times in self._recent.items() if key in known}

    def ended(self, decision: Decision, report: Report) -> None:
        """Remember how long a good answer took, its wait included."""
        if decision.settings is not None and report.failure is None and not report.cancelled:
            key = (decision.model, decision.mode)
            self._recent.setdefault(key, RecentTimes()).add(report.duration_s, self._clock())

    def why(self, decision: Decision) -> Why | None:
        """Why this request should go elsewhere; None when its model is well, or when it named the model itself."""
        if decision.settings is None or decision.asked_for == decision.model:
            return None
        return self._why(decision.model, decision.mode, decision.settings.latency_target_s, decision.backends)

    def lower(self, decision: Decision, terms: Terms, body: bytes, why: Why) -> Decision | None:
        """The decision of the first step down that is well; None when there is none, or the caller wants none."""
        if not terms.may_downshift:
            self._refused += 1
            return None
        request = parse_request(decision.endpoint, body)
        assert not isinstance(request, ApiError)
        assert decision.settings is not None
        for mode, model in ways_down(decision.settings, decision.model, self._catalog.modes):
            if self._why_not(mode.name, model, mode.latency_target_s) is not None:
                continue
            same_mode = mode.name == decision.mode
            came_from = decision.model if same_mode else decision.mode
            lower = decide_lower(request, terms, self._catalog, mode=mode, model=model, instead_of=came_from)
            if lower is not None:
                self._counts[came_from, model if same_mode else mode.name, why.value] += 1
                return lower
        return None

    def steps(self, decision: Decision) -> list[Step]:
        """Every way this request could go now, the undisturbed one first, for eyes."""
        first = self.why(decision)
        steps = [Step(decision.mode, decision.model, first.value if first else None)]
        if decision.settings is not None and decision.asked_for != decision.model:
            for mode, model in ways_down(decision.settings, decision.model, self._catalog.modes):
                steps.append(Step(mode.name, model, self._why_not(mode.name, model, mode.latency_target_s)))
        return steps

    def stats(self) -> dict[str, Any]:
        """GET /admin/downshift/stats, of this gateway."""
        return {"total": self._counts.total(), "refused": self._refused, "downshifts": _rows(self._counts)}

    def _why_not(self, mode: str, model: str, target_s: float) -> str | None:
        backends = self._catalog.serving.get(model)
        if backends is None:
            return "not_ready"
        why = self._why(model, mode, target_s, backends)
        return None if why is None else why.value

    def _why(self, model: str, mode: str, target_s: float, backends: tuple[Backend, ...]) -> Why | None:
        now_s = self._clock()
        recent = self._recent.get((model, mode))
        signs = Signs(
            num_queued=self._engines.bulkheads.num_queued(f"{model}@{backends[0].weights_version}"),
            limit=sum(backend.max_num_seqs for backend in backends),
            p95_s=recent.p95_s(now_s) if recent is not None else None,
            target_s=target_s,
            fails=self._engines.loads.fails(backends),
        )
        return self._pressure.see(model, mode, signs, now_s)


def summed_downshifts(own: Mapping[str, Any], others: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Totals of the cluster. A gateway that did not answer (None) is counted as silent, not as zero."""
    answers = list(others)
    pages = [own, *(page for page in answers if page is not None)]
    counts: Counter[tuple[str, str, str]] = Counter()
    for page in pages:
        for row in page["downshifts"]:
            counts[row["from"], row["to"], row["reason"]] += row["count"]
    return {
        "total": counts.total(),
        "refused": sum(page["refused"] for page in pages),
        "downshifts": _rows(counts),
        "num_gateways": len(pages),
        "num_silent": sum(page is None for page in answers),
    }


def _rows(counts: Mapping[tuple[str, str, str], int]) -> list[dict[str, Any]]:
    return [
        {"from": came_from, "to": to, "reason": why, "count": count}
        for (came_from, to, why), count in sorted(counts.items())
    ]
