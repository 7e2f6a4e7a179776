"""A trained model as the files other programs read: weights, configurations, tokenizer, trainer's state.

Every file is made in memory and written by Python, so that a full disk is an `OSError` and the same weights
are the same bytes: nothing here holds a time or a path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from serve_app.training.checkpoints import TRAINER_STATE_NAME
from serve_app.training.evaluate import Evaluation
from serve_app.training.recipe import Recipe
from serve_app.training.trainer import Trained

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WEIGHTS_NAME = "model.safetensors"
TIED_WEIGHT = "lm_head.weight"
"""The same tensor as the embeddings; loaders tie it again because config.json says so."""


def write_files(
    directory: Path, recipe: Recipe, trained: Trained, tokenizer: PreTrainedTokenizerFast, tested: Evaluation
) -> None:
    """Writes everything a checkpoint holds but its manifest.

    Raises: OSError.
    """
    files = {
        WEIGHTS_NAME: weights_of(trained.model),
        **model_files(trained.model, tokenizer),
        TRAINER_STATE_NAME: json_bytes(trainer_state(recipe, trained, tested)),
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)


def model_files(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """What stays the same through all training: configuration, tokenizer and chat template."""
    return {
        "config.json": model.config.to_json_string(use_diff=False).encode(),
        "generation_config.json": model.generation_config.to_json_string().encode(),
        "tokenizer.json": tokenizer.backend_tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json_bytes(_tokenizer_config(tokenizer)),
        "chat_template.jinja": str(tokenizer.chat_template).encode(),
    }


def trainer_state(recipe: Recipe, trained: Trained, tested: Evaluation) -> Mapping[str, Any]:
    """The trainer's own account, with the names Hugging Face's trainer uses where it has them."""
    return {
        "global_step": recipe.num_steps,
        "max_steps": recipe.num_steps,
        "train_batch_size": recipe.rows_per_step,
        "best_metric": tested.total.accuracy,
        "log_history": [
            {"step": report.step, "loss": round(report.loss, 6), "learning_rate": report.learning_rate}
            for report in trained.reports
        ],
        "metrics": test_metrics(tested),
        "seed": recipe.seed,
        "config_hash": recipe.config_hash,
    }


def test_metrics(tested: Evaluation) -> dict[str, float]:
    by_kind = {f"test_accuracy_{kind}": score.accuracy for kind, score in tested.by_kind.items()}
    return {"test_accuracy": tested.total.accuracy, "test_tasks": tested.total.num_asked, **by_kind}


def weights_of(model: LlamaForCausalLM) -> bytes:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items() if name != TIED_WEIGHT}
    return bytes(save(tensors, metadata={"format": "pt"}))


def _tokenizer_config(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "clean_up_tokenization_spaces": False,
    }


def json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
