"""Kind `train`: a `Learner` as the pupil of a course."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from serve_app.training.curriculum import Curriculum
from serve_app.training.learner import Learner
from serve_app.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


class Supervised:
    """Every step learns from given answers; it never finds that there is no sense in going on."""

    stopped_because = ""

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        recipe: Recipe,
        *,
        data_seed: int,
        curriculum: Curriculum,
    ) -> None:
        self._learner = Learner(model, tokenizer, recipe, data_seed=data_seed, curriculum=curriculum)
        self._tokens_per_step = recipe.rows_per_step * recipe.row_tokens
        self.num_done = self.num_tokens = 0

    @property
    def model(self) -> LlamaForCausalLM:
        return self._learner.model

    def step(self) -> Mapping[str, float]:
        loss = self._learner.step()
        self.num_done += 1
        self.num_tokens += self._tokens_per_step
        return {"loss": loss}

    def tensors(self) -> Mapping[str, Tensor]:
        return self._learner.optimizer.tensors()

    def values(self) -> Mapping[str, Any]:
        return {}

    def restore(self, num_done: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Empty `tensors` begin the optimizer anew: then the rows go on, but not to the same bytes."""
        self._learner.skip(num_done)
        self.num_done = num_done
        if tensors:
            self._learner.optimizer.restore(tensors)

    def finish(self) -> Mapping[str, Any]:
        return {"kind": "train", "steps": self.num_done}
