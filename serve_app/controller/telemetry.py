"""What the control plane counts: its own metrics, and the reports of every gateway, in one registry.

The one place `/metrics` comes from, so that totals are the same whoever answers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from placement.compare import numa_local_ratio
from placement.plan import Plan
from serve_app.config.settings import Settings
from serve_app.controller.bringup_state import BringupState
from serve_app.controller.claims import Push, SlotState
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.lifecycle import Lifecycle, RestKind
from tracing import names
from tracing.collector import Collector
from tracing.device_metrics import DeviceMetrics
from tracing.fleet_metrics import AlertMetrics, LeaseMetrics, ObjectiveMetrics, WatchMetrics
from tracing.job_metrics import JobMetrics
from tracing.live_metrics import LiveTestMetrics
from tracing.metrics import Labels, Recorder
from tracing.rollout_metrics import RolloutMetrics
from tracing.setup import product_version

_SILENT_S = 60.0
_STATES = {
    SlotState.CLAIMED: "starting",
    SlotState.STARTING: "starting",
    SlotState.READY: "ready",
    SlotState.DRAINING: "draining",
    SlotState.REAPING: "draining",
}


class ControllerTelemetry:
    def __init__(self, settings: Settings) -> None:
        self._recorder = Recorder("controller")
        self._collector = Collector(version=product_version())
        self.devices = DeviceMetrics(self._recorder)
        self.watch = WatchMetrics(self._recorder)
        self.alerts = AlertMetrics(self._recorder, ())
        self.leases = LeaseMetrics(self._recorder)
        self.objectives = ObjectiveMetrics(self._recorder)
        self.jobs = JobMetrics(self._recorder)
        self.rollouts = RolloutMetrics(self._recorder)
        self.live_tests = LiveTestMetrics(self._recorder)
        self.expect(settings)

    @property
    def collected(self) -> Collector:
        """The totals of everybody who reports."""
        return self._collector

    def figures(self) -> Collector:
        """The same, without the gauges of processes that have fallen silent."""
        self._collector.drop_silent(now_s=time.monotonic(), silent_s=_SILENT_S)
        return self._collector

    @property
    def recorder(self) -> Recorder:
        return self._recorder

    def expect(self, settings: Settings) -> None:
        """Begin every series of these models and modes at 0."""
        self._collector.declare(
            modes=[mode.name for mode in settings.modes],
            models=[model.id for model in settings.models],
            cache_types=[
                "redis" if settings.cache.redis_url else "memory",
                *([names.SEMANTIC_CACHE] if any(mode.semantic_similarity for mode in settings.modes) else []),
            ],
        )

    def expect_alerts(self, rules: Iterable[tuple[str, str]]) -> None:
        """Rules and severities of every alert that can fire."""
        self.alerts = AlertMetrics(self._recorder, rules)

    def merge(self, push: Push) -> None:
        self._collector.merge(push.deltas, now_s=time.monotonic())

    def loaded(self, tenure: Tenure, model: str) -> None:
        assert tenure.report is not None
        self._recorder.histogram(names.MODEL_LOAD, model, "success").observe(tenure.report.load_s)

    def load_failed(self, model: str) -> None:
        self._recorder.histogram(names.MODEL_LOAD, model, "error").observe(0.0)

    def unloaded(self, model: str, duration_s: float, has_ended: bool) -> None:
        """One replica told to end; `has_ended` says whether its bytes came back in time."""
        self._recorder.histogram(names.MODEL_UNLOAD, model, "success" if has_ended else "error").observe(duration_s)

    def planned(self, plan: Plan, duration_s: float) -> None:
        self._recorder.counter(names.PLANS, "refused" if plan.refusals else "placed").inc()
        self._recorder.histogram(names.PLAN_SECONDS).observe(duration_s)

    def show(self, state: BringupState, ledger: Ledger, lifecycle: Lifecycle, settings: Settings) -> None:
        """Bring every gauge up to what is so now."""
        self._show_replicas(ledger, lifecycle, settings)
        self._show_weights(ledger)
        if state.plan is not None:
            refused = Counter({refusal.kind.value: 0 for refusal in state.plan.refusals})
            for refusal in state.plan.refusals:
                refused[refusal.kind.value] += refusal.num_replicas
            self._recorder.replace(names.PLACEMENT_REFUSALS, {(kind,): float(n) for kind, n in refused.items()})
        if state.plan is not None and state.inventory is not None:
            ratio = numa_local_ratio(state.plan.placements, state.inventory)
            self._recorder.replace(names.NUMA_LOCAL_RATIO, {} if ratio is None else {(): ratio})

    def render(self) -> bytes:
        now_s = time.monotonic()
        self._collector.merge(self._recorder.drain(), now_s=now_s)
        self._collector.drop_silent(now_s=now_s, silent_s=_SILENT_S)
        return self._collector.render()

    def _show_replicas(self, ledger: Ledger, lifecycle: Lifecycle, settings: Settings) -> None:
        """A model that sleeps is wanted and a request away; nobody wants replicas of one that was unloaded."""
        replicas: dict[Labels, float] = {
            (model.id, state): 0.0 for model in settings.models for state in ("ready", "starting", "draining")
        }
        for model in settings.models:
            rest = lifecycle.resting.get(model.id)
            wanted = float(model.num_replicas)
            replicas[model.id, "desired"] = 0.0 if rest and rest.kind is RestKind.UNLOADED else wanted
            replicas[model.id, "sleeping"] = wanted if rest and rest.kind is RestKind.ASLEEP else 0.0
        for tenure in ledger.tenures.values():
            key = (ledger.slots[tenure.slot].model, _STATES[tenure.state])
            replicas[key] = replicas.get(key, 0.0) + 1
        self._recorder.replace(names.MODEL_REPLICAS, replicas)

    def _show_weights(self, ledger: Ledger) -> None:
        serving = [t for t in ledger.tenures.values() if t.serves]
        slots = [ledger.slots[tenure.slot] for tenure in serving]
        rows: dict[Labels, float] = {
            (slot.model, slot.weights.version, "" if slot.weights.step is None else str(slot.weights.step)): 1.0
            for slot in slots
        }
        self._recorder.replace(names.WEIGHTS_VERSION_INFO, rows)
