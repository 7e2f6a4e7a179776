"""Whether a checkpoint can take the place of another inside a running engine.

A reload reads tensors and nothing else: architecture, tokenizer, chat template and default sampling stay those the
engine started with. So all of that must be the same, and the tensors alike. Reads headers and small files, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from placement.safetensors_header import TensorEntry
from serve_app.errors import CheckpointRefused
from serve_app.fleet.model_files import CONFIG_NAME, read_headers
from serve_app.training.checkpoints import read_manifest, verify_checkpoint
from serve_app.training.file_rules import check_names, check_safe_contents, list_files

READ_AT_START: Final = (
    CONFIG_NAME,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files an engine reads when it starts and never again. Each is in both checkpoints and the same, or in neither."""

MAY_DIFFER: Final = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "_from_model_config",
        "initializer_range",
        "use_cache",
        "attention_dropout",
    }
)
"""Keys of these files that no answer depends on; every other key must be equal, known to us or not."""

Table = Mapping[str, TensorEntry]


def check_fit(running: Path, new: Path, *, version: str, verified: bool) -> int:
    """Bytes of the tensors of `new`, once it is known to be `version` and to fit what runs.

    `verified` True: the node's store has read every byte already, so only names, headers and manifest are looked at.
    Raises: CheckpointRefused.
    """
    if verified:
        _check_without_digests(new, version)
    elif (found := verify_checkpoint(new).weights_version) != version:
        raise _not_the_version(new, found, version)
    for name in READ_AT_START:
        _check_same(running, new, name)
    return _check_tensors(_tensors(running), _tensors(new), new)


def _check_without_digests(new: Path, version: str) -> None:
    try:
        files = list_files(new)
        check_names(new, files)
        check_safe_contents(new, files)
        manifest = read_manifest(new)
    except OSError as error:
        raise _misfit(new, f"it cannot be read ({error})") from error
    if manifest is not None and manifest.weights_version != version:
        raise _not_the_version(new, manifest.weights_version, version)


def _check_same(running: Path, new: Path, name: str) -> None:
    old_file, new_file = _content(running / name), _content(new / name)
    if old_file == new_file:
        return
    if old_file is None or new_file is None:
        raise _misfit(new, f"{name} is in {'the running one' if new_file is None else 'the new one'} only")
    if not name.endswith(".json"):
        raise _misfit(new, f"{name} is another")
    if differing := _differing_keys(_object(old_file), _object(new_file)):
        raise _misfit(new, f"{name} differs in {', '.join(differing[:5])}")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {"the whole": parsed}


def _differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    missing = object()
    keys = sorted((old.keys() | new.keys()) - MAY_DIFFER)
    return [f"`{key}`" for key in keys if old.get(key, missing) != new.get(key, missing)]


def _tensors(checkpoint: Path) -> Table:
    return {tensor.name: tensor for header in read_headers(checkpoint) for tensor in header.tensors}


def _check_tensors(running: Table, new: Table, path: Path) -> int:
    if lacking := sorted(running.keys() - new.keys()):
        raise _misfit(path, f"{len(lacking)} tensors are missing, the first is {lacking[0]}")
    if unknown := sorted(new.keys() - running.keys()):
        raise _misfit(path, f"{len(unknown)} tensors are unknown to the model, the first is {unknown[0]}")
    for name in sorted(new):
        was, comes = running[name], new[name]
        if (was.dtype, was.shape) != (comes.dtype, comes.shape):
            raise _misfit(
                path, f"{name} is {comes.dtype} {list(comes.shape)}, the running one {was.dtype} {list(was.shape)}"
            )
    return sum(tensor.num_bytes for tensor in new.values())


def _not_the_version(path: Path, found: str, wanted: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {path} is version {found}, not {wanted}.",
        expected="Expected the weights that were compared.",
        advice="Ship the checkpoint again.",
    )


def _misfit(path: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {path} cannot replace what runs without a restart: {why}.",
        expected="Expected the same architecture, tokenizer, templates and tensors; only their values may differ.",
        advice="Roll it out as a new replica beside the old one.",
    )
