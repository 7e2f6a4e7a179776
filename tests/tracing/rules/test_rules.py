"""What must be so of the alert rules whatever engine reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tracing.rules.cases import CASES, Fires, Silent
from tests.tracing.rules.shipped import D1_RULES, DATA, RULES
from tracing import names
from tracing.names import METRICS, Alert, Later
from tracing.rules.catalog import RuleData, rule_groups
from tracing.rules.health_rules import DeviceRule, Signal
from tracing.rules.rule import PrometheusRule, Severity, duration
from tracing.rules.service_rules import ModeLimits, ModelLimits

TRACING = Path(__file__).parents[3] / "tracing"
SELECTOR = re.compile(r"\b((?:headroom|cache)_\w+)(?:\{([^}]*)\})?")


def base(series: str) -> str:
    """The metric of a series: a histogram's has several."""
    bare = re.sub(r"_(bucket|count|sum)$", "", series)
    return bare if bare in METRICS or bare in list(Later) else series


def metrics_of(rule: PrometheusRule) -> set[str]:
    return {base(found[1]) for found in SELECTOR.finditer(rule.expr)}


def metrics_in(cases: Iterable[Fires | Silent]) -> set[str]:
    return {base(series.split("{", maxsplit=1)[0]) for case in cases for series in case.series}


def by_name(rules: Iterable[PrometheusRule]) -> dict[Alert, PrometheusRule]:
    return {rule.name: rule for rule in rules}


def rules_of(data: RuleData) -> dict[Alert, PrometheusRule]:
    return by_name(rule for group in rule_groups(data, runbooks="x") for rule in group.rules)


class TestTheList:
    def test_has_one_rule_for_every_alert_name(self) -> None:
        assert sorted(rule.name for rule in RULES) == sorted(Alert)

    def test_begins_with_the_rules_of_the_watch_in_their_order(self) -> None:
        assert [rule.name for rule in D1_RULES] == [alert for alert in Alert if alert.isupper()]
        assert [rule.name for rule in RULES[: len(D1_RULES)]] == [rule.name for rule in D1_RULES]

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_says_of_each_what_is_wrong_and_where_to_read_on(self, rule: PrometheusRule) -> None:
        assert rule.summary
        assert rule.description.endswith(".")
        assert rule.runbook_url == f"runbooks.md#{rule.name.lower()}"
        headings = re.findall(r"^## (\w+)$", (TRACING / "rules" / "RUNBOOKS.md").read_text(encoding="utf-8"), re.M)
        assert rule.name in headings


class TestMetrics:
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_of_every_rule_are_in_the_table_of_names(self, rule: PrometheusRule) -> None:
        assert metrics_of(rule) <= {*METRICS, *Later}
        assert metrics_of(rule)

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_are_asked_for_labels_they_have(self, rule: PrometheusRule) -> None:
        for found in SELECTOR.finditer(rule.expr):
            metric = METRICS.get(base(found[1]))
            asked = set(re.findall(r"(\w+)(?==)", found[2] or ""))
            assert metric is None or asked <= {*metric.labels, "le"}

    def test_that_nothing_records_are_not_called_recorded(self) -> None:
        assert not set(Later) & set(METRICS)

    def test_that_are_waited_for_are_listed_in_the_design_with_their_rules(self) -> None:
        rows = re.findall(r"^\| `(headroom_\w+)` \| ([\w, ]+) \|", (TRACING / "DESIGN.md").read_text("utf-8"), re.M)
        waiting = {metric: [rule.name for rule in RULES if metric in rule.waits_for] for metric in Later}
        assert {metric: alerts.split(", ") for metric, alerts in rows} == waiting


class TestCases:
    @pytest.mark.parametrize("kind", [Fires, Silent])
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_of_both_kinds_exist_and_give_all_that_the_rule_reads(
        self, rule: PrometheusRule, kind: type[Fires] | type[Silent]
    ) -> None:
        """A case without the rule's series would be silent for no reason."""
        cases = [case for case in CASES if case.alert is rule.name and isinstance(case, kind)]
        assert cases
        assert metrics_of(rule) <= metrics_in(cases)


class TestTheData:
    def test_of_cluster_yaml_is_what_the_rules_say(self) -> None:
        mode = ModeLimits(mode="slow", latency_target_s=9.5, hit_target=None)
        rules = rules_of(replace(DATA, headroom=0.1, modes=(mode,), models=(ModelLimits(model="big", load_s=16.5),)))
        assert rules[Alert.HEADROOM_LOW].expr.endswith("< 0.1")
        assert 'mode="slow"' in rules[Alert.MODE_LATENCY_HIGH].expr
        assert rules[Alert.MODE_LATENCY_HIGH].expr.endswith("> 9.5")
        assert 'le="16.5"' in rules[Alert.MODEL_LOAD_SLOW].expr

    def test_without_a_target_for_hits_makes_no_rule_for_them(self) -> None:
        modes = tuple(replace(limits, hit_target=None) for limits in DATA.modes)
        assert Alert.CACHE_HIT_RATE_LOW not in rules_of(replace(DATA, modes=modes))

    def test_of_health_rules_is_passed_on(self) -> None:
        hot = DeviceRule(
            name=Alert.THERMAL_WARNING, signal=Signal.TEMPERATURE, threshold=70.0, for_s=2.5, severity=Severity.INFO
        )
        rule = rules_of(replace(DATA, health=(hot,)))[Alert.THERMAL_WARNING]
        assert (rule.expr, rule.for_s) == (f"{names.DEVICE_TEMPERATURE.name} >= 70.0", 2.5)
        assert Alert.THROTTLING not in rules_of(replace(DATA, health=(hot,)))

    def test_with_a_load_limit_that_no_bucket_counts_is_refused_with_those_that_are(self) -> None:
        with pytest.raises(ValueError, match=r"load limit of 3\.0 s for 'big' cannot be counted.*16\.5"):
            rules_of(replace(DATA, models=(ModelLimits(model="big", load_s=3.0),)))

    def test_with_half_of_a_relative_limit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="go together"):
            replace(D1_RULES[0], ratio=None)
        with pytest.raises(ValueError, match="go together"):
            replace(D1_RULES[-1], ratio=0.9)

    def test_with_a_window_that_nothing_is_counted_in_is_refused(self) -> None:
        by_signal = {rule.signal: rule for rule in D1_RULES}
        with pytest.raises(ValueError, match="window of 60"):
            replace(by_signal[Signal.POWER], window_s=60.0)
        with pytest.raises(ValueError, match="window of 0"):
            replace(by_signal[Signal.ECC_CORRECTED], window_s=0.0)

    def test_cannot_end_a_quoted_name(self) -> None:
        mode = ModeLimits(mode='a"} or vector(1) #\\', latency_target_s=1.0, hit_target=None)
        assert r'mode="a\"} or vector(1) #\\"' in rules_of(replace(DATA, modes=(mode,)))[Alert.MODE_LATENCY_HIGH].expr


class TestDurations:
    @pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (90.0, "90s"), (0.25, "250ms"), (2.5, "2500ms")])
    def test_are_written_as_prometheus_reads_them(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text
