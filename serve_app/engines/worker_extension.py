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
        """vLLM's own reload from another directory, made whole at its two weak places.

        A reload that fails leaves layers half filled, which the next one would go on to fill: they are put away. And a
        head that shares the embeddings is not loaded by itself, so on a CPU it would go on with its packed copy of the
        old ones. Source: vLLM 0.32 `model_loader/reload/layerwise.py`, `layers/vocab_parallel_embedding.py`.
        """
        model = self.model_runner.get_model()
        try:
            self.reload_weights(weights_path=path)
        except BaseException:
            _put_away_begun(model)
            raise
        _pack_embeddings_again(model)


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


def _pack_embeddings_again(model: Any) -> None:
    """On a CPU; elsewhere nothing is packed and nothing happens."""
    from vllm.model_executor.layers import vocab_parallel_embedding as embedding

    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(layer, embedding.VocabParallelEmbedding) and isinstance(
            method, embedding.UnquantizedEmbeddingMethod
        ):
            method.process_weights_after_loading(layer)


def _distinct(tensors: list[Any]) -> list[Any]:
    """Each piece of memory once: tied weights, and layers that share a cache."""
    return list({tensor.data_ptr(): tensor for tensor in tensors}.values())


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(caches: Any) -> list[Any]:
    if isinstance(caches, list | tuple):
        return [tensor for cache in caches for tensor in _tensors(cache)]
    return [caches]
