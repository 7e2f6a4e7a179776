"""Trains one Llama-type model from nothing on our tasks: a plain loop, seeded, on the CPU.

Same recipe, machine and thread count: same weights, bit for bit. Writes no files and knows no paths.
Imports torch and transformers: keep it out of the import of commands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from serve_app.training.learner import Learner
from serve_app.training.recipe import Recipe
from serve_app.training.tokenizer import BEGIN, END, MAX_POSITIONS, PAD, special_ids

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

STEPS_PER_REPORT: Final = 10
"""The loss is reported as the mean of this many steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`loss` is the mean cross entropy per answer token since the report before, in nats."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    model: LlamaForCausalLM
    reports: tuple[Report, ...]


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, *, on_report: Callable[[Report], None]) -> Trained:
    """Runs all steps of `recipe`; `on_report` is called every `STEPS_PER_REPORT` steps and after the last."""
    with repeatable(recipe):
        learner = Learner(new_model(recipe, tokenizer), tokenizer, recipe, data_seed=recipe.seed)
        reports: list[Report] = []
        losses: list[float] = []
        for step in range(1, recipe.num_steps + 1):
            losses.append(learner.step())
            if step % STEPS_PER_REPORT == 0 or step == recipe.num_steps:
                reports.append(Report(step=step, loss=sum(losses) / len(losses), learning_rate=learner.rate))
                losses.clear()
                on_report(reports[-1])
        return Trained(model=learner.model.eval(), reports=tuple(reports))


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model; its weights follow from torch's random state."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = special_ids(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=ids[BEGIN],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    _begin(model, recipe)
    model.generation_config = GenerationConfig(
        bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD], do_sample=False
    )
    return model


@torch.no_grad()
def _begin(model: LlamaForCausalLM, recipe: Recipe) -> None:
    """Larger random weights than transformers begins with, which this short a run would not grow out of."""
    for name, parameter in model.named_parameters():
        if "embed" in name:
            parameter.normal_(std=recipe.embedding_std)
        elif parameter.ndim == 2:
            parameter.normal_(std=recipe.matrix_scale / math.sqrt(parameter.shape[1]))


@contextmanager
def repeatable(recipe: Recipe) -> Iterator[None]:
    """Fixes seed, threads and algorithms inside, and puts back what was set before. May be nested."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(recipe.num_threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)
