"""What cluster.yaml may say of health, maintenance and objectives, and what is answered when it says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from placement.health_rules import DEFAULT_RULES, Action, HealthRule, RuleName, Severity
from serve_app.config.health_schema import RuleKey
from serve_app.config.settings import HealthSettings, ObjectivesSettings, Settings
from tests.serve_app.config.cluster_text import GOOD, changed_args
from tests.serve_app.config.test_load import loaded, problem

HOOK = {"url": "https://alerts.example/hook", "secret_env": "HOOK_SECRET"}
RULES, WEBHOOKS, WINDOWS = ("health", "rules"), ("health", "webhooks"), ("maintenance", "windows")
WINDOW = {"name": "nightly", "cron": "0 2 * * *", "duration_s": 3600, "nodes": ["n"]}


def rule(settings: Settings, name: RuleName) -> HealthRule:
    return next(rule for rule in settings.health.rules if rule.name is name)


class TestDefaults:
    def test_are_those_of_the_rules_and_the_policy(self, tmp_path: Path) -> None:
        settings = loaded(GOOD, tmp_path)
        assert settings.health == HealthSettings()
        assert settings.objectives == ObjectivesSettings()

    def test_every_rule_of_the_spec_can_be_named(self) -> None:
        assert RuleKey.__args__ == tuple(rule.name for rule in DEFAULT_RULES)  # type: ignore[attr-defined]


class TestRules:
    def test_change_only_what_is_said(self, tmp_path: Path) -> None:
        keys = {"hold_s": 5, "severity": "info", "action": "preempt"}
        settings = loaded(changed_args("health", "rules", value={"THERMAL_CRITICAL": keys}), tmp_path)
        changed = rule(settings, RuleName.THERMAL_CRITICAL)
        assert (changed.hold_s, changed.severity, changed.action) == (5, Severity.INFO, Action.PREEMPT)
        assert changed.threshold == 85
        assert [one for one in settings.health.rules if one is not changed] == [
            one for one in DEFAULT_RULES if one.name is not RuleName.THERMAL_CRITICAL
        ]

    def test_a_threshold_moves_the_limit_of_other_devices_in_proportion(self, tmp_path: Path) -> None:
        settings = loaded(changed_args("health", "rules", value={"POWER_CRITICAL": {"threshold": 500}}), tmp_path)
        assert rule(settings, RuleName.POWER_CRITICAL).ratio == 1.25

    def test_a_ratio_moves_the_limit_of_other_devices_alone(self, tmp_path: Path) -> None:
        settings = loaded(changed_args("health", "rules", value={"POWER_CRITICAL": {"ratio": 1.1}}), tmp_path)
        changed = rule(settings, RuleName.POWER_CRITICAL)
        assert (changed.threshold, changed.ratio) == (450, 1.1)

    def test_can_be_turned_off(self, tmp_path: Path) -> None:
        settings = loaded(changed_args("health", "rules", value={"POWER_SPIKE": {"enabled": False}}), tmp_path)
        assert RuleName.POWER_SPIKE not in {one.name for one in settings.health.active_rules}


class TestWebhooks:
    def test_name_where_their_secret_is_and_never_hold_it(self, tmp_path: Path) -> None:
        hook = {"url": "http://10.0.0.1:9000/", "secret_file": "secrets/hook", "min_severity": "critical"}
        (webhook,) = loaded(changed_args("health", "webhooks", value=[hook]), tmp_path).health.webhooks
        assert webhook.secret_file == tmp_path / "secrets/hook"
        assert (webhook.secret_env, webhook.min_severity) == (None, Severity.CRITICAL)


class TestMaintenance:
    def test_a_window_comes_whole(self, tmp_path: Path) -> None:
        (window,) = loaded(changed_args(*WINDOWS, value=[{**WINDOW, "action": "drain"}]), tmp_path).maintenance.windows
        assert (window.name, window.duration_s, window.nodes, window.drains) == (
            "nightly",
            3600.0,
            frozenset({"n"}),
            True,
        )
        assert window.timezone == "UTC"


class TestAProblem:
    @pytest.mark.parametrize(
        ("keys", "value", "path", "expected"),
        [
            (("health", "rules", "THERMAL"), {}, "health.rules.THERMAL", "one of: THERMAL_WARNING, THERMAL_CRITICAL"),
            (RULES, {"THROTTLING": {"hold_s": -1}}, "health.rules.THROTTLING.hold_s", "a number from 0"),
            (
                RULES,
                {"THROTTLING": {"action": "ban"}},
                "health.rules.THROTTLING.action",
                "one of: notify",
            ),
            (RULES, {"THROTTLING": {"ratio": 1.0}}, "health.rules.THROTTLING.ratio", "nothing: devices"),
            (
                RULES,
                {"THROTTLING": {"window_s": 9.0}},
                "health.rules.THROTTLING.window_s",
                "nothing: this",
            ),
            (RULES, {"POWER_SPIKE": None}, "health.rules.POWER_SPIKE", "a mapping with the keys enabled"),
            (
                RULES,
                {"MEMORY_PRESSURE": {"threshold": 90}},
                "health.rules.MEMORY_PRESSURE.threshold",
                "a number greater than 0, at most 1",
            ),
            (("health", "rest_s"), float("inf"), "health.rest_s", "a number from 0 to 86,400"),
            (("health", "max_quarantined"), 1.1, "health.max_quarantined", "a number from 0 to 1"),
            (("health", "dry_run"), "yes", "health.dry_run", "true or false"),
            (
                WEBHOOKS,
                [{"url": "https://x/"}],
                "health.webhooks[0]",
                "one of secret_file and secret_env",
            ),
            (WEBHOOKS, [{**HOOK, "secret_file": "x"}], "health.webhooks[0]", "one of secret_file"),
            (WEBHOOKS, [{**HOOK, "url": "ftp://x/"}], "health.webhooks[0].url", "an http:// or https://"),
            (
                WEBHOOKS,
                [{**HOOK, "url": "file:///etc"}],
                "health.webhooks[0].url",
                "an http:// or https://",
            ),
            (
                WEBHOOKS,
                [{**HOOK, "url": "http://a:b@x/"}],
                "health.webhooks[0].url",
                "an http:// or https",
            ),
            (
                WEBHOOKS,
                [{**HOOK, "secret": "s3cret"}],
                "health.webhooks[0].secret",
                "one of: url, secret_file",
            ),
            (WINDOWS, [{**WINDOW, "cron": "61 * * * *"}], "maintenance.windows[0].cron", "a cron schedule"),
            (WINDOWS, [{**WINDOW, "cron": "0 0 30 2 *"}], "maintenance.windows[0].cron", "a cron schedule"),
            (WINDOWS, [{**WINDOW, "duration_s": 0}], "maintenance.windows[0].duration_s", "a number from 60"),
            (WINDOWS, [{**WINDOW, "timezone": "Mars/Base"}], "maintenance.windows[0].timezone", "a time zone"),
            (WINDOWS, [{**WINDOW, "timezone": "../etc"}], "maintenance.windows[0].timezone", "a time zone"),
            (WINDOWS, [{**WINDOW, "nodes": []}], "maintenance.windows[0]", "at least one of devices and nodes"),
            (WINDOWS, [{**WINDOW, "devices": ["gpu-0"]}], "maintenance.windows[0].devices[0]", "a device such as"),
            (WINDOWS, [WINDOW, WINDOW], "maintenance.windows[1].name", "a name that no other window has"),
            (
                ("objectives", "availability"),
                {"target": 1.0},
                "objectives.availability.target",
                "a number greater than 0",
            ),
            (("objectives", "availability"), {"within_s": 1.0}, "objectives.availability.within_s", "one of: target"),
        ],
    )
    def test_names_its_key_and_what_it_takes(
        self, tmp_path: Path, keys: tuple[str, ...], value: Any, path: str, expected: str
    ) -> None:
        found = problem(changed_args(*keys, value=value), tmp_path)
        assert found.path == f"applications[0].args.{path}"
        assert found.expected.startswith(expected)
        assert found.line is not None
        assert "s3cret" not in str(found)


class TestObjectives:
    def test_change_only_what_is_said(self, tmp_path: Path) -> None:
        keys = {"target": 0.9, "window_days": 7, "within_s": 60.0}
        settings = loaded(changed_args("objectives", "job_completion_time", value=keys), tmp_path)
        changed = settings.objectives.job_completion_time
        assert (changed.target, changed.window_s, changed.within_s) == (0.9, 7 * 86_400.0, 60.0)
        assert settings.objectives.availability == ObjectivesSettings().availability
