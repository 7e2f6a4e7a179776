"""A model that learns from our tasks, one step per call: the middle of every supervised run.

Does not know where its model came from, when it is saved, or why it stops. Imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.training.curriculum import EVEN, Curriculum
from serve_app.training.muon import MuonWithAdamW
from serve_app.training.recipe import Recipe
from serve_app.training.rows import IGNORED, Row, rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


class Learner:
    """`step` learns from the next rows. Where it stands is `num_done` and the optimizer's tensors, nothing else.

    `data_seed` decides the rows; two learners of one recipe and data seed become the same, bit for bit.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        recipe: Recipe,
        *,
        data_seed: int,
        curriculum: Curriculum = EVEN,
    ) -> None:
        self.model, self._recipe = model.train(), recipe
        self._device = next(model.parameters()).device
        self._fast = recipe.bfloat16 and (self._device.type == "cuda" or computes_bfloat16())
        self.optimizer = MuonWithAdamW(
            model.named_parameters(),
            weight_decay=recipe.weight_decay,
            dtype=torch.bfloat16 if self._fast else torch.float32,
        )
        self._rows = rows(tokenizer, seed=data_seed, num_tokens=recipe.row_tokens, curriculum=curriculum)
        self.num_done = 0

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return learning_rate(self._recipe, self.num_done)

    def skip(self, num_steps: int) -> None:
        """Passes over the rows of steps that were done before; the caller puts weights and optimizer back."""
        for _ in islice(self._rows, num_steps * self._recipe.rows_per_step):
            pass
        self.num_done += num_steps

    def step(self) -> float:
        """The mean cross entropy per answer token before this step, in nats."""
        self.num_done += 1
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._fast):
            loss = _loss(self.model, list(islice(self._rows, self._recipe.rows_per_step)), self._device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.largest_gradient)
        self.optimizer.step(learning_rate=self.rate)
        return float(loss.item())


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step 1, 2, …: a straight rise, then a cosine down to `last_rate` of the peak."""
    rise = recipe.warm_up * recipe.num_steps
    if step <= rise:
        return recipe.learning_rate * step / rise
    done = (step - rise) / max(1.0, recipe.num_steps - rise)
    return recipe.learning_rate * (recipe.last_rate + (1 - recipe.last_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively; elsewhere that is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def _loss(model: LlamaForCausalLM, batch: Sequence[Row], device: torch.device) -> Tensor:
    """Cross entropy over the answers' tokens only; the output layer runs on those alone."""
    ids = torch.tensor([row.ids for row in batch], device=device)
    labels = torch.tensor([row.labels for row in batch], device=device)[:, 1:]
    seen = _may_see(batch).to(device)
    hidden = model.model(input_ids=ids, attention_mask=seen, use_cache=False).last_hidden_state[:, :-1]
    learned = labels != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[learned]).float(), labels[learned])


def _may_see(batch: Sequence[Row]) -> Tensor:
    """True where a token may look: at itself and backwards, inside its own conversation.

    Shape: (rows, 1, tokens, tokens).
    """
    segments = torch.tensor([row.segments for row in batch])
    same = segments[:, :, None] == segments[:, None, :]
    return torch.tril(same)[:, None]
