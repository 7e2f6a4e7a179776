"""Bytes of weights: of a whole checkpoint, and of what each rank of an engine loads of it."""

from __future__ import annotations

from placement.errors import UnsupportedModel
from placement.model_spec import ModelSpec
from placement.quantization import module_bytes


def num_params(spec: ModelSpec) -> int:
    """Parameters as a checkpoint stores them: tied embeddings once, layers for predicting several tokens included."""
    return sum(module.num_params for module in spec.modules)


def weights_bytes_from_config(spec: ModelSpec) -> int:
    """Bytes of the whole checkpoint. Exact for one stored in the spec's dtype, quantised or not.

    Raises: UnsupportedModel naming what a config does not tell.
    """
    if spec.uncounted or spec.assumed:
        what = spec.uncounted or f"the model_type {spec.model_type!r}"
        message = f"weights cannot be counted from config.json alone with {what}; safetensors files beside it tell them"
        raise UnsupportedModel("quantization_config" if "quantization" in what else "model_type", message)
    return sum(module_bytes(module, spec.quantization, dtype_bytes=spec.dtype_bytes) for module in spec.modules)


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
    )  # fmt: skip


def weights_bytes_per_device(spec: ModelSpec, *, weights_bytes: int, tensor_parallel: int) -> int:
    """Bytes on each rank of a checkpoint that is `weights_bytes` large in the engine's dtype.

    The checkpoint's true size is divided in the proportions of the config: norms, routers and latents are held whole
    by every rank, keys and values more than once where ranks outnumber KV heads, unloaded layers by none. In an
    unknown format all is divided evenly.
    """
    if spec.uncounted or spec.assumed:
        return -(-weights_bytes // tensor_parallel)
    stored, here = weights_bytes_from_config(spec), loaded_bytes(spec, tensor_parallel=tensor_parallel)
    return -(-weights_bytes * here // stored)
