"""What the gateway counts: cells bound once, so that a request costs a few dictionary look-ups.

The figures of `/admin/cache/stats` are kept here too, so that they and the metrics can never differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_app.api.errors import Outcome
from serve_app.gateway.answer_headers import CacheState
from serve_app.gateway.run_terms import Report
from serve_app.gateway.version_meters import VersionMeters
from tracing import names
from tracing.metrics import CounterCell, GaugeCell, HistogramCell, Recorder

NO_MODEL = "none"
"""Label `model` of a request that was refused before a model was chosen."""


@dataclass(slots=True)
class CacheCounts:
    """One mode, since this gateway started. `shared` were answered by a run another request had begun."""

    hits: int = 0
    misses: int = 0
    shared: int = 0
    bypass: int = 0
    expired: int = 0
    semantic_hits: int = 0
    semantic_misses: int = 0
    """Of misses those for which an answer to a similar question was looked for; their hits are in `misses` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunCells:
    """What every engine run of one model counts."""

    in_flight: GaugeCell
    input: CounterCell
    output: CounterCell
    cached: CounterCell
    first_token: HistogramCell

    @classmethod
    def of(cls, recorder: Recorder, model: str) -> _RunCells:
        return cls(
            in_flight=recorder.gauge(names.REQUESTS_IN_FLIGHT, model),
            input=recorder.counter(names.TOKENS, model, "input"),
            output=recorder.counter(names.TOKENS, model, "output"),
            cached=recorder.counter(names.TOKENS, model, "cached"),
            first_token=recorder.histogram(names.TIME_TO_FIRST_TOKEN, model),
        )


