"""What a job must remember beside its weights to go on as if it had never stopped, in the job's own folder.

Safetensors, never a pickle. The last two are kept: one may be newer than the checkpoint that a resume begins from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

NUM_KEPT: Final = 2
SUFFIX: Final = ".state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """`weights_sha256` is of the checkpoint's model.safetensors that this belongs to; `recent` the newest losses."""

    num_done: int
    weights_sha256: str
    config_hash: str
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def write_job_state(folder: Path, state: JobState) -> None:
    """Whole or not at all.

    Raises: OSError.
    """
    head = {
        "num_done": state.num_done,
        "weights_sha256": state.weights_sha256,
        "config_hash": state.config_hash,
        "values": dict(state.values),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{state.num_done:012d}{SUFFIX}"
    partial = folder / f".{target.name}-{os.getpid()}"
    try:
        partial.write_bytes(save(tensors, metadata={"headroom": json.dumps(head)}))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for old in sorted(folder.glob(f"*{SUFFIX}"))[:-NUM_KEPT]:
        old.unlink(missing_ok=True)


def read_job_state(folder: Path, *, weights_sha256: str, config_hash: str) -> JobState | None:
    """The state that belongs to these weights and this configuration; None when there is none that can be read."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads(file.metadata()["headroom"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            continue
        if head["weights_sha256"] == weights_sha256 and head["config_hash"] == config_hash:
            return JobState(tensors=tensors, **head)
    return None
