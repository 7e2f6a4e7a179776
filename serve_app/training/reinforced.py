"""Kind `reinforce`: answers are drawn, rewarded by the checker, and the policy moved towards the better ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor

from serve_app.training.collapse import Watch, slope
from serve_app.training.curriculum import Curriculum, weighted_tasks
from serve_app.training.muon import MuonWithAdamW
from serve_app.training.policy import (
    Drawn,
    advantages,
    clipped_loss,
    draw_answers,
    log_probabilities,
    mean_entropy,
    of_drawn,
)
from serve_app.training.reward import reward
from serve_app.training.tasks import Task, grade

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PASSES: Final = 2
"""Times the policy is moved by one set of answers; from the second on the clip range matters."""
LARGEST_GRADIENT: Final = 1.0
LAST_RATE: Final = 0.1
BEST: Final = "best."


class RewardRule(Protocol):
    """What an answer is worth, from 0 to 1; `ended` says whether the model ended it by itself."""

    def __call__(self, task: Task, text: str, /, *, ended: bool) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceSettings:
    """What a weekly review compares. `num_answers` of each of `num_tasks` tasks make one update.

    The learning rate falls in a straight line to `LAST_RATE` of itself at update `num_steps`.
    """

    num_steps: int
    learning_rate: float
    entropy_weight: float
    clip_range: float
    num_tasks: int
    num_answers: int


class Reinforced:
    """One step is one update. When reward or entropy collapses it says so and takes its best weights again."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        settings: ReinforceSettings,
        *,
        data_seed: int,
        curriculum: Curriculum,
        reward: RewardRule = reward,
    ) -> None:
        self.model, self._tokenizer, self._settings, self._reward = model, tokenizer, settings, reward
        self._data_seed = data_seed
        self._tasks = weighted_tasks(data_seed, curriculum)
        self._optimizer = MuonWithAdamW(model.named_parameters(), weight_decay=0.0, dtype=torch.float32)
        self._watch = Watch()
        self._best: dict[str, Tensor] = {}
        self._averages: list[float] = []
        self.num_done = self.num_tokens = 0
        self.stopped_because = ""

    def step(self) -> Mapping[str, float]:
        """Draws by a seed made from the number of the update, so that a resumed job draws the same."""
        torch.manual_seed(self._data_seed + self.num_done)
        tasks = list(islice(self._tasks, self._settings.num_tasks))
        drawn = draw_answers(self.model, self._tokenizer, tasks, num_answers=self._settings.num_answers)
        asked = [task for task in tasks for _ in range(self._settings.num_answers)]
        answers = zip(asked, drawn.texts, drawn.ended, strict=True)
        rewards = [self._reward(task, text, ended=ended) for task, text, ended in answers]
        loss, entropy = self._learn(drawn, torch.tensor(rewards, device=drawn.ids.device))
        self.num_done += 1
        self.num_tokens += drawn.num_tokens
        mean = sum(rewards) / len(rewards)
        self._look(mean, entropy)
        return {
            "loss": loss,
            "reward": mean,
            "reward_average": self._watch.average,
            "entropy": entropy,
            "right": sum(grade(task, text) for task, text in zip(asked, drawn.texts, strict=True)) / len(asked),
        }

    def _learn(self, drawn: Drawn, rewards: Tensor) -> tuple[float, float]:
        """Loss of the first pass and entropy of the policy that drew."""
        gain = advantages(rewards, num_answers=self._settings.num_answers)
        old: Tensor | None = None
        first: tuple[float, float] | None = None
        for _ in range(PASSES):
            every = log_probabilities(self.model, drawn)
            new = of_drawn(every, drawn)
            old = new.detach() if old is None else old
            entropy = mean_entropy(every, drawn.learned)
            loss = clipped_loss(new, old, gain, drawn.learned, clip_range=self._settings.clip_range)
            loss = loss - self._settings.entropy_weight * entropy
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
            self._optimizer.step(learning_rate=self._rate)
            first = first or (float(loss.item()), float(entropy.item()))
        assert first is not None, "there is at least one pass"
        return first

    @property
    def _rate(self) -> float:
        done = self.num_done / self._settings.num_steps
        return self._settings.learning_rate * (1 - (1 - LAST_RATE) * done)

    def _look(self, mean: float, entropy: float) -> None:
        self._watch = self._watch.after(reward=mean, entropy=entropy)
        self._averages.append(self._watch.average)
        if self._watch.is_best:
            self._best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.stopped_because = self._watch.reason_to_stop()
        if self.stopped_because and self._best:
            self.model.load_state_dict(self._best)

    def tensors(self) -> Mapping[str, Tensor]:
        return {**self._optimizer.tensors(), **{BEST + name: tensor.clone() for name, tensor in self._best.items()}}

    def values(self) -> Mapping[str, Any]:
        return {"watch": asdict(self._watch), "averages": self._averages}

    def restore(self, num_done: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Empty `tensors` and `values` begin optimizer and averages anew; the tasks go on."""
        for _ in islice(self._tasks, num_done * self._settings.num_tasks):
            pass
        self.num_done = num_done
        if tensors:
            self._optimizer.restore(tensors)
            self._best = {name[len(BEST) :]: one for name, one in tensors.items() if name.startswith(BEST)}
        if values:
            watch = values["watch"]
            self._watch = Watch(**{**watch, "rewards": (*watch["rewards"],), "entropies": (*watch["entropies"],)})
            self._averages = list(values["averages"])

    def finish(self) -> Mapping[str, Any]:
        """`reward_average_slope` is per update, over the averages of full length where there are some."""
        full = self._averages[99:] if len(self._averages) > 100 else self._averages
        return {
            "kind": "reinforce",
            "steps": self.num_done,
            "settings": asdict(self._settings),
            "reward_average": self._watch.average,
            "reward_average_slope": slope(full),
        }
