"""An alert rule of Prometheus as a value, and the document that Prometheus loads.

What the rules say stands in the files beside this one. Makes plain dicts; who prints them chooses YAML.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tracing.names import Alert, Later


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusRule:
    """`expr` must hold for `for_s` before the alert fires. Texts may use Prometheus' templates."""

    name: Alert
    expr: str
    for_s: float
    severity: Severity
    summary: str
    description: str
    runbook_url: str = ""

    @property
    def waits_for(self) -> tuple[Later, ...]:
        """Metrics in it that nothing records yet: until then it cannot fire."""
        return tuple(metric for metric in Later if metric in self.expr)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleGroup:
    name: str
    interval_s: float
    """How often Prometheus looks; a hold time is exact to this."""
    rules: tuple[PrometheusRule, ...]

    def with_runbooks(self, page: str) -> RuleGroup:
        """Each rule with the heading of its name on `page`."""
        linked = (replace(rule, runbook_url=f"{page}#{rule.name.lower()}") for rule in self.rules)
        return replace(self, rules=tuple(linked))


def document(groups: Iterable[RuleGroup]) -> dict[str, Any]:
    """A whole rule file."""
    return {
        "groups": [
            {
                "name": group.name,
                "interval": duration(group.interval_s),
                "rules": [_entry(rule) for rule in group.rules],
            }
            for group in groups
        ]
    }


def duration(seconds: float) -> str:
    """In Prometheus' form, exact to the millisecond: `90s`, `250ms`."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"


def _entry(rule: PrometheusRule) -> dict[str, Any]:
    return {
        "alert": rule.name.value,
        "expr": rule.expr,
        "for": duration(rule.for_s),
        "labels": {"severity": rule.severity.value},
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "runbook_url": rule.runbook_url,
        },
    }
