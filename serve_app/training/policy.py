"""A model as a policy: answers drawn from it, and the clipped objective over them. Imports torch.

Source: Schulman et al., "Proximal policy optimization algorithms" (2017), the clipped objective; Shao et al.,
"DeepSeekMath" (2024), advantages by group instead of a value model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serve_app.training.answering import LONGEST_ANSWER_TOKENS, prompt_ids
from serve_app.training.tasks import Task
from serve_app.training.tokenizer import END, PAD, special_ids

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Answers drawn together, `num_answers` of each task behind one another.

    Shape: `ids` (answers, prompt + answer tokens), prompts padded on the left; `seen` the same, False on padding;
    `learned` (answers, answer tokens), True up to and with the end token.
    """

    ids: Tensor
    seen: Tensor
    learned: Tensor
    texts: tuple[str, ...]
    ended: tuple[bool, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.seen.sum())


@torch.no_grad()
def draw_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[Task], *, num_answers: int
) -> Drawn:
    """By torch's random state, at temperature 1 over the whole vocabulary."""
    special, device = special_ids(tokenizer), next(model.parameters()).device
    prompts = [prompt_ids(tokenizer, task) for task in tasks for _ in range(num_answers)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[special[PAD]] * (longest - len(one)) + one for one in prompts], device=device)
    seen = torch.tensor([[False] * (longest - len(one)) + [True] * len(one) for one in prompts], device=device)
    whole = model.generate(
        ids, attention_mask=seen.long(), max_new_tokens=LONGEST_ANSWER_TOKENS, do_sample=True, top_k=0
    )
    made = whole[:, longest:]
    ends = made == special[END]
    learned = (ends.cumsum(dim=1) - ends.long()) == 0
    return Drawn(
        ids=whole,
        seen=torch.cat([seen, learned], dim=1),
        learned=learned,
        texts=tuple(tokenizer.batch_decode(made, skip_special_tokens=True)),
        ended=tuple(bool(one) for one in ends.any(dim=1)),
    )


def log_probabilities(model: LlamaForCausalLM, drawn: Drawn) -> Tensor:
    """Of every token of the vocabulary at every token of the answers. Shape: (answers, answer tokens, vocabulary)."""
    positions = (drawn.seen.long().cumsum(dim=1) - 1).clamp(min=0)
    hidden = model.model(
        input_ids=drawn.ids, attention_mask=drawn.seen.long(), position_ids=positions, use_cache=False
    ).last_hidden_state
    num_made = drawn.learned.shape[1]
    return torch.log_softmax(model.lm_head(hidden[:, -num_made - 1 : -1]).float(), dim=-1)


def of_drawn(every: Tensor, drawn: Drawn) -> Tensor:
    """The log-probabilities of the tokens that were drawn. Shape: (answers, answer tokens)."""
    made = drawn.ids[:, -drawn.learned.shape[1] :]
    return every.gather(-1, made[..., None])[..., 0]


def advantages(rewards: Tensor, *, num_answers: int) -> Tensor:
    """How much better than its group each answer was, in standard deviations; 0 where a group is all alike.

    Shape: (answers) in and out.
    """
    groups = rewards.view(-1, num_answers)
    apart = groups - groups.mean(dim=1, keepdim=True)
    return (apart / (groups.std(dim=1, keepdim=True, correction=0) + 1e-4)).flatten()


def clipped_loss(new: Tensor, old: Tensor, advantage: Tensor, learned: Tensor, *, clip_range: float) -> Tensor:
    """Minus the clipped objective, the mean over learned tokens.

    A ratio beyond 1 ± `clip_range` in the direction its advantage wants gives no gradient any more.
    Shape: (answers, answer tokens) but `advantage` (answers).
    """
    ratio, gain = torch.exp(new - old), advantage[:, None]
    objective = torch.minimum(ratio * gain, ratio.clamp(1 - clip_range, 1 + clip_range) * gain)
    return -(objective * learned).sum() / learned.sum()


def mean_entropy(every: Tensor, learned: Tensor) -> Tensor:
    """Nats per learned token."""
    return -((every.exp() * every).sum(dim=-1) * learned).sum() / learned.sum()
