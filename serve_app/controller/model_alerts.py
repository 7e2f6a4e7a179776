"""Alerts of models: in the history of all alerts, told to whoever hears of those of devices, and counted beside them.

Whoever raises one clears it. What holds is read from the history, so it holds over a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from placement.health_rules import MODEL_RULES, Action, RuleName, Severity
from placement.health_state import Alert
from serve_app.fleet.alerts import MAX_PAGE, AlertEntry, AlertHistory, Callbacks
from serve_app.logs import logger
from tracing import names
from tracing.fleet_metrics import AlertMetrics
from tracing.spans import operation

PREFIX: Final = "model:"
SEVERITIES: Final = {RuleName.ROLLOUT_REGRESSION: Severity.WARNING, RuleName.CHECKPOINT_DAMAGED: Severity.CRITICAL}


class ModelAlerts:
    """`metrics` of now; `clock` is the wall clock."""

    def __init__(
        self,
        *,
        history: AlertHistory,
        callbacks: Callbacks,
        metrics: Callable[[], AlertMetrics],
        clock: Callable[[], float],
    ) -> None:
        self._history = history
        self._callbacks = callbacks
        self._metrics = metrics
        self._clock = clock

    def raised(self, rule: RuleName, model: str, message: str) -> bool:
        """False when it held already: then nobody is told again."""
        if model in self.models(rule):
            return False
        alert, severity, now_s = _alert(rule, model, message), SEVERITIES[rule], self._clock()
        _log.warning("alert", rule=rule.value, model=model, message=message)
        with operation(names.ALERT_SPAN.format(rule), {names.MODEL: model, names.ALERT_ACTION: alert.action.value}):
            self._metrics().triggered(rule.value, severity.value)
        entry = self._history.fired(alert, at_s=now_s, dry_run=False)
        self._callbacks.tell(self._history.acted(alert, at_s=now_s) or entry)
        return True

    def cleared(self, rule: RuleName, model: str) -> None:
        entry = self._history.cleared(_alert(rule, model, ""), at_s=self._clock())
        if entry is not None:
            _log.info("alert cleared", rule=rule.value, model=model)
            self._callbacks.tell(entry)

    def only(self, rule: RuleName, models: Collection[str]) -> None:
        """It can hold for these alone: others are not there any more."""
        for model in self.models(rule) - set(models):
            self.cleared(rule, model)

    def models(self, rule: RuleName) -> frozenset[str]:
        """For which it holds."""
        return frozenset(entry.device.removeprefix(PREFIX) for entry in self._held(rule))

    def active(self) -> Counter[tuple[str, str]]:
        """How many models each rule holds for, by rule and severity."""
        return Counter((one.rule.value, one.severity.value) for rule in MODEL_RULES for one in self._held(rule))

    def _held(self, rule: RuleName) -> tuple[AlertEntry, ...]:
        return self._history.page(active=True, rule=rule, limit=MAX_PAGE)


def _alert(rule: RuleName, model: str, message: str) -> Alert:
    return Alert(
        rule=rule,
        device=f"{PREFIX}{model}",
        severity=SEVERITIES[rule],
        action=Action.NOTIFY,
        message=message,
        since_s=0.0,
    )


_log = logger("headroom.alerts")