class Meters:
    def __init__(self, recorder: Recorder, *, modes: Iterable[str], cache_type: str) -> None:
        self._recorder = recorder
        self._cache_type = cache_type
        self.versions = VersionMeters(recorder)
        self._http: dict[tuple[str, str, int], tuple[CounterCell, HistogramCell]] = {}
        self._inference: dict[tuple[str, str, Outcome], CounterCell] = {}
        self._overhead = recorder.histogram(names.GATEWAY_OVERHEAD)
        self._durations: dict[tuple[str, str], tuple[HistogramCell, CounterCell]] = {}
        self._runs: dict[str, _RunCells] = {}
        self.cache: dict[str, CacheCounts] = {}
        self._cache_cells: dict[str, tuple[CounterCell, CounterCell, CounterCell]] = {}
        self.cache[names.NO_MODE] = CacheCounts()
        self.expect(modes)

    def expect(self, modes: Iterable[str]) -> None:
        """Count for these modes too, from 0."""
        for mode in modes:
            if mode not in self._cache_cells:
                self.cache[mode] = CacheCounts()
                self._cache_cells[mode] = self._new_cache_cells(mode)
                self._recorder.counter(names.SHED, mode)

    def http(self, route: str, method: str, status: int, duration_s: float) -> None:
        cells = self._http.get((route, method, status))
        if cells is None:
            labels = (route, method, str(status))
            cells = (
                self._recorder.counter(names.HTTP_REQUESTS, *labels),
                self._recorder.histogram(names.HTTP_REQUEST_DURATION, *labels),
            )
            self._http[route, method, status] = cells
        cells[0].inc()
        cells[1].observe(duration_s)

    def inference(self, mode: str, model: str, outcome: Outcome, duration_s: float) -> None:
        counter = self._inference.get((mode, model, outcome))
        if counter is None:
            counter = self._recorder.counter(names.INFERENCE_REQUESTS, mode, model, outcome.value)
            self._inference[mode, model, outcome] = counter
        counter.inc()
        durations = self._durations.get((mode, model))
        if durations is None:
            durations = (
                self._recorder.histogram(names.INFERENCE_REQUEST_DURATION, mode, model),
                self._recorder.counter(names.INFERENCE_REQUEST_SECONDS, mode, model),
            )
            self._durations[mode, model] = durations
        durations[0].observe(duration_s)
        durations[1].inc(duration_s)

    def overhead(self, duration_s: float) -> None:
        self._overhead.observe(duration_s)

    def cached(self, mode: str, state: CacheState) -> None:
        """Count one request by what the cache did for it; `cache_hit_rate` is made of hits and misses only.

        A semantic hit is a miss of the exact cache.
        """
        counts = self.cache[mode]
        if state is CacheState.HIT:
            counts.hits += 1
            self._cache_cells[mode][0].inc()
        elif state in (CacheState.MISS, CacheState.SEMANTIC):
            counts.misses += 1
            self._cache_cells[mode][1].inc()
        elif state is CacheState.SHARED:
            counts.shared += 1
        else:
            counts.bypass += 1

    def semantic(self, mode: str, *, hit: bool) -> None:
        """Count one look-up of the semantic cache."""
        counts = self.cache[mode]
        if hit:
            counts.semantic_hits += 1
        else:
            counts.semantic_misses += 1
        self._recorder.counter(names.CACHE_HITS if hit else names.CACHE_MISSES, mode, names.SEMANTIC_CACHE).inc()

    def expired(self, mode: str) -> None:
        self.cache[mode].expired += 1
        self._cache_cells[mode][2].inc()

    def expect_models(self, models: Iterable[str], deployments: Iterable[str]) -> None:
        """Show these at 0, and no deployment that is gone."""
        for model in models:
            self._recorder.gauge(names.REQUESTS_QUEUED, model)
            self._recorder.counter(names.RETRIES, model)
        self._recorder.replace(names.BREAKER_STATE, {(deployment,): 0.0 for deployment in deployments})

    def breakers(self, states: Mapping[str, int]) -> None:
        """The worst state of each deployment."""
        for deployment, state in states.items():
            self._recorder.gauge(names.BREAKER_STATE, deployment).set(state)

    def queued(self, model: str, by: int) -> None:
        """Who waits is not in an engine yet."""
        self._recorder.gauge(names.REQUESTS_QUEUED, model).inc(by)
        self._recorder.gauge(names.REQUESTS_IN_FLIGHT, model).dec(by)

    def shed(self, mode: str) -> None:
        self._recorder.counter(names.SHED, mode).inc()

    def downshifted(self, came_from: str, to: str) -> None:
        self._recorder.counter(names.DOWNSHIFTS, came_from, to).inc()

    def run_began(self, model: str) -> None:
        self._cells_of(model).in_flight.inc()

    def run_ended(self, model: str, report: Report, *, stream: bool) -> None:
        cells = self._cells_of(model)
        cells.in_flight.dec()
        if report.num_retries:
            self._recorder.counter(names.RETRIES, model).inc(report.num_retries)
        if report.tokens is not None:
            cells.input.inc(report.tokens.input)
            cells.output.inc(report.tokens.output)
            cells.cached.inc(report.tokens.cached)
        if not stream or report.first_byte_s is None:
            return
        cells.first_token.observe(report.first_byte_s)
        num_later = report.tokens.output - 1 if report.tokens else 0
        if num_later > 0 and report.failure is None:
            per_token_s = (report.duration_s - report.first_byte_s) / num_later
            self._recorder.histogram(names.TIME_PER_OUTPUT_TOKEN, model).observe(per_token_s)

    def _cells_of(self, model: str) -> _RunCells:
        cells = self._runs.get(model)
        if cells is None:
            cells = self._runs[model] = _RunCells.of(self._recorder, model)
        return cells

    def _new_cache_cells(self, mode: str) -> tuple[CounterCell, CounterCell, CounterCell]:
        labels = (mode, self._cache_type)
        return (
            self._recorder.counter(names.CACHE_HITS, *labels),
            self._recorder.counter(names.CACHE_MISSES, *labels),
            self._recorder.counter(names.CACHE_TTL_EXPIRED, *labels),
        )
