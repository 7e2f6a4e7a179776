from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from serve_app.training.defaults import DEFAULT_MODELS
from serve_app.training.tasks import TEST_TASKS_PER_KIND, TaskKind, held_out_tasks
from tests.serve_app.training.answering_api import openai_api
from tests.serve_app.training.tiny import copy_of_tiny

ANSWERS = {task.prompt: task.answer for task in held_out_tasks()}


def headroom(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def a_home(folder: Path) -> Path:
    """One in which every default model is made already."""
    for name in DEFAULT_MODELS:
        copy_of_tiny(folder / "models" / name)
    return folder


class TestEval:
    def test_a_model_that_knows_everything_gets_all(self) -> None:
        with openai_api(ANSWERS.get) as (url, _):
            said = json.loads(headroom("eval", "mini", "--base-url", url, "--json").stdout)
        assert said["total"]["num_right"] == said["total"]["num_asked"] == TEST_TASKS_PER_KIND * len(TaskKind)
        assert set(said["by_kind"]) == set(TaskKind)
        assert said["total"]["low"] < said["total"]["accuracy"] == said["total"]["high"] == 1.0

    def test_the_table_has_a_row_for_each_kind_and_one_for_all(self) -> None:
        with openai_api(lambda prompt: ANSWERS[prompt] if "+" in prompt else "?") as (url, _):
            lines = headroom("eval", "mini", "--base-url", url, "--limit", "16").stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["KIND", *TaskKind, "all"]
        assert lines[-1].split()[1:4] == ["2", "16", "12%"]

    def test_it_asks_greedily_past_the_cache_and_a_bounded_number_at_once(self) -> None:
        with openai_api(ANSWERS.get) as (url, seen):
            headroom("eval", "mini", "--base-url", url, "--limit", "40", "--concurrency", "3")
        assert {(body["temperature"], body["model"]) for body in seen.bodies} == {(0, "mini")}
        assert set(seen.cache_controls) == {"no-store"}
        assert 1 <= seen.most_at_once <= 3
        assert len(seen.bodies) == 40

    def test_a_model_that_says_nothing_has_nothing_right(self) -> None:
        with openai_api(lambda _: None) as (url, _):
            said = json.loads(headroom("eval", "mini", "--base-url", url, "--limit", "8", "--json").stdout)
        assert said["total"]["num_right"] == 0

    def test_an_unknown_model_names_the_known(self) -> None:
        with openai_api(ANSWERS.get) as (url, _):
            result = headroom("eval", "huge", "--base-url", url, "--limit", "8")
        assert result.exit_code == 1
        assert "serves no model 'huge'. Expected one of: mini." in result.stderr

    def test_a_refusal_says_the_status_and_the_reason(self) -> None:
        with openai_api(ANSWERS.get, status=400) as (url, _):
            result = headroom("eval", "mini", "--base-url", url, "--limit", "8")
        assert result.exit_code == 1
        assert "status 400" in result.stderr
        assert "not well" in result.stderr

    def test_where_nothing_listens_the_command_to_start_is_named(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port
            result = headroom("eval", "mini", "--base-url", f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        assert result.exit_code == 3
        assert "headroom up" in result.stderr

    @pytest.mark.parametrize("url", ["", "nonsense", "http://", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1"])
    def test_an_address_that_is_none_is_an_error_and_no_traceback(self, url: str) -> None:
        result = headroom("eval", "mini", "--base-url", url, "--limit", "8")
        assert result.exit_code in (1, 2, 3, 8)
        assert "Traceback" not in result.output


class TestModels:
    def test_make_leaves_whole_models_as_they_are(self, tmp_path: Path) -> None:
        home = a_home(tmp_path)
        result = headroom("models", "make", "--home", str(home), "--json")
        assert list(json.loads(result.stdout)) == list(DEFAULT_MODELS)

    def test_make_refuses_an_unknown_name_before_anything_starts(self, tmp_path: Path) -> None:
        result = headroom("models", "make", "mini", "huge", "--home", str(tmp_path))
        assert result.exit_code == 11
        assert "mini, small, base" in result.stderr
        assert not list(tmp_path.iterdir())

    def test_list_names_default_models_before_they_are_made(self, tmp_path: Path) -> None:
        listed = json.loads(headroom("models", "list", "--home", str(tmp_path), "--json").stdout)
        assert [(one["model"], one["checkpoint"]) for one in listed] == [(name, None) for name in DEFAULT_MODELS]

    def test_list_says_what_is_there(self, tmp_path: Path) -> None:
        copy_of_tiny(tmp_path / "models" / "mini")
        mine = copy_of_tiny(tmp_path / "models" / "mine")
        listed = {
            one["model"]: one
            for one in json.loads(headroom("models", "list", "--home", str(tmp_path), "--json").stdout)
        }
        assert (listed["mini"]["step"], listed["mini"]["default"], listed["mini"]["deployed"]) == (4, True, False)
        assert listed["mine"]["checkpoint"] == str(mine)
        assert listed["mine"]["weights_version"] == listed["mini"]["weights_version"]
        assert 0 <= listed["mine"]["test_accuracy"] <= 1

    def test_verify_names_the_weights(self, tmp_path: Path) -> None:
        copy = copy_of_tiny(tmp_path)
        result = headroom("models", "verify", str(copy))
        facts = json.loads(headroom("models", "verify", str(copy), "--json").stdout)
        assert result.exit_code == 0
        assert f"weights {facts['weights_version']}, step 4" in result.stdout

    def test_verify_refuses_a_damaged_one_with_exit_code_5(self, tmp_path: Path) -> None:
        copy = copy_of_tiny(tmp_path)
        os.truncate(copy / "model.safetensors", 100)
        result = headroom("models", "verify", str(copy))
        assert result.exit_code == 5
        assert "model.safetensors" in result.stderr
