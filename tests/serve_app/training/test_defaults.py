from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree

import pytest

from serve_app.errors import ModelNotMade
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.defaults import DEFAULT_MODELS, Progress, Stage, ensure_default_model, ensure_model
from serve_app.training.deployed import read_deployed, write_deployed
from serve_app.training.messages import Moved
from serve_app.training.messages import read as read_message
from serve_app.training.side_by_side import ensure_default_models
from serve_app.training.writer import Origin, clear_partial, write_checkpoint
from tests.serve_app.training.tiny import TINY, copy_of_tiny, ignore, tiny_checkpoint

ORIGIN = Origin(model="m", step=1, config_hash="c", seed=0, created_at=datetime(2026, 1, 1, tzinfo=UTC))


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def writing(text: str) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        (directory / "a").write_text(text)

    return fill


class TestEnsureModel:
    def test_a_second_call_trains_nothing(self, tmp_path: Path) -> None:
        copy = copy_of_tiny(tmp_path)
        heard: list[Progress] = []
        assert ensure_model(TINY, folder=tmp_path, progress=heard.append) == copy
        assert [progress.stage for progress in heard] == [Stage.READY]

    def test_what_is_made_serves(self) -> None:
        assert read_deployed(tiny_checkpoint().parent) == tiny_checkpoint()

    def test_progress_goes_through_all_stages_to_the_last_step(self, tmp_path: Path) -> None:
        heard: list[Progress] = []
        ensure_model(TINY, folder=tmp_path, progress=heard.append)
        assert list(dict.fromkeys(progress.stage for progress in heard)) == list(Stage)[1:]
        assert heard[-1].step == heard[-1].num_steps == TINY.num_steps

    def test_a_damaged_checkpoint_is_made_again(self, tmp_path: Path) -> None:
        copy = copy_of_tiny(tmp_path)
        os.truncate(copy / "model.safetensors", 100)
        made = ensure_model(TINY, folder=tmp_path, progress=ignore)
        expected = verify_checkpoint(tiny_checkpoint()).weights_version
        assert verify_checkpoint(made).weights_version == expected

    def test_what_a_killed_run_left_is_cleared_away(self, tmp_path: Path) -> None:
        copytree(tiny_checkpoint(), tmp_path / ".partial-checkpoint-4-123")
        ensure_model(TINY, folder=tmp_path, progress=ignore)
        assert entries(tmp_path) == {"checkpoint-4", "deployed", ".lock"}

    def test_another_deployed_checkpoint_is_left_as_it_is(self, tmp_path: Path) -> None:
        other = copytree(tiny_checkpoint(), tmp_path / "checkpoint-900")
        copy_of_tiny(tmp_path)
        write_deployed(tmp_path, other)
        assert ensure_model(TINY, folder=tmp_path, progress=ignore) == other

    def test_a_folder_that_cannot_be_made_is_an_error_with_advice(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelNotMade, match="HEADROOM_HOME"):
            ensure_model(TINY, folder=tmp_path / "file" / "tiny", progress=ignore)

    def test_an_unknown_model_names_the_known(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotMade, match="mini, small, base"):
            ensure_default_model("huge", home=tmp_path, progress=ignore)

    def test_two_processes_at_once_make_it_once(self, tmp_path: Path) -> None:
        """The second says that it waits, and then only reads."""
        program = (
            "import sys; from pathlib import Path; from tests.serve_app.training.tiny import TINY;"
            "from serve_app.training.defaults import ensure_model;"
            "stages = []; hear = lambda progress: stages.append(progress.stage);"
            "made = ensure_model(TINY, folder=Path(sys.argv[1]), progress=hear);"
            "print('training' in stages, made.stat().st_ino)"
        )
        root = str(Path(__file__).parents[3])
        command = [sys.executable, "-c", program, str(tmp_path)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
        said = sorted(process.communicate(timeout=100)[0].split() for process in both)
        assert [trained for trained, _ in said] == ["False", "True"]
        assert said[0][1] == said[1][1]


class TestWriteCheckpoint:
    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        def fill(directory: Path) -> None:
            (directory / "half").write_text("x")
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            write_checkpoint(tmp_path, ORIGIN, fill=fill)
        assert entries(tmp_path) == set()

    def test_a_failure_leaves_the_old_one(self, tmp_path: Path) -> None:
        def fail(_: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        old = write_checkpoint(tmp_path, ORIGIN, fill=writing("old"))
        with pytest.raises(OSError, match="No space left"):
            write_checkpoint(tmp_path, ORIGIN, fill=fail)
        assert (old / "a").read_text() == "old"

    def test_the_same_step_again_replaces_it(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, ORIGIN, fill=writing("old"))
        made = write_checkpoint(tmp_path, ORIGIN, fill=writing("new"))
        assert (made / "a").read_text() == "new"
        assert entries(tmp_path) == {"checkpoint-1"}

    def test_a_kill_between_taking_away_and_putting_in_place_is_mended(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, ORIGIN, fill=writing("old"))
        (tmp_path / "checkpoint-1").rename(tmp_path / ".replaced-checkpoint-1")
        (tmp_path / ".partial-checkpoint-1-77").mkdir()
        clear_partial(tmp_path)
        assert (tmp_path / "checkpoint-1" / "a").read_text() == "old"
        assert entries(tmp_path) == {"checkpoint-1"}


class TestDefaultModels:
    def test_they_differ_clearly_in_size(self) -> None:
        from serve_app.training.tasks import INSTRUCTION_WORDS
        from serve_app.training.tokenizer import build_tokenizer
        from serve_app.training.trainer import new_model

        tokenizer = build_tokenizer(INSTRUCTION_WORDS)
        sizes = [new_model(recipe, tokenizer).num_parameters() for recipe in DEFAULT_MODELS.values()]
        assert [round(size / 1e6, 1) for size in sizes] == [0.4, 1.0, 4.1]

    def test_vllm_on_a_cpu_knows_their_heads(self) -> None:
        for recipe in DEFAULT_MODELS.values():
            assert recipe.head_dim in (32, 64, 80, 96, 112, 128)
            assert recipe.num_heads * recipe.head_dim == recipe.hidden_size


class TestSideBySide:
    def test_models_that_are_there_start_no_process(self, tmp_path: Path) -> None:
        heard: list[Progress] = []
        for name in DEFAULT_MODELS:
            copy_of_tiny(tmp_path / "models" / name)
        made = ensure_default_models(DEFAULT_MODELS, home=tmp_path, progress=heard.append)
        assert {name: path.parent.name for name, path in made.items()} == {name: name for name in DEFAULT_MODELS}
        assert not heard

    def test_a_trainer_that_fails_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("in the way")
        with pytest.raises(ModelNotMade, match="could not be stored"):
            ensure_default_models(["mini"], home=tmp_path, progress=ignore)

    def test_a_trainers_lines_are_messages(self, tmp_path: Path) -> None:
        copy_of_tiny(tmp_path / "models" / "mini")
        command = [sys.executable, "-m", "serve_app.training.make_one", "mini", str(tmp_path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        first = read_message(said[0])
        assert isinstance(first, Moved)
        assert first.stage is Stage.READY
        assert [read_message(line).kind for line in said] == ["moved", "made"]
