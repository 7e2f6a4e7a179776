"""The one loop of both kinds of job: step, tell, save, stop when told to, go on where it stopped.

Knows neither losses nor rewards: a `Pupil` does its steps. Everything of the world comes through a `Channel`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from torch import Tensor

from serve_app.errors import ModelNotMade
from serve_app.jobs.messages import Progress, Result, Saved
from serve_app.training.answering import answer
from serve_app.training.checkpoints import TRAINER_STATE_NAME
from serve_app.training.evaluate import evaluate
from serve_app.training.files import WEIGHTS_NAME, json_bytes, test_metrics, weights_of
from serve_app.training.job_channel import Channel
from serve_app.training.job_state import JobState, write_job_state
from serve_app.training.next_checkpoint import put_checkpoint
from serve_app.training.parents import Parent
from serve_app.training.tasks import held_out_tasks
from serve_app.training.writer import Origin

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

STEPS_PER_REPORT: Final = 10
SECONDS_PER_REPORT: Final = 1.0
NUM_RECENT: Final = 10
"""The loss of a checkpoint is the mean of this many steps."""


class Pupil(Protocol):
    """A model that learns step by step.

    `tensors` and `values` are all it needs, beside weights and `num_done`, to go on exactly; `restore` takes them.
    `stopped_because` is a sentence once there is no sense in going on, else empty.
    """

    num_done: int
    num_tokens: int
    """Tokens learned from so far, by this process."""

    @property
    def model(self) -> LlamaForCausalLM: ...
    @property
    def stopped_because(self) -> str: ...
    def step(self) -> Mapping[str, float]: ...
    def tensors(self) -> Mapping[str, Tensor]: ...
    def values(self) -> Mapping[str, Any]: ...
    def restore(self, num_done: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None: ...
    def finish(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a course was told. `begin_step` is the parent's step; `num_steps` are to be done beyond it."""

    model: str
    models_folder: Path
    state_folder: Path
    begin_step: int
    num_steps: int
    save_every: int
    seed: int
    config_hash: str
    parent: str | None
    traceparent: str | None
    git_commit: str | None
    created_at: datetime


