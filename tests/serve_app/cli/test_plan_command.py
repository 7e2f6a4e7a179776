"""`headroom plan`, on this machine's memory, with nothing running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from placement.codec import plan_from_json
from serve_app.cli import main
from tests.serve_app.config.cluster_text import changed_args, written
from tests.serve_app.fleet.checkpoint_files import checkpoint

TERABYTE_OF_FLOATS = 2**38


def plan(directory: Path, *models: dict[str, Any], arguments: tuple[str, ...] = ()) -> Result:
    data = changed_args("models", value=list(models))
    roots = {"home": str(directory / "home"), "model_roots": [str(directory)]}
    data["applications"][0]["args"] |= {"fleet": {"devices": "host"}, "modes": {}, "storage": roots}
    return CliRunner().invoke(main, ["plan", str(written(directory, data)), *arguments])


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    return {"id": "little", "source": str(checkpoint(tmp_path / "little", num_floats=262_144)), "max_num_seqs": 2}


@pytest.fixture
def huge(tmp_path: Path) -> dict[str, Any]:
    return {"id": "whale", "source": str(checkpoint(tmp_path / "whale", num_floats=TERABYTE_OF_FLOATS))}


class TestPlan:
    def test_shows_every_holder_with_its_bytes_and_the_headroom_at_the_peak(
        self, tmp_path: Path, small: dict[str, Any]
    ) -> None:
        result = plan(tmp_path, small)
        assert result.exit_code == 0, result.output
        assert "little#0" in result.stdout
        assert "1.0 MiB" in result.stdout
        assert "PASS" in result.stdout
        assert "headroom 20 %" in result.stdout

    def test_a_refusal_is_a_sentence_with_numbers_and_exit_code_one(
        self, tmp_path: Path, small: dict[str, Any], huge: dict[str, Any]
    ) -> None:
        result = plan(tmp_path, small, huge)
        assert result.exit_code == 1
        assert "No room for 'whale': it needs" in " ".join(result.stdout.split())

    def test_what_fits_is_placed_beside_a_refusal(
        self, tmp_path: Path, small: dict[str, Any], huge: dict[str, Any]
    ) -> None:
        shown = json.loads(plan(tmp_path, huge, small, arguments=("--json",)).stdout)
        assert [placement["model"] for placement in shown["plan"]["placements"]] == ["little"]
        assert [refusal["model"] for refusal in shown["plan"]["refusals"]] == ["whale"]

    def test_json_is_a_plan_and_its_inventory(self, tmp_path: Path, small: dict[str, Any]) -> None:
        shown = json.loads(plan(tmp_path, small, arguments=("--json",)).stdout)
        assert plan_from_json(json.dumps(shown["plan"])).inventory_version == shown["inventory"]["version"]
        assert shown["devices"][0]["verdict"] == "PASS"

    def test_a_wrong_file_is_exit_code_two_with_the_line(self, tmp_path: Path, small: dict[str, Any]) -> None:
        result = plan(tmp_path, {**small, "max_model_len": 4096})
        assert result.exit_code == 2
        assert "models[0].max_model_len is 4096" in result.stderr

    def test_a_default_model_is_planned_without_being_made(self, tmp_path: Path) -> None:
        result = plan(tmp_path, {"id": "mini", "source": "default:mini"})
        assert result.exit_code == 0, result.output
        assert not (tmp_path / "home").exists()
