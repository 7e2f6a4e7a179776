"""Which files a checkpoint may hold: rules that keep code, pickles and foreign files out.

Looks at names, kinds and small configuration files; knows nothing of manifests or of tensors.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from serve_app.errors import CheckpointRefused
from serve_app.training.manifest import file_name

CONFIG_NAME: Final = "config.json"
TOKENIZER_NAMES: Final = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
"""Any one of these is a tokenizer."""
PICKLE_SUFFIXES: Final = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".pdparams"}
)
CODE_SUFFIXES: Final = frozenset({".py", ".pyc", ".so", ".sh"})
REMOTE_CODE_KEYS: Final = ("auto_map", "trust_remote_code", "custom_pipelines")
MOST_FILES: Final = 4096
LARGEST_CONFIG_BYTES: Final = 16 << 20

_ZIP: Final = b"PK\x03\x04"
_PICKLE_PROTOCOLS: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))


def list_files(directory: Path) -> tuple[str, ...]:
    """Names of all files below `directory`, sorted.

    Raises: CheckpointRefused for a symbolic link that leaves the directory, for anything that is neither
    file nor directory, and past 4,096 files; OSError if a directory cannot be read.
    """
    root = directory.resolve()
    names: list[str] = []
    for folder, _, entries in os.walk(root, onerror=_raise, followlinks=False):
        for entry in (*entries, *_linked_folders(Path(folder))):
            path = Path(folder, entry)
            _check_kind(path, root)
            names.append(file_name(path, root))
            if len(names) > MOST_FILES:
                raise CheckpointRefused(
                    f"Checkpoint {directory} has more than {MOST_FILES} files.",
                    expected="Expected the files of one checkpoint.",
                    advice="Name the directory that holds config.json itself.",
                )
    return tuple(sorted(names))


def check_names(directory: Path, names: Collection[str]) -> None:
    """Raises: CheckpointRefused for pickles, for code, and when configuration or tokenizer is missing."""
    for name in names:
        suffix = Path(name).suffix.lower()
        if suffix in PICKLE_SUFFIXES:
            raise _unsafe(directory, f"{name} is a pickle, which runs code when it is loaded")
        if suffix in CODE_SUFFIXES:
            raise _unsafe(directory, f"{name} is code")
    if CONFIG_NAME not in names:
        raise _incomplete(directory, "no config.json")
    if not any(name in names for name in TOKENIZER_NAMES):
        raise _incomplete(directory, f"no tokenizer (none of {', '.join(TOKENIZER_NAMES)})")


def check_safe_contents(directory: Path, names: Collection[str]) -> None:
    """Raises: CheckpointRefused for pickles under another name and for configuration that asks for code."""
    for name in names:
        if not name.endswith(".safetensors") and _begins_as_pickle(directory / name):
            raise _unsafe(directory, f"{name} holds a pickle or an archive under another name")
        if name.endswith(".json"):
            _check_config(directory, name)


def _check_config(directory: Path, name: str) -> None:
    """config.json must be an object; no JSON file of a checkpoint may name code to run."""
    path = directory / name
    if not (name == CONFIG_NAME or path.name.endswith("_config.json")):
        return
    if path.stat().st_size > LARGEST_CONFIG_BYTES:
        raise _unsafe(directory, f"{name} has more than {LARGEST_CONFIG_BYTES} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _incomplete(directory, f"a {name} that is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise _incomplete(directory, f"a {name} that is no JSON object")
    for key in REMOTE_CODE_KEYS:
        if content.get(key):
            raise _unsafe(directory, f"{name} asks for code of its own by `{key}`")


def _check_kind(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise _unsafe(root, f"{file_name(path, root)} is a symbolic link that leaves the directory")
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise _unsafe(root, f"{file_name(path, root)} is no regular file")


def _linked_folders(folder: Path) -> list[str]:
    """`os.walk` does not enter linked folders; they are shown as entries so that they are judged."""
    return [entry.name for entry in os.scandir(folder) if entry.is_symlink() and entry.is_dir()]


def _begins_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    return start == _ZIP or start.startswith(_PICKLE_PROTOCOLS)


def _raise(error: OSError) -> None:
    raise error


def _unsafe(directory: Path, why: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"Checkpoint {directory} is refused: {why}.",
        expected="Expected plain files inside the directory: JSON, a tokenizer and safetensors, no code.",
        advice="Convert the weights with `save_pretrained(..., safe_serialization=True)` into a new directory.",
    )


def _incomplete(directory: Path, lack: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"{directory} is not a checkpoint: it has {lack}.",
        expected="Expected config.json, a tokenizer and at least one .safetensors file.",
        advice="Name the directory that `save_pretrained` of model and tokenizer wrote.",
    )
