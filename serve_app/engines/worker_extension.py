"""What we add to vLLM's worker: promised host memory is really there, and a failed reload leaves no trace.

Loaded by name inside the engine core (`--worker-extension-cls`); must not import anything heavy itself.
"""

from __future__ import annotations

from typing import Any


class WorkerExtension:
    """Mixed into vLLM's worker class. Source: vLLM 0.32 `v1/worker/worker_base.py`."""

    model_runner: Any
    reload_weights: Any

    def commit_kv_cache(self) -> int:
        """Touch every page of the KV cache, and return its bytes.

        The kernel gives zeroed pages only when they are first written: without this, an engine on host memory
        would go on growing to its plan while others see the room as free.
        """
        tensors = _distinct(_tensors(self.model_runner.kv_caches))
        for tensor in tensors:
            tensor.fill_(0)
        return _bytes(tensors)

    def held_bytes(self) -> tuple[int | None, int]:
        """Bytes of the weights as vLLM measured them while loading, and of the KV cache, on this rank.

        The CPU build measures no weights, and the model's parameters do not tell: most of them lie packed in oneDNN.
        """
        weights: int | None = getattr(self.model_runner, "model_memory_usage", None) or None
        return weights, _bytes(_distinct(_tensors(self.model_runner.kv_caches)))

    def reload_checkpoint(self, path: str) -> None:
        """vLLM's own reload from another directory, which after a failure can be called again.

        A reload that fails leaves layers half filled, and the next one would fill up the rest: *seen*, weights of
        both. So what was begun is put away first. Source: vLLM 0.32 `model_loader/reload/layerwise.py`.
        """
        try:
            self.reload_weights(weights_path=path)
        except BaseException:
            _put_away_begun(self.model_runner.get_model())
            raise


def _put_away_begun(model: Any) -> None:
    """Every layer that waits for the rest of its weights gets the tensors back that it had."""
    from vllm.model_executor.model_loader.reload import layerwise

    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if not info.can_load():
            continue
        if info.kernel_tensors is not None:
            layerwise._place_kernel_tensors(layer, info)
        info.reset()


def _distinct(tensors: list[Any]) -> list[Any]:
    """Each piece of memory once: tied weights, and layers that share a cache."""
    return list({tensor.data_ptr(): tensor for tensor in tensors}.values())


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(caches: Any) -> list[Any]:
    if isinstance(caches, list | tuple):
        return [tensor for cache in caches for tensor in _tensors(cache)]
    return [caches]
