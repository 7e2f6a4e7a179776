"""Every alert on Prometheus' own engine: it fires after its duration and not before, and is silent where it should."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tracing.rules.cases import CASES, STEP_S, WATCHED_S, Fires, Silent
from tests.tracing.rules.shipped import SHIPPED
from tracing.names import Alert
from tracing.rules.rule import PrometheusRule, RuleGroup, document

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: it comes with Debian's package prometheus."
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False)


def rule_file(folder: Path, groups: Sequence[RuleGroup]) -> Path:
    """JSON is YAML."""
    file = folder / "rules.yml"
    file.write_text(json.dumps(document(groups)), encoding="utf-8")
    return file


def failures(folder: Path, groups: Sequence[RuleGroup], tests: Sequence[Mapping[str, Any]]) -> str:
    """What promtool finds wrong; empty when all is as expected."""
    file = folder / "tests.yml"
    rules = rule_file(folder, groups)
    tested = {"rule_files": [rules.name], "evaluation_interval": f"{STEP_S}s", "tests": tests}
    file.write_text(json.dumps(tested), encoding="utf-8")
    result = promtool("test", "rules", file)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def hold_s(alert: Alert, groups: Sequence[RuleGroup] = SHIPPED) -> int:
    (rule,) = (rule for group in groups for rule in group.rules if rule.name is alert)
    return int(rule.for_s)


def as_test(case: Fires | Silent) -> dict[str, Any]:
    firing = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    now = f"count({firing}) or vector(0)"
    if isinstance(case, Fires):
        fires_s = case.begins_s + hold_s(case.alert)
        asked = [(fires_s - STEP_S, now, 0), (fires_s, now, case.num_alerts)]
    else:
        asked = [(WATCHED_S, f"max_over_time(({now})[{WATCHED_S}s:{STEP_S}s])", 0)]
    return {
        "name": f"{case.alert}: {case.why}",
        "interval": f"{STEP_S}s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{at_s}s", "exp_samples": [{"labels": "{}", "value": value}]}
            for at_s, expr, value in asked
        ],
    }


def alone(alert: Alert, groups: Sequence[RuleGroup] = SHIPPED) -> tuple[RuleGroup, ...]:
    """One rule of all, so that promtool need not evaluate the others at every step."""
    return tuple(replace(group, rules=tuple(rule for rule in group.rules if rule.name is alert)) for group in groups)


def changed(alert: Alert, **fields: Any) -> tuple[RuleGroup, ...]:
    """The shipped rules with one of them broken."""

    def one(rule: PrometheusRule) -> PrometheusRule:
        return replace(rule, **fields) if rule.name is alert else rule

    return tuple(replace(group, rules=tuple(map(one, group.rules))) for group in SHIPPED)


class TestTheRuleFile:
    def test_is_one_that_prometheus_loads(self, tmp_path: Path) -> None:
        result = promtool("check", "rules", "--lint=all", "--lint-fatal", rule_file(tmp_path, SHIPPED))
        assert result.returncode == 0, result.stderr
        assert f"SUCCESS: {sum(len(group.rules) for group in SHIPPED)} rules found" in result.stdout

    def test_that_is_broken_is_found_out(self, tmp_path: Path) -> None:
        broken = rule_file(tmp_path, changed(Alert.DEVICE_LOST, expr="headroom_device_up == "))
        assert promtool("check", "rules", broken).returncode != 0


class TestEveryAlert:
    @pytest.mark.parametrize("alert", Alert)
    def test_fires_after_its_duration_and_is_silent_where_it_should(self, alert: Alert, tmp_path: Path) -> None:
        assert failures(tmp_path, alone(alert), [as_test(case) for case in CASES if case.alert is alert]) == ""

    @pytest.mark.parametrize(
        "broken",
        [
            changed(Alert.THERMAL_CRITICAL, for_s=25.0),
            changed(Alert.THERMAL_CRITICAL, for_s=35.0),
            changed(Alert.THERMAL_CRITICAL, expr="headroom_device_temperature_celsius >= 85"),
            changed(Alert.THERMAL_CRITICAL, expr="headroom_device_temperature_celsius > 86"),
        ],
        ids=["too early", "too late", "too eager", "too lenient"],
    )
    def test_that_is_broken_is_found_out(self, broken: tuple[RuleGroup, ...], tmp_path: Path) -> None:
        tests = [as_test(case) for case in CASES if case.alert is Alert.THERMAL_CRITICAL]
        assert "FAILED" in failures(tmp_path, alone(Alert.THERMAL_CRITICAL, broken), tests)

    def test_says_which_device_how_bad_and_where_to_read_on(self, tmp_path: Path) -> None:
        hot = {"series": 'headroom_device_temperature_celsius{node="a",device="a/gpu-0"}', "values": "86+0x20"}
        told = {
            "exp_labels": {"severity": "critical", "node": "a", "device": "a/gpu-0"},
            "exp_annotations": {
                "summary": "Too hot: a/gpu-0 on a",
                "description": "a/gpu-0 on a is at 86 °C.",
                "runbook_url": "runbooks.md#thermal_critical",
            },
        }
        asked = [{"eval_time": "1m", "alertname": "THERMAL_CRITICAL", "exp_alerts": [told]}]
        rules = alone(Alert.THERMAL_CRITICAL)
        assert failures(tmp_path, rules, [{"interval": "5s", "input_series": [hot], "alert_rule_test": asked}]) == ""