class Course:
    """Leads one pupil through its orders. `recent` are the metrics of the newest steps, `history` every tenth.

    The `Result` at its end has the held-out accuracy before and after; `gain` is None after a resume without state.
    """

    def __init__(self, orders: Orders, pupil: Pupil, parent: Parent, channel: Channel) -> None:
        self._orders, self._pupil, self._parent, self._channel = orders, pupil, parent, channel
        self._recent: deque[dict[str, float]] = deque(maxlen=NUM_RECENT)
        self._history: list[dict[str, float]] = []
        self._saved_at: int | None = None
        self._accuracy_before: float | None = None
        self._told_s = channel.now_s()
        self._told_tokens = 0

    def resume(self, state: JobState) -> None:
        """Goes on where `state` was taken; the model already has its weights."""
        self._pupil.restore(state.num_done, state.tensors, state.values["pupil"])
        self._recent.extend(state.values["recent"])
        self._history = list(state.values["history"])
        self._accuracy_before = state.values["accuracy_before"]
        self._saved_at = state.num_done

    def run(self) -> bool:
        """True when it was done or there was no sense in going on, False when it was told to stop before.

        Raises: ModelNotMade when a figure is no number any more, OSError when a checkpoint or the state cannot be
        written; nothing half-done is left then.
        """
        if not self._pupil.num_done:
            self._accuracy_before = self._tested()["test_accuracy"]
        while self._pupil.num_done < self._orders.num_steps and not self._pupil.stopped_because:
            if self._channel.told_to_stop():
                self._pause()
                return False
            self._step()
        self._end()
        return True

    def _step(self) -> None:
        metrics = dict(self._pupil.step())
        if not all(math.isfinite(value) for value in metrics.values()):
            raise _diverged(self._orders, self._pupil.num_done)
        self._recent.append(metrics)
        done = self._pupil.num_done
        if done % STEPS_PER_REPORT == 0:
            self._history.append({"step": self._orders.begin_step + done, **self._means()})
        if done % STEPS_PER_REPORT == 0 or self._channel.now_s() - self._told_s >= SECONDS_PER_REPORT:
            self._tell()
        if done % self._orders.save_every == 0 and done < self._orders.num_steps:
            self._save()

    def _tell(self) -> None:
        now_s, tokens = self._channel.now_s(), self._pupil.num_tokens
        rate = (tokens - self._told_tokens) / max(now_s - self._told_s, 1e-6)
        self._told_s, self._told_tokens = now_s, tokens
        metrics = {**self._means(), "tokens_per_s": rate}
        self._channel.say(Progress(step=self._pupil.num_done, num_steps=self._orders.num_steps, metrics=metrics))

    def _means(self) -> dict[str, float]:
        """Of the newest steps; figures that are averages already are taken as they are last."""
        last = self._recent[-1] if self._recent else {}
        return {
            name: last[name]
            if name.endswith("_average")
            else sum(one[name] for one in self._recent) / len(self._recent)
            for name in last
        }

    def _pause(self) -> None:
        if self._pupil.num_done and self._saved_at != self._pupil.num_done:
            self._save()
        self._channel.log(
            f"Stopped after {self._pupil.num_done} of {self._orders.num_steps} steps because SIGTERM said so; "
            + ("everything done is saved." if self._pupil.num_done else "there was nothing to save yet.")
        )

    def _end(self) -> None:
        value = dict(self._pupil.finish())
        if self._saved_at != self._pupil.num_done:
            if self._pupil.num_done % STEPS_PER_REPORT:
                self._tell()
            self._save()
        before, after = self._accuracy_before, self._tested()["test_accuracy"]
        value |= {"test_accuracy_before": before, "test_accuracy": after}
        value |= {"gain": None if before is None else after - before}
        self._channel.say(Result(value={**value, "stopped_because": self._pupil.stopped_because}))

    def _save(self) -> None:
        """The state first: a checkpoint without its state could not be gone on from exactly."""
        orders, done = self._orders, self._pupil.num_done
        weights, metrics = weights_of(self._pupil.model), {**self._means(), **self._tested()}
        self._write_state(weights)
        origin = Origin(
            model=orders.model,
            step=orders.begin_step + done,
            config_hash=orders.config_hash,
            seed=orders.seed,
            created_at=orders.created_at,
            git_commit=orders.git_commit,
            parent=orders.parent,
            traceparent=orders.traceparent,
        )
        path, version = put_checkpoint(
            orders.models_folder,
            origin,
            contents=lambda step: {
                **self._parent.kept_files,
                WEIGHTS_NAME: weights,
                TRAINER_STATE_NAME: json_bytes(self._trainer_state(step, metrics)),
            },
            on_wait=lambda: self._channel.log("Waits until another program is done with the model's folder."),
        )
        self._saved_at = done
        step = int(path.name.rsplit("-", 1)[1])
        self._channel.say(Saved(path=str(path), step=step, weights_version=version, metrics=metrics))

    def _write_state(self, weights: bytes) -> None:
        pupil, orders = self._pupil, self._orders
        values: dict[str, Any] = {"pupil": dict(pupil.values()), "recent": list(self._recent), "history": self._history}
        values["accuracy_before"] = self._accuracy_before
        write_job_state(
            orders.state_folder,
            JobState(
                num_done=pupil.num_done,
                weights_sha256=sha256(weights).hexdigest(),
                config_hash=orders.config_hash,
                tensors=pupil.tensors(),
                values=values,
            ),
        )

    def _tested(self) -> dict[str, float]:
        tasks = held_out_tasks()
        self._pupil.model.eval()
        texts = answer(self._pupil.model, self._parent.tokenizer, tasks)
        self._pupil.model.train()
        return test_metrics(evaluate(zip(tasks, texts, strict=True)))

    def _trainer_state(self, step: int, metrics: Mapping[str, float]) -> Mapping[str, Any]:
        """`begin_step` and `job_step` say which part of its job this is, for a resume without the job's folder."""
        orders = self._orders
        return {
            "global_step": step,
            "max_steps": orders.begin_step + orders.num_steps,
            "begin_step": orders.begin_step,
            "job_step": self._pupil.num_done,
            "loss": self._means().get("loss"),
            "best_metric": metrics["test_accuracy"],
            "log_history": self._history,
            "metrics": dict(metrics),
            "seed": orders.seed,
            "config_hash": orders.config_hash,
        }


def _diverged(orders: Orders, step: int) -> ModelNotMade:
    return ModelNotMade(
        f"Training of {orders.model!r} went astray: after step {step} of {orders.num_steps} its loss is no number.",
        expected="Expected finite figures from every step.",
        advice="Submit it again with a lower `learning_rate`; checkpoints saved before are whole.",
    )
