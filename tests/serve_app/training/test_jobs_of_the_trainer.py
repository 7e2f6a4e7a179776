from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save

from serve_app.errors import CheckpointRefused, ConfigRefused, ModelNotMade
from serve_app.jobs.messages import Failed, Progress, Said, Saved, read_line
from serve_app.training.checkpoints import accuracy_of, step_of, verify_checkpoint
from serve_app.training.job_config import read_job_config
from serve_app.training.prepare_job import run_course
from tests.serve_app.training.job_world import (
    TRACEPARENT,
    RecordingChannel,
    config,
    digests,
    home_with_tiny,
    run,
    surroundings,
)
from tests.serve_app.training.tiny import tiny_checkpoint

REINFORCE = {"kind": "reinforce", "num_tasks": 2, "num_answers": 2}
KINDS: list[dict[str, Any]] = [{"kind": "train"}, REINFORCE]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return home_with_tiny(tmp_path / "home")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("entries", "field"),
        [
            ({"steps": 0}, "steps"),
            ({"model": "../elsewhere"}, "model"),
            ({"from": "yesterday"}, "from"),
            ({"learning_rate": -1}, "learning_rate"),
            ({"surprise": 1}, "surprise"),
            ({"size": "huge"}, "size"),
            ({"clip_range": 0.2}, "clip_range"),
            ({"curriculum": [{"kind": "sum", "difficulty": 3, "weight": 99}]}, "curriculum.0.weight"),
        ],
    )
    def test_what_is_wrong_is_named_by_its_field(self, tmp_path: Path, entries: dict[str, object], field: str) -> None:
        with pytest.raises(ConfigRefused, match=f"`{field}") as refused:
            config(tmp_path, **entries)
        assert refused.value.expected
        assert refused.value.advice

    @pytest.mark.parametrize("text", [None, "", "[]", "{", '{"kind": "bake"}'])
    def test_what_is_no_configuration_is_refused(self, text: str | None) -> None:
        with pytest.raises(ConfigRefused):
            read_job_config(text)


class TestGoingOn:
    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
    def test_a_child_is_whole_and_says_where_it_comes_from(self, home: Path, kind: dict[str, Any]) -> None:
        channel = run(home, **kind)
        child = verify_checkpoint(Path(channel.saved[-1].path))
        parent = verify_checkpoint(tiny_checkpoint())
        assert child.manifest is not None
        assert child.manifest.parent == parent.weights_version
        assert child.manifest.traceparent == TRACEPARENT
        assert child.manifest.git_commit == "0123456789abcdef"
        assert child.step == step_of(child.path) == 4 + 6
        assert child.weights_version == channel.saved[-1].weights_version
        assert child.files.keys() == parent.files.keys()
        assert accuracy_of(child.path) is not None
        own = {"model.safetensors", "trainer_state.json"}
        assert {name for name in parent.files if child.files[name] != parent.files[name]} == own

    def test_it_saves_as_often_as_it_is_told(self, home: Path) -> None:
        assert [saved.step for saved in run(home, save_every=2).saved] == [6, 8, 10]

    def test_it_says_how_it_goes_every_second(self, home: Path) -> None:
        channel = run(home, steps=3, channel=RecordingChannel(seconds_per_look=1.0))
        assert [one.step for one in channel.progress] == [1, 2, 3, 3]
        assert all({"loss", "tokens_per_s"} <= one.metrics.keys() for one in channel.progress)

    def test_or_every_ten_steps(self, home: Path) -> None:
        assert [one.step for one in run(home, steps=20).progress] == [10, 20]

    def test_the_parents_own_rows_are_not_learned_again(self, home: Path) -> None:
        """Continuing with the parent's seed gives what another seed gives: other weights than a longer first run."""
        first = run(home, steps=2).saved[-1]
        second = run(home, steps=2, begin=first.weights_version).saved[-1]
        assert second.metrics["loss"] != first.metrics["loss"]

    def test_another_curriculum_gives_other_weights(self, home: Path) -> None:
        only = [{"kind": "sum", "difficulty": level, "weight": 3.0} for level in (2, 3)]
        one, two = run(home).saved[-1], run(home, curriculum=only).saved[-1]
        assert one.weights_version != two.weights_version

    def test_a_model_can_begin_from_nothing(self, tmp_path: Path) -> None:
        size = {"hidden_size": 32, "num_layers": 1, "intermediate_size": 64}
        channel = run(tmp_path, model="fresh", steps=2, size=size, begin="nothing")
        made = verify_checkpoint(tmp_path / "models" / "fresh" / "checkpoint-2")
        assert made.manifest is not None
        assert made.manifest.parent is None
        assert made.weights_version == channel.saved[-1].weights_version


class TestAStepThatIsTaken:
    def test_other_weights_get_the_next_free_number(self, home: Path) -> None:
        first = run(home, seed=1).saved[-1]
        second = run(home, seed=2).saved[-1]
        assert (first.step, second.step) == (10, 11)
        assert step_of(Path(second.path)) == 11
        assert verify_checkpoint(Path(first.path)).weights_version == first.weights_version

    def test_the_very_same_weights_are_not_written_twice(self, home: Path) -> None:
        assert run(home).saved[-1] == run(home).saved[-1]


