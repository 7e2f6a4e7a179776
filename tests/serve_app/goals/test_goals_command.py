"""`headroom goals` and `headroom comparisons` as people see them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serve_app.cli import main
from tests.serve_app.cli.loopback import answering, silent_address

GOAL: dict[str, Any] = {
    "id": "g1",
    "model": "mini",
    "metric": "accuracy",
    "target": 0.9,
    "deadline_s": time.time() + 7200,
    "priority": 3,
    "created_at_s": 0.0,
    "min_gain": None,
    "state": "open",
    "why": "Job j1 is under way.",
    "jobs": [{"job_id": "j1", "strategy": "seed", "state": "active", "before": None, "submitted_at_s": 0.0}],
}


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, result.output
    return result.output


class TestGoalsCommand:
    def test_a_goal_is_added_and_shown_with_its_jobs(self) -> None:
        with answering({"/v1/goals": GOAL, "/v1/goals/g1": GOAL}) as address:
            words = ("--model", "mini", "--metric", "accuracy", "--target", "0.9", "--address", address)
            assert json.loads(run("goals", "add", *words, "--json"))["id"] == "g1"
            shown = run("goals", "show", "g1", "--address", address)
        assert re.search(r"g1: mini, accuracy ≥ 0.9, (2.0|1.9) h left, priority 3", shown)
        assert "job j1: seed, active" in shown

    def test_goals_are_listed(self) -> None:
        with answering({"/v1/goals?limit=20": {"goals": [GOAL], "next": None}}) as address:
            assert "Job j1 is under way." in run("goals", "list", "--address", address)

    def test_a_refusal_is_shown_as_its_sentence(self) -> None:
        refusal = {"error": {"message": "There is no goal 'g9'.", "origin": "gateway", "code": "unknown_goal"}}
        with answering({"/v1/goals/g9": refusal}, status=404) as address:
            assert "There is no goal 'g9'." in run("goals", "show", "g9", "--address", address, code=1)

    def test_nobody_there_is_said(self) -> None:
        with silent_address() as address:
            run("goals", "list", "--address", address, code=3)


class TestComparisonsCommand:
    def test_before_a_cluster_ever_compared_it_says_so(self, tmp_path: Path) -> None:
        assert "no " in run("comparisons", "--home", str(tmp_path), code=3)

    @pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 99}'])
    def test_a_file_of_another_form_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "status").mkdir()
        (tmp_path / "status" / "model_comparisons.json").write_text(text)
        run("comparisons", "--home", str(tmp_path), code=8)
