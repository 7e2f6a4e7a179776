"""Lets a model in this process answer tasks, greedily, as the live API would with temperature 0.

Imports torch: keep it out of the import of commands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch

from serve_app.training.tasks import Task

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LONGEST_ANSWER_TOKENS: Final = 12


@torch.no_grad()
def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: Sequence[Task]) -> list[str]:
    """One text per task, in order. Prompts of one length are answered together, so nothing is padded."""
    prompts = [prompt_ids(tokenizer, task) for task in tasks]
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    texts = [""] * len(tasks)
    for length, indices in by_length.items():
        ids = torch.tensor([prompts[index] for index in indices], device=model.device)
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST_ANSWER_TOKENS, do_sample=False
        )
        for index, text in zip(
            indices, tokenizer.batch_decode(made[:, length:], skip_special_tokens=True), strict=True
        ):
            texts[index] = text
    return texts


def prompt_ids(tokenizer: PreTrainedTokenizerFast, task: Task) -> list[int]:
    """The question as the live API would write it."""
    messages = [{"role": "user", "content": task.prompt}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return [int(one) for one in ids]
