"""`python -m serve_app.compare.run_score`: scores one checkpoint in an engine of its own, as an internal job.

Reads its configuration from the environment, tells how far it is in the lines of `jobs/messages.py`, ends with a
`Result`. A `Failed` is of the checkpoint: trying again does not help until its files change. What else goes wrong is
the job's own, ends without one, and may be tried again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from placement.codec import from_json_value, to_json_value
from placement.inventory import DeviceKind
from serve_app.compare.measure import measure
from serve_app.compare.questions import MAX_QUESTIONS, questions_of
from serve_app.compare.score import CheckpointScore
from serve_app.engines.environment import engine_environment
from serve_app.engines.protocol import EngineLaunch
from serve_app.engines.spec import EngineArguments
from serve_app.errors import CheckpointRefused, HeadroomError
from serve_app.jobs.messages import Failed, Progress, Result, Said, line_of
from serve_app.training.checkpoints import Verified, step_of, verify_checkpoint

CONFIG_VARIABLE: Final = "HEADROOM_JOB_CONFIG"
_TOLD_EVERY: Final = 16
"""Answers between two lines of progress."""


class ScoreConfig(BaseModel):
    """Of one scoring. `limit` None: the whole test set. `device_uuids` are what the job was given; empty on a host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path
    model: Annotated[str, Field(min_length=1, max_length=128)]
    dtype: str = "auto"
    max_model_len: Annotated[int, Field(ge=64)] = 512
    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] = 8
    kv_cache_bytes: Annotated[int, Field(ge=1)]
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    device_kind: DeviceKind = DeviceKind.HOST
    device_uuids: tuple[str, ...] = ()
    limit: Annotated[int, Field(ge=1, le=MAX_QUESTIONS)] | None = None


def outcome_of(said: Result | Failed) -> CheckpointScore | str:
    """What the job's last word means: its score, or why this checkpoint cannot have one.

    Raises: placement.errors.DecodeError if a `Result` holds no score.
    """
    if isinstance(said, Failed):
        return " ".join(sentence for sentence in (said.what, said.expected, said.advice) if sentence)
    return from_json_value(CheckpointScore, said.value.get("score"), path="score")


def never_null_step(verified: Verified) -> int:
    """The trainer's step, else the name's, else the manifest's. Raises: CheckpointRefused when none says."""
    step = step_of(verified.path)
    step = verified.step if step is None else step
    if step is None:
        raise CheckpointRefused(
            f"Nobody knows the step of checkpoint {verified.path}.",
            expected="Expected `global_step` in trainer_state.json, or a name such as checkpoint-500.",
            advice="Rename the directory, or write trainer_state.json.",
        )
    return step


async def scored(config: ScoreConfig) -> CheckpointScore:
    """Raises: CheckpointRefused, BadAnswer, and whatever an engine that does not start raises."""
    verified = verify_checkpoint(config.checkpoint)
    step = never_null_step(verified)
    is_ours = verified.manifest is not None
    questions = questions_of(config.checkpoint.parent, is_ours=is_ours, limit=config.limit)
    launch = _launch(config)
    os.environ.update(engine_environment(launch))
    from serve_app.engines.vllm_engine import VllmEngine  # only now: it reads the environment

    engine = VllmEngine(launch)
    try:
        await engine.start()
        return await measure(
            engine,
            verified,
            model=config.model,
            step=step,
            questions=questions,
            concurrency=config.max_num_seqs,
            clock=time.perf_counter,
            on_answer=_Told(len(questions)).one_more,
        )
    finally:
        await engine.stop()


class _Told:
    """Counts answers, and says so now and then."""

    def __init__(self, num_questions: int) -> None:
        self._num_questions = num_questions
        self._num_answers = 0

    def one_more(self) -> None:
        self._num_answers += 1
        if self._num_answers % _TOLD_EVERY == 0 or self._num_answers == self._num_questions:
            say(Progress(step=self._num_answers, num_steps=self._num_questions))


def say(message: Said) -> None:
    sys.stdout.write(line_of(message) + "\n")
    sys.stdout.flush()


def _launch(config: ScoreConfig) -> EngineLaunch:
    return EngineLaunch(
        model=config.model,
        checkpoint=config.checkpoint,
        arguments=EngineArguments(
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            tensor_parallel=config.tensor_parallel,
        ),
        kv_cache_bytes=config.kv_cache_bytes,
        device_kind=config.device_kind,
        device_uuids=config.device_uuids,
    )


def main() -> int:
    began_s = time.monotonic()
    config = ScoreConfig.model_validate_json(os.environ[CONFIG_VARIABLE])
    try:
        score = asyncio.run(scored(config))
    except CheckpointRefused as refused:
        say(Failed(what=refused.what, expected=refused.expected, advice=refused.advice))
        return refused.exit_code
    except HeadroomError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    value: dict[str, Any] = {"score": to_json_value(score), "wall_s": time.monotonic() - began_s}
    say(Result(value=value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
