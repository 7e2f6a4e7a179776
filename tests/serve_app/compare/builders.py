"""Scores and checkpoints that read as what a test says of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from serve_app.compare.questions import questions_digest, questions_of
from serve_app.compare.run_score import never_null_step
from serve_app.compare.score import CheckpointScore
from serve_app.engines.fingerprint import Fingerprint
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import write_deployed
from tests.serve_app.training.tiny import tiny_checkpoint

NO_FINGERPRINT = Fingerprint(traces=())


def score(
    right: str,
    *,
    version: str = "aaaaaaaaaaaa",
    step: int = 1,
    loss: float | None = 0.5,
    format_share: float = 1.0,
    latency_s: float = 0.03,
    test_set: str = "ours",
) -> CheckpointScore:
    """`right` has a `+` for each task answered right, and a `-` for each other."""
    return CheckpointScore(
        model="tiny",
        weights_version=version,
        step=step,
        path=f"models/tiny/checkpoint-{step}",
        right=tuple(mark == "+" for mark in right),
        loss=loss,
        format_share=format_share,
        latency_s=latency_s,
        fingerprint=NO_FINGERPRINT,
        test_set=test_set,
    )


def database() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


class Home:
    """A home with one model, `tiny`, whose checkpoints are as small as checkpoints get."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / "models" / "tiny"
        self.folder.mkdir(parents=True)

    def write(self, step: int, *, name: str | None = None, state: dict[str, object] | None = None) -> Path:
        """Other weights for each step: the trainer's state is a file of the checkpoint too."""
        target = self.folder / (name or f"checkpoint-{step}")
        partial = self.folder / f".partial-{target.name}"
        partial.mkdir()
        for file in tiny_checkpoint().iterdir():
            if file.name != "headroom_manifest.json":
                (partial / file.name).write_bytes(file.read_bytes())
        content = {"global_step": step} if state is None else state
        (partial / "trainer_state.json").write_text(json.dumps(content))
        partial.rename(target)
        return target

    def test_set(self, *answers: str) -> None:
        lines = [json.dumps({"prompt": f"Say {answer}", "answer": answer}) for answer in answers]
        (self.folder / "test_set.jsonl").write_text("\n".join(lines))

    def deploy(self, checkpoint: Path) -> None:
        write_deployed(self.folder, checkpoint)


class FakeScorer:
    """Scores without an engine; `says` decides what it says of a checkpoint, all answered right when it is None."""

    def __init__(self, says: Callable[[Path], str | Exception | None] = lambda path: None) -> None:
        self.says = says
        self.asked: list[str] = []
        self.right: dict[str, str] = {}

    async def score(self, path: Path, model: str) -> CheckpointScore | str:
        self.asked.append(path.name)
        said = self.says(path)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, str):
            return said
        verified = verify_checkpoint(path)
        questions = questions_of(path.parent, is_ours=False)
        marks = self.right.get(path.name, "+" * len(questions))
        return CheckpointScore(
            model=model,
            weights_version=verified.weights_version,
            step=never_null_step(verified),
            path=str(path),
            right=tuple(mark == "+" for mark in marks),
            loss=0.5,
            format_share=1.0,
            latency_s=0.03,
            fingerprint=NO_FINGERPRINT,
            test_set=questions_digest(questions),
        )
