"""What a job begins from: a checkpoint that was verified and opened, or a new model.

Only our own kind of model is opened: a Llama configuration, safetensors, and a tokenizer that knows our special
tokens. Imports torch and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors.torch import load_file

from serve_app.errors import CheckpointRefused
from serve_app.training.checkpoints import TRAINER_STATE_NAME, Verified, read_manifest, verify_checkpoint
from serve_app.training.deployed import latest_checkpoint, read_deployed, step_in_name
from serve_app.training.files import TIED_WEIGHT, WEIGHTS_NAME, model_files
from serve_app.training.manifest import MANIFEST_NAME
from serve_app.training.recipe import Recipe
from serve_app.training.tasks import INSTRUCTION_WORDS
from serve_app.training.tokenizer import SPECIAL_TOKENS, build_tokenizer
from serve_app.training.trainer import new_model, repeatable

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

OWN_FILES: Final = frozenset({WEIGHTS_NAME, TRAINER_STATE_NAME, MANIFEST_NAME})
"""Files every checkpoint has of its own; all others it takes from its parent, byte for byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """An opened model. `kept_files` are what its descendants hold as it does: configuration and tokenizer.

    `version` is None for a model that begins from nothing.
    """

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    kept_files: Mapping[str, bytes]
    step: int
    version: str | None


def find_parent(folder: Path, begin: str) -> Path:
    """The checkpoint that `deployed`, `latest` or a weights version names in a model's folder.

    Raises: CheckpointRefused when there is none.
    """
    found = {"deployed": read_deployed, "latest": latest_checkpoint}.get(begin, lambda at: _of_version(at, begin))(
        folder
    )
    if found is None:
        raise CheckpointRefused(
            f"There is no checkpoint {begin!r} in {folder}.",
            expected="Expected `from` to name one: deployed, latest or a weights version, or to say nothing.",
            advice="See `headroom models list` and `headroom checkpoints list` for what there is.",
        )
    return found


def _of_version(folder: Path, version: str) -> Path | None:
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        if step_in_name(checkpoint) is not None:
            manifest = read_manifest(checkpoint)
            if manifest is not None and manifest.weights_version == version:
                return checkpoint
    return None


def open_parent(checkpoint: Path, *, device: torch.device) -> Parent:
    """Raises: CheckpointRefused if it is damaged, unsafe, or no model of our own kind."""
    verified = verify_checkpoint(checkpoint)
    return Parent(
        model=_open_model(verified).to(device),
        tokenizer=_open_tokenizer(verified),
        kept_files={name: (checkpoint / name).read_bytes() for name in verified.files if name not in OWN_FILES},
        step=verified.step or 0,
        version=verified.weights_version,
    )


def begin_from_nothing(recipe: Recipe, *, device: torch.device) -> Parent:
    """A new model of step 0; the same for the same recipe."""
    tokenizer = build_tokenizer(INSTRUCTION_WORDS)
    with repeatable(recipe):
        model = new_model(recipe, tokenizer)
    return Parent(
        model=model.to(device), tokenizer=tokenizer, kept_files=model_files(model, tokenizer), step=0, version=None
    )


def _open_model(verified: Verified) -> LlamaForCausalLM:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    try:
        config = LlamaConfig.from_json_file(str(verified.path / "config.json"))
        if config.model_type != "llama":
            raise _refused(verified.path, f"it is of type {config.model_type!r}")
        model = LlamaForCausalLM(config)
        tensors = {name: tensor.float() for name, tensor in load_file(verified.path / WEIGHTS_NAME).items()}
        if config.tie_word_embeddings:
            tensors[TIED_WEIGHT] = tensors["model.embed_tokens.weight"]
        model.load_state_dict(tensors, strict=True)
    except (ValueError, TypeError, KeyError, RuntimeError, FileNotFoundError) as error:
        why = str(error).splitlines()[-1].strip()
        raise _refused(verified.path, f"its weights do not fit its config.json ({why})") from error
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def _open_tokenizer(verified: Verified) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(verified.path), local_files_only=True)
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in SPECIAL_TOKENS if token not in vocabulary]:
        raise _refused(verified.path, f"its tokenizer does not know {missing[0]}")
    return tokenizer


def _refused(checkpoint: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {checkpoint} cannot be trained on: {why}.",
        expected="Expected a Llama-type model in one model.safetensors, with the tokenizer of our own models.",
        advice="Begin from a checkpoint that this trainer made, or run a trainer of your own as a script.",
    )
