"""`headroom rules`: what it prints is what cluster.yaml says, and what it cannot know it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from serve_app.cli import main
from serve_app.fleet.load_limits import LARGE_S, MEDIUM_S, SMALL_S, limit_s_of
from tests.serve_app.config.cluster_text import changed_args, written
from tests.serve_app.fleet.checkpoint_files import checkpoint
from tests.tracing.rules.shipped import SHIPPED
from tracing.rules.rule import document

CLUSTER = Path(__file__).parents[3] / "cluster.yaml"


def headroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["rules", *map(str, arguments)])


def rules(text: str) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def expressions(text: str) -> dict[str, str]:
    return {name: rule["expr"] for name, rule in rules(text).items()}


class TestRules:
    def test_of_the_shipped_file_are_those_that_are_tested_on_prometheus(self) -> None:
        result = headroom(CLUSTER, "--runbooks", "runbooks.md")
        assert result.exit_code == 0
        assert yaml.safe_load(result.stdout) == document(SHIPPED)

    def test_follow_the_file(self, tmp_path: Path) -> None:
        data: dict[str, Any] = changed_args("fleet", value={"headroom": 0.35})
        data["applications"][0]["args"]["modes"]["fast"] |= {"latency_target_s": 7.5, "cache_ttl_s": 0}
        shown = expressions(headroom(written(tmp_path, data)).stdout)
        assert shown["HeadroomLow"].endswith("< 0.35")
        assert shown["ModeLatencyHigh"].endswith("> 7.5")
        assert "CacheHitRateLow" not in shown

    def test_of_health_have_the_limits_that_the_watch_has(self, tmp_path: Path) -> None:
        changed = {
            "THERMAL_CRITICAL": {"threshold": 71.2, "hold_s": 12.5, "severity": "warning"},
            "POWER_CRITICAL": {"ratio": 1.5},
            "ECC_ERRORS_SPIKE": {"threshold": 3, "window_s": 120},
            "THROTTLING": {"enabled": False},
        }
        data = changed_args("health", value={"rules": changed})
        shown = rules(headroom(written(tmp_path, data)).stdout)
        hot = shown["THERMAL_CRITICAL"]
        assert "> ((0.8 * headroom_device_slowdown_celsius" in hot["expr"]
        assert "* 0 + 71.2)" in hot["expr"]
        assert (hot["for"], hot["labels"]["severity"]) == ("12500ms", "warning")
        assert "((1.5 * headroom_device_power_limit_watts" in shown["POWER_CRITICAL"]["expr"]
        assert "* 0 + 450.0 and" in shown["POWER_CRITICAL"]["expr"]
        assert shown["ECC_ERRORS_SPIKE"]["expr"].endswith("[120s]) >= 3.0")
        assert "THROTTLING" not in shown

    def test_go_to_a_file_when_asked(self, tmp_path: Path) -> None:
        out = tmp_path / "rules.yml"
        result = headroom(CLUSTER, "--out", out)
        shown = expressions(out.read_text(encoding="utf-8"))
        assert result.stdout == f"{len(shown)} rules written to {out}.\n"

    def test_that_cannot_be_written_say_so(self, tmp_path: Path) -> None:
        result = headroom(CLUSTER, "--out", tmp_path / "none" / "rules.yml")
        assert result.exit_code == 1
        assert "cannot be written: No such file or directory" in result.stderr

    def test_that_cannot_fire_yet_are_named(self) -> None:
        waiting = {rule.name.value for group in SHIPPED for rule in group.rules if rule.waits_for}
        said = headroom(CLUSTER).stderr
        assert {name for name in expressions(headroom(CLUSTER).stdout) if name in said} == waiting

    def test_of_a_file_with_problems_are_not_made(self, tmp_path: Path) -> None:
        result = headroom(written(tmp_path, changed_args("fleet", value={"headrom": 0.1})))
        assert (result.exit_code, result.stdout) == (2, "")


class TestLoadLimits:
    @pytest.mark.parametrize(
        ("count", "limit_s"),
        [(0, SMALL_S), (10**9 - 1, SMALL_S), (10**9, MEDIUM_S), (10**10 - 1, MEDIUM_S), (10**10, LARGE_S)],
    )
    def test_go_by_parameters(self, count: int, limit_s: float) -> None:
        assert limit_s_of(count) == limit_s

    def test_of_a_checkpoint_come_from_its_config(self, tmp_path: Path) -> None:
        checkpoint(tmp_path / "roots" / "mine", hidden_size=4096, intermediate_size=16384, num_hidden_layers=8)
        data = changed_args("models", 0, "source", value="roots/mine")
        data["applications"][0]["args"]["storage"] = {"model_roots": ["roots"]}
        result = headroom(written(tmp_path, data))
        assert f'le="{MEDIUM_S}"' in expressions(result.stdout)["ModelLoadSlow"]
        assert "'mini'" not in result.stderr

    def test_of_a_checkpoint_that_is_not_there_are_the_largest_and_that_is_said(self, tmp_path: Path) -> None:
        data = changed_args("models", 0, "source", value="roots/mine")
        result = headroom(written(tmp_path, data))
        assert result.exit_code == 0
        assert f'le="{LARGE_S}"' in expressions(result.stdout)["ModelLoadSlow"]
        assert "The size of 'mini' is not known, so it may load for 16.5 s: The checkpoint" in result.stderr
