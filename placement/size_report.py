"""The sizes of one model in one engine setting, each with its source: what `headroom estimate` shows.

Two accounts side by side. `parts` is what vLLM's start-up log counts before the KV cache; they sum to `total_bytes`.
`planned` is what a plan sets aside on each device: also the driver's context, and a KV cache for one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.demand import Estimate, PartName
from placement.engine_overheads import activation_bytes, context_bytes, graphs_bytes, non_torch_bytes, sampler_bytes
from placement.estimate import estimate_replica, reject_bad_arguments
from placement.inventory import DeviceKind
from placement.kv_cache import (
    batched_tokens,
    block_tokens,
    kv_bytes_per_token,
    kv_cache_bytes_for,
    layout_of,
    state_bytes_per_sequence,
)
from placement.model_spec import ModelSpec, weights_bytes_from_config
from placement.quantization import module_bytes
from placement.weights_count import loadable_bytes_from_config, weights_bytes_per_device


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePart:
    name: str
    num_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """`checkpoint_bytes` is the whole checkpoint as it is stored, `unloaded_bytes` what no engine loads of it.

    `loadable_bytes` is the rest in the engine's number format, before the engine adds to it.
    """

    checkpoint_bytes: int
    unloaded_bytes: int
    loadable_bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    device_kind: DeviceKind
    tensor_parallel: int
    max_model_len: int
    max_num_seqs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReport:
    """All bytes are per device but `checkpoint_bytes`. `weights_bytes` is the stored form, before an engine pads it.

    `kv_bytes_per_token` counts every layer that attends; `kv_block_bytes` is one block of `kv_block_tokens` tokens of
    the pool that all groups of layers share. `kv_sequence_bytes` holds one sequence of full length, `kv_cache_bytes`
    all of them.
    """

    model_type: str
    checkpoint_bytes: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_block_bytes: int
    kv_block_tokens: int
    kv_groups: tuple[str, ...]
    state_bytes_per_sequence: int
    kv_sequence_bytes: int
    kv_cache_bytes: int
    activation_bytes: int
    total_bytes: int
    parts: tuple[SizePart, ...]
    planned: Estimate
    notes: tuple[str, ...]


def weights_of_config(spec: ModelSpec) -> StoredWeights:
    """Raises: UnsupportedModel naming what a config does not tell."""
    whole, loadable = weights_bytes_from_config(spec), loadable_bytes_from_config(spec)
    return StoredWeights(
        checkpoint_bytes=whole,
        unloaded_bytes=whole - loadable,
        loadable_bytes=loadable,
        source=f"config.json, counted by the modules of {spec.model_type}",
    )


def size_report(spec: ModelSpec, weights: StoredWeights, setting: Setting) -> SizeReport:
    """Raises: BadEngineArguments for a setting that vLLM would not start with."""
    reject_bad_arguments(
        spec,
        max_model_len=setting.max_model_len,
        max_num_seqs=setting.max_num_seqs,
        tensor_parallel=setting.tensor_parallel,
    )
    ranks, kind = setting.tensor_parallel, setting.device_kind
    layout = layout_of(spec, block=block_tokens(kind), tensor_parallel=ranks)
    parts = _parts(spec, weights, setting)
    sequence = _cache_for(spec, setting, num_seqs=1)
    planned = estimate_replica(
        spec,
        weights_bytes=weights.loadable_bytes,
        device_kind=kind,
        max_model_len=setting.max_model_len,
        max_num_seqs=setting.max_num_seqs,
        kv_cache_bytes=sequence,
        tensor_parallel=ranks,
    )
    return SizeReport(
        model_type=spec.model_type,
        checkpoint_bytes=weights.checkpoint_bytes,
        weights_bytes=_stored_here(spec, weights, ranks),
        kv_bytes_per_token=kv_bytes_per_token(spec, tensor_parallel=ranks),
        kv_block_bytes=layout.block_bytes,
        kv_block_tokens=layout.block_tokens,
        kv_groups=tuple(
            f"{group.layers} {group.kind.value}" + (f" {group.window}" if group.window else "")
            for group in layout.groups
        ),
        state_bytes_per_sequence=state_bytes_per_sequence(spec, tensor_parallel=ranks),
        kv_sequence_bytes=sequence,
        kv_cache_bytes=_cache_for(spec, setting, num_seqs=setting.max_num_seqs),
        activation_bytes=planned.part_bytes(PartName.ACTIVATION),
        total_bytes=sum(part.num_bytes for part in parts),
        parts=parts,
        planned=planned,
        notes=_notes(spec, weights),
    )


def _cache_for(spec: ModelSpec, setting: Setting, *, num_seqs: int) -> int:
    return kv_cache_bytes_for(
        spec,
        kind=setting.device_kind,
        max_model_len=setting.max_model_len,
        num_seqs=num_seqs,
        tensor_parallel=setting.tensor_parallel,
    )


def _stored_here(spec: ModelSpec, weights: StoredWeights, ranks: int) -> int:
    """The stored form divided among ranks, unloaded layers with it; all of it on a device alone."""
    if ranks == 1:
        return weights.checkpoint_bytes
    if spec.uncounted or spec.assumed:
        return -(-weights.checkpoint_bytes // ranks)
    here = sum(
        module_bytes(module, spec.quantization, dtype_bytes=spec.dtype_bytes, tensor_parallel=ranks)
        for module in spec.modules
    )
    return -(-weights.checkpoint_bytes * here // weights_bytes_from_config(spec))


def _parts(spec: ModelSpec, weights: StoredWeights, setting: Setting) -> tuple[SizePart, ...]:
    kind, ranks = setting.device_kind, setting.tensor_parallel
    loaded = weights_bytes_per_device(spec, weights_bytes=weights.loadable_bytes, tensor_parallel=ranks)
    parts = [
        SizePart(name="weights", num_bytes=loaded, source=_weights_source(spec, weights, setting, loaded)),
        _activation(spec, setting),
    ]
    if kind is DeviceKind.HOST:
        context = context_bytes(kind, tensor_parallel=ranks)
        return (*parts, SizePart(name="context", num_bytes=context, source="measured once on a host, and some more"))
    beside = "" if ranks == 1 else " and the collectives of several ranks"
    logs = "published start-up logs of vLLM 0.11 on H100"
    return (
        *parts,
        SizePart(name="cuda_graphs", num_bytes=graphs_bytes(spec), source=f"{spec.layers} layers; {logs}"),
        SizePart(name="non_torch", num_bytes=non_torch_bytes(tensor_parallel=ranks), source=f"{logs}{beside}"),
    )


def _weights_source(spec: ModelSpec, weights: StoredWeights, setting: Setting, loaded: int) -> str:
    words = [weights.source]
    if setting.tensor_parallel > 1:
        words.append(f"the largest of {setting.tensor_parallel} ranks")
    if weights.unloaded_bytes:
        words.append("without what is not loaded")
    if setting.tensor_parallel == 1 and loaded > weights.loadable_bytes:
        method = spec.quantization.method if spec.quantization else ""
        words.append(f"{method} padded for its kernels, +{loaded / weights.loadable_bytes - 1:.1%}")
    return ", ".join(words)


def _activation(spec: ModelSpec, setting: Setting) -> SizePart:
    seqs, tokens = setting.max_num_seqs, max(setting.max_num_seqs, batched_tokens(setting.device_kind))
    num_bytes = activation_bytes(
        spec, max_num_seqs=seqs, num_batched_tokens=tokens, tensor_parallel=setting.tensor_parallel
    )
    by_sampler = num_bytes == sampler_bytes(spec, max_num_seqs=seqs)
    sampler = f"sampler over {seqs} sequences × {spec.vocab_size} entries (39 bytes each)"
    layers = f"widest layer over a batch of {tokens} tokens"
    return SizePart(name="activation", num_bytes=num_bytes, source=sampler if by_sampler else layers)


def _notes(spec: ModelSpec, weights: StoredWeights) -> tuple[str, ...]:
    found = [spec.assumed] if spec.assumed else []
    if spec.uncounted:
        found.append(f"weights are divided evenly among ranks: {spec.uncounted} is not known")
    if weights.unloaded_bytes:
        found.append(
            f"{weights.unloaded_bytes:,} bytes of the checkpoint are never loaded: layers to predict more tokens"
        )
    return tuple(found)