@pytest.fixture(scope="class", params=KINDS, ids=lambda kind: kind["kind"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Saved]:
    """A kind of job, and the end of one that nobody stopped."""
    home = home_with_tiny(tmp_path_factory.mktemp("uninterrupted") / "home")
    return request.param, run(home, steps=12, save_every=5, **request.param).saved[-1]


class TestPreemption:
    @pytest.mark.parametrize("stop_after", [1, 5, 7, 11])
    def test_a_resumed_job_gives_the_same_bytes_as_an_uninterrupted_one(
        self, home: Path, uninterrupted: tuple[dict[str, Any], Saved], stop_after: int
    ) -> None:
        kind, wanted = uninterrupted
        stopped = run(home, steps=12, save_every=5, channel=RecordingChannel(stop_after=stop_after), **kind)
        saved = Path(stopped.saved[-1].path)
        assert saved.name == f"checkpoint-{4 + stop_after}"
        (home / "models" / "tiny" / "deployed").unlink()  # what serves by then does not matter
        (home / "models" / "tiny" / "deployed").symlink_to(saved.name)
        got = run(home, steps=12, save_every=5, resume_from=saved, **kind).saved[-1]
        assert digests(Path(got.path)) == digests(Path(wanted.path))
        assert got.step == wanted.step

    def test_a_job_that_did_nothing_yet_saves_nothing(self, home: Path) -> None:
        channel = RecordingChannel(stop_after=0)
        assert not run_course(config(home), surroundings(home), channel)
        assert channel.said == []
        assert "nothing to save" in channel.logged[-1]

    def test_without_its_folder_it_goes_on_with_the_weights_and_says_so(self, home: Path) -> None:
        saved = Path(run(home, steps=8, channel=RecordingChannel(stop_after=3)).saved[-1].path)
        shutil.rmtree(home / "job")
        channel = run(home, steps=8, resume_from=saved)
        assert channel.saved[-1].step == 12
        assert any("weights alone" in line for line in channel.logged)

    def test_another_jobs_checkpoint_is_not_gone_on_from(self, home: Path) -> None:
        saved = Path(run(home, seed=1).saved[-1].path)
        with pytest.raises(CheckpointRefused, match="another configuration"):
            run(home, seed=2, resume_from=saved)


class TestAParentThatIsNoGood:
    def test_a_missing_one_is_refused(self, home: Path) -> None:
        with pytest.raises(CheckpointRefused, match="no checkpoint '0123456789ab'"):
            run(home, begin="0123456789ab")

    def test_one_of_other_sizes_is_refused(self, home: Path) -> None:
        with pytest.raises(CheckpointRefused, match="other sizes"):
            run(home, size="mini")

    def test_without_a_parent_the_size_must_be_said(self, home: Path) -> None:
        with pytest.raises(ConfigRefused, match="how large"):
            run(home, begin="nothing")

    def test_weights_that_do_not_fit_their_configuration_are_refused(self, home: Path) -> None:
        from serve_app.ops.drills_checkpoints import DrillCheckpoint, make_drill_checkpoint

        folder = home / "models" / "tiny"
        make_drill_checkpoint(DrillCheckpoint.OTHER_SHAPES, folder / "checkpoint-4", folder=folder, step=9)
        with pytest.raises(CheckpointRefused, match="do not fit"):
            run(home, begin="latest")
        assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-9"]

    def test_one_that_gives_no_numbers_ends_the_job_and_leaves_nothing(self, home: Path) -> None:
        parent = home / "models" / "tiny" / "checkpoint-4"
        weights = load_file(parent / "model.safetensors")
        weights["model.norm.weight"][0] = float("nan")
        (parent / "model.safetensors").write_bytes(save(weights))
        (parent / "headroom_manifest.json").unlink()
        with pytest.raises(ModelNotMade, match="astray"):
            run(home)
        assert [path.name for path in parent.parent.glob("*checkpoint*")] == ["checkpoint-4"]


def start(home: Path, *, most_bytes: int = resource.RLIM_INFINITY, **entries: object) -> subprocess.Popen[str]:
    """The program as a job's actor starts it; no file it writes may have more than `most_bytes`."""
    asked = {"kind": "train", "model": "tiny", "home": str(home), **entries}
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.training.run_job"],
        env={**os.environ, "HEADROOM_JOB_CONFIG": json.dumps(asked), "HEADROOM_JOB_FOLDER": str(home / "job")},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),  # noqa: PLW1509
    )


def messages(lines: str) -> list[Said]:
    return [message for line in lines.splitlines() if (message := read_line(line)) is not None]


class TestTheProgram:
    def test_sigterm_saves_and_ends_with_zero(self, home: Path) -> None:
        program = start(home, steps=100_000)
        assert program.stdout is not None
        first = next(message for line in program.stdout if (message := read_line(line)) is not None)
        assert isinstance(first, Progress)
        program.send_signal(signal.SIGTERM)
        rest, _ = program.communicate(timeout=60)
        assert program.returncode == 0
        saved = messages(rest)[-1]
        assert isinstance(saved, Saved)
        assert verify_checkpoint(Path(saved.path)).weights_version == saved.weights_version
        assert "SIGTERM" in rest.splitlines()[-1]

    def test_a_damaged_parent_ends_it_with_three_sentences(self, home: Path) -> None:
        weights = home / "models" / "tiny" / "checkpoint-4" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        program = start(home, steps=2)
        said, _ = program.communicate(timeout=60)
        (failed,) = messages(said)
        assert program.returncode != 0
        assert isinstance(failed, Failed)
        assert all((failed.what, failed.expected, failed.advice))

    def test_a_disk_that_takes_no_more_ends_it_with_three_sentences_and_nothing_half_done(self, home: Path) -> None:
        """The kernel stops every file in its middle, as a full disk does."""
        program = start(home, steps=2, most_bytes=20_000)
        said, _ = program.communicate(timeout=60)
        failed = messages(said)[-1]
        assert isinstance(failed, Failed)
        assert "could not be stored" in failed.what
        assert [path.name for path in (home / "models" / "tiny").glob("*checkpoint*")] == ["checkpoint-4"]
        assert list((home / "job").iterdir()) == []
