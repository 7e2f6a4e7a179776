"""Alerts of models: told once, kept over a restart, counted, and cleared by whoever raised them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from placement.health_rules import RuleName
from serve_app.controller.model_alerts import SEVERITIES, ModelAlerts
from serve_app.fleet.alerts import AlertEntry, AlertHistory, Callbacks
from tracing.collector import Collector
from tracing.fleet_metrics import AlertMetrics
from tracing.metrics import Recorder
from tracing.names import ALERTS_TRIGGERED

REGRESSION, DAMAGED = RuleName.ROLLOUT_REGRESSION, RuleName.CHECKPOINT_DAMAGED


@dataclass
class Stage:
    """A second `alerts()` on the same connection is a controller that was started again."""

    db: sqlite3.Connection = field(default_factory=lambda: sqlite3.connect(":memory:", isolation_level=None))
    told: list[AlertEntry] = field(default_factory=list)
    recorder: Recorder = field(default_factory=lambda: Recorder("controller"))
    now_s: float = 100.0

    def alerts(self) -> ModelAlerts:
        history, callbacks = AlertHistory(self.db, max_kept=100), Callbacks()
        history.settle((), at_s=self.now_s)
        callbacks.add(self.told.append)
        metrics = AlertMetrics(self.recorder, [(rule.value, severity.value) for rule, severity in SEVERITIES.items()])
        return ModelAlerts(history=history, callbacks=callbacks, metrics=lambda: metrics, clock=lambda: self.now_s)


class TestModelAlerts:
    def test_one_that_holds_is_told_once_and_holds_over_a_restart(self) -> None:
        stage = Stage()
        assert stage.alerts().raised(REGRESSION, "mini", "Worse.")
        assert not stage.alerts().raised(REGRESSION, "mini", "Worse still.")
        (entry,) = stage.told
        assert (entry.device, entry.message, entry.response_s, entry.cleared_at_s) == ("model:mini", "Worse.", 0, None)
        assert stage.alerts().models(REGRESSION) == {"mini"}

    def test_its_end_is_told_and_another_may_follow(self) -> None:
        stage = Stage()
        alerts = stage.alerts()
        alerts.raised(REGRESSION, "mini", "Worse.")
        alerts.cleared(REGRESSION, "mini")
        alerts.cleared(REGRESSION, "mini")
        assert [entry.cleared_at_s for entry in stage.told] == [None, 100.0]
        assert alerts.raised(REGRESSION, "mini", "Worse again.")

    def test_what_is_not_there_any_more_has_none(self) -> None:
        alerts = Stage().alerts()
        for model in ("mini", "base"):
            alerts.raised(REGRESSION, model, "Worse.")
        alerts.raised(DAMAGED, "mini", "Another byte.")
        alerts.only(REGRESSION, {"base"})
        assert alerts.models(REGRESSION) == {"base"}
        assert alerts.models(DAMAGED) == {"mini"}

    def test_are_counted_by_rule_and_severity(self) -> None:
        stage = Stage()
        alerts, collector = stage.alerts(), Collector(version="0")
        for model in ("mini", "base", "base"):
            alerts.raised(REGRESSION, model, "Worse.")
        collector.merge(stage.recorder.drain(), now_s=0.0)
        assert alerts.active() == {("RolloutRegression", "warning"): 2}
        assert collector.counters(ALERTS_TRIGGERED)["RolloutRegression", "warning"] == 2
