"""Bytes of weights that an engine loads of a checkpoint, whole and on each rank."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from math import ceil

from placement.model_spec import ModelSpec, weights_bytes_from_config
from placement.quantization import module_bytes
from placement.safetensors_header import SafetensorsHeader, weights_bytes_from_headers

LAYER_NUMBER = re.compile(r"^model\.(?:language_model\.)?layers\.(\d{1,6})\.")


def loadable_bytes_from_config(spec: ModelSpec) -> int:
    """As `weights_bytes_from_config`, without layers that lie in the checkpoint and are not loaded."""
    return weights_bytes_from_config(spec) - next_layers_bytes(spec)


def loaded_headers(spec: ModelSpec, headers: Iterable[SafetensorsHeader]) -> tuple[SafetensorsHeader, ...]:
    """The headers without tensors that no engine loads: layers behind the last one, a tied head stored once more."""
    return tuple(
        replace(header, tensors=tuple(tensor for tensor in header.tensors if _is_loaded(spec, tensor.name)))
        for header in headers
    )


def loadable_bytes_from_headers(spec: ModelSpec, headers: Iterable[SafetensorsHeader]) -> int:
    """Bytes that an engine loads of a checkpoint: floats in its own dtype, but in a quantised one as they are stored.

    Raises: BadHeader when two shards hold a tensor of one name.
    """
    float_bytes = None if spec.quantization is not None else spec.dtype_bytes
    return weights_bytes_from_headers(loaded_headers(spec, headers), float_bytes=float_bytes)


def next_layers_bytes(spec: ModelSpec) -> int:
    """Bytes of layers that lie in the checkpoint and are not loaded."""
    stored_only = [module for module in spec.modules if module.stored_only]
    return sum(module_bytes(module, spec.quantization, dtype_bytes=spec.dtype_bytes) for module in stored_only)


def loaded_bytes(spec: ModelSpec, *, tensor_parallel: int = 1) -> int:
    """Bytes that the largest rank holds once loaded, by the config alone."""
    return sum(
        module_bytes(
            module, spec.quantization, dtype_bytes=spec.dtype_bytes, tensor_parallel=tensor_parallel, loaded=True
        )
        for module in spec.modules
        if not module.stored_only
    )


def weights_bytes_per_device(spec: ModelSpec, *, weights_bytes: int, tensor_parallel: int) -> int:
    """Bytes on each rank of a checkpoint of which `weights_bytes` are loaded, in the engine's dtype.

    That true size is divided in the proportions of the config: norms, routers and latents are held whole by every
    rank, keys and values more than once where ranks outnumber KV heads. In an unknown format all is divided evenly.
    """
    if spec.uncounted or spec.assumed:
        return ceil(weights_bytes / tensor_parallel)
    here = loaded_bytes(spec, tensor_parallel=tensor_parallel)
    return -(-weights_bytes * here // loadable_bytes_from_config(spec))


def _is_loaded(spec: ModelSpec, tensor: str) -> bool:
    layer = LAYER_NUMBER.search(tensor)
    if tensor.startswith("mtp.") or (layer is not None and int(layer[1]) >= spec.layers and not spec.uncounted):
        return False
    return not (spec.tied_embeddings and tensor == "lm_head.weight")
