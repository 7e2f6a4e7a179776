"""`headroom forecast`: generate, backtest, and what each refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["forecast", *map(str, arguments)])


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("telemetry") / "small.parquet"
    result = run("generate", path, "--devices", 6, "--days", 0.5, "--interval", "5m", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "They are simulated, seed 3." in result.output
    return path


class TestBacktest:
    def test_prints_all_detectors_and_stories(self, generated: Path) -> None:
        result = run("backtest", generated)
        assert result.exit_code == 0, result.output
        assert all(name in result.output for name in ("forecast", "80 °C", "85 °C", "least squares", "healthy_"))

    def test_json_says_what_the_table_says(self, generated: Path) -> None:
        found: dict[str, Any] = json.loads(run("backtest", generated, "--json", "--horizon", "1h").stdout)
        ours = found["detectors"]["forecast"]
        assert found["horizon_s"] == 3600
        assert ours["overall"]["num_lives"] == 6
        assert sum(story["num_lives"] for story in ours["stories"].values()) == 6

    def test_a_lower_threshold_raises_no_fewer_alarms(self, generated: Path) -> None:
        counts = [
            json.loads(run("backtest", generated, "--json", "--threshold", threshold).stdout)["detectors"]["forecast"]
            for threshold in (0.01, 0.99)
        ]
        assert counts[0]["overall"]["num_alarms"] > counts[1]["overall"]["num_alarms"]

    @pytest.mark.parametrize("horizon", ["30", "0m", "-5m", "soon", "1e9h"])
    def test_a_horizon_that_is_no_duration_is_refused(self, generated: Path, horizon: str) -> None:
        result = run("backtest", generated, f"--horizon={horizon}")
        assert result.exit_code == 2
        assert f"'{horizon}' is no duration above 0. Write it as 90s, 30m or 2h." in result.output

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        result = run("backtest", tmp_path / "none.csv")
        assert result.exit_code == 2
        assert "There is no file" in result.output


class TestGenerate:
    def test_too_many_rows_are_refused_before_any_work(self, tmp_path: Path) -> None:
        result = run("generate", tmp_path / "t.csv", "--devices", 1024, "--days", 31, "--interval", "1s")
        assert result.exit_code == 2
        assert "at most 20,000,000" in result.output

    def test_another_ending_is_refused_before_any_work(self, tmp_path: Path) -> None:
        result = run("generate", tmp_path / "t.txt")
        assert result.exit_code == 2
        assert "ends in '.txt'" in result.output
