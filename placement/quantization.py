"""Number formats of quantised checkpoints: bytes of a matrix with its scales, and which modules stay as they were.

Knows `quantization_config` of fp8, fbgemm_fp8, modelopt, compressed-tensors, gptq, awq and mxfp4; any other is an
unknown format, whose weights are counted from safetensors headers or not at all.
Source: the tensors these tools write, as vLLM 0.32 `model_executor/layers/quantization/*` creates them for loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from placement.config_keys import ConfigKeys
from placement.errors import UnsupportedModel
from placement.kept_modules import KeptModules
from placement.modules import FLOAT32_BYTES, Module, Role, Shape, Split, rank_shape

FP8_BYTES = 1
FLOAT16_BYTES = 2
INT32_BYTES = 4
INT64_BYTES = 8
MXFP4_GROUP = 32
NVFP4_GROUP = 16
MXFP4_LOADED_MULTIPLE = 256
"""Experts' width is rounded up to this when MXFP4 is loaded on a Hopper GPU: 2880 to 3072, which makes gpt-oss-20b
4.9 % larger; vLLM 0.11 logged 5.1 % (13.47 GiB for 12.82). vLLM 0.32 rounds to 128 or 256, `oracle/mxfp4.py`."""


class Scales(StrEnum):
    """How many weights share one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """One number format. `scale_bytes` None: as wide as the model's numbers.

    `group` counts inputs that share a scale (0: all), `block` is rows by columns. `zeros`: a packed zero point per
    scale. `order`: an int32 per input. `extra_bytes`: scalars beside each matrix, `extra_numbers` of the model's width.
    """

    bits: int
    scales: Scales
    scale_bytes: int | None = FLOAT32_BYTES
    group: int = 0
    block: tuple[int, int] = (0, 0)
    zeros: bool = False
    order: bool = False
    extra_bytes: int = 0
    extra_numbers: int = 0
    loaded_multiple: int = 1

    @property
    def grain(self) -> int:
        """Width of an MLP must be a multiple of this on each rank, or no kernel takes it; 1 for any width.

        Source: vLLM 0.32 `quantization/fp8.py`, validate_fp8_block_shape, and the group checks of its kernels.
        """
        if self.scales is Scales.BLOCK:
            return max(self.block)
        return self.group if self.scales is Scales.GROUP and self.group and self.loaded_multiple == 1 else 1

    def matrix_bytes(self, shape: Shape, *, dtype_bytes: int) -> int:
        """Bytes of one matrix with its scales, without the bias."""
        scale_bytes = dtype_bytes if self.scale_bytes is None else self.scale_bytes
        weights = ceil(shape.rows * shape.columns * self.bits / 8)
        order = shape.columns * INT32_BYTES if self.order else 0
        extra = self.extra_bytes + self.extra_numbers * dtype_bytes
        return weights + self._num_scales(shape) * scale_bytes + self._zeros_bytes(shape) + order + extra

    def _num_scales(self, shape: Shape) -> int:
        match self.scales:
            case Scales.TENSOR:
                return 1
            case Scales.CHANNEL:
                return shape.rows
            case Scales.BLOCK:
                return ceil(shape.rows / self.block[0]) * ceil(shape.columns / self.block[1])
            case Scales.GROUP:
                return shape.rows * self._groups(shape)

    def _groups(self, shape: Shape) -> int:
        return ceil(shape.columns / self.group) if self.group else 1

    def _zeros_bytes(self, shape: Shape) -> int:
        """Zero points lie packed along the rows in int32."""
        return ceil(shape.rows * self.bits / 32) * INT32_BYTES * self._groups(shape) if self.zeros else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """`packing` None: of an unknown kind. `kv_scale_bytes`: of one scale for keys and one for values in each layer, 0
    without. `cache_bytes`: width of the KV cache that an engine then takes by itself; None is the model's own."""

    method: str
    packing: Packing | None
    kept: KeptModules
    experts_only: bool = False
    head_too: bool = False
    kv_scale_bytes: int = 0
    cache_bytes: int | None = None

    def num_packed(self, module: Module) -> int:
        """In how many of its layers `module` is quantised."""
        if module.role is Role.HEAD and not self.head_too:
            return 0
        if module.role in (Role.EMBEDDING, Role.OTHER) or (self.experts_only and module.role is not Role.EXPERT):
            return 0
        return sum(not self.kept.holds(module.path(layer)) for layer in module.layers or (None,))


def module_bytes(
    module: Module,
    quantization: Quantization | None,
    *,
    dtype_bytes: int,
    tensor_parallel: int = 1,
    loaded: bool = False,
) -> int:
    """Bytes of a module in all its layers on one rank. `loaded`: with what an engine adds to the stored form."""
    shape = rank_shape(module, tensor_parallel=tensor_parallel)
    plain = (shape.rows * shape.columns + shape.bias) * (module.width_bytes or dtype_bytes)
    num_layers = len(module.layers) or 1
    packing = quantization.packing if quantization is not None else None
    packed = quantization.num_packed(module) if quantization is not None else 0
    if quantization is None or packing is None or not packed:
        return module.copies * num_layers * plain
    if loaded:
        shape = _rounded_up(shape, module.split, packing.loaded_multiple)
    one = packing.matrix_bytes(shape, dtype_bytes=dtype_bytes) + shape.bias * dtype_bytes
    scales = quantization.kv_scale_bytes * _kv_parts(module)
    return module.copies * (packed * (one + scales) + (num_layers - packed) * plain)


def quantization_of(keys: ConfigKeys) -> Quantization | None:
    """None for a model that is not quantised. Raises: UnsupportedModel for malformed entries."""
    config = keys.inner("quantization_config") or keys.inner("compression_config")
    if config is None:
        return None
    own = ConfigKeys(config)
    method = own.text("quant_method") or own.text("quant_algo", "unknown")
    if method.startswith("modelopt") or own.has("quant_algo") or own.has("quantization"):
        return _modelopt(own)
    reader = {
        "fp8": _fp8,
        "fbgemm_fp8": _fbgemm,
        "gptq": _gptq,
        "awq": _awq,
        "mxfp4": _mxfp4,
        "compressed-tensors": _compressed,
    }.get(method)
    return reader(own) if reader is not None else Quantization(method=method, packing=None, kept=KeptModules.of(()))


def _rounded_up(shape: Shape, split: Split, multiple: int) -> Shape:
    def up(number: int) -> int:
        return ceil(number / multiple) * multiple

    if split is Split.ROWS:
        return Shape(rows=up(shape.rows), columns=shape.columns, bias=up(shape.bias))
    return Shape(rows=shape.rows, columns=up(shape.columns), bias=shape.bias)


def _kv_parts(module: Module) -> int:
    """How many of keys and values a module makes."""
    return 0 if not module.kv_rows else 2 if module.rows else 1


def _kept(own: ConfigKeys, *entries: str) -> KeptModules:
    return KeptModules.of(word for entry in entries for word in own.words(entry))


def _fp8(own: ConfigKeys) -> Quantization:
    block = own.numbers("weight_block_size")
    static = own.text("activation_scheme", "dynamic") == "static"
    packing = Packing(bits=8, scales=Scales.TENSOR, extra_bytes=FLOAT32_BYTES if static else 0)
    if block is not None:
        packing = Packing(bits=8, scales=Scales.BLOCK, block=_block(block))
    kept = _kept(own, "modules_to_not_convert", "ignored_layers")
    return Quantization(method="fp8", packing=packing, kept=kept)


def _block(block: tuple[int, ...]) -> tuple[int, int]:
    if len(block) != 2 or min(block) < 1:
        raise UnsupportedModel("quantization_config", f"weight_block_size {list(block)} is not two numbers above 0")
    return block[0], block[1]


def _fbgemm(own: ConfigKeys) -> Quantization:
    packing = Packing(bits=8, scales=Scales.CHANNEL)
    return Quantization(method="fbgemm_fp8", packing=packing, kept=_kept(own, "modules_to_not_convert"))


def _gptq(own: ConfigKeys) -> Quantization:
    packing = Packing(
        bits=_bits(own, "bits"),
        scales=Scales.GROUP,
        scale_bytes=FLOAT16_BYTES,
        group=_group(own),
        zeros=True,
        order=True,
    )
    return Quantization(
        method="gptq", packing=packing, kept=_kept(own, "modules_to_not_convert"), head_too=own.flag("lm_head")
    )


def _awq(own: ConfigKeys) -> Quantization:
    bits = _bits(own, "bits" if own.has("bits") else "w_bit")
    packing = Packing(
        bits=bits, scales=Scales.GROUP, scale_bytes=FLOAT16_BYTES, group=_group(own),
        zeros=own.flag("zero_point", default=True),
    )  # fmt: skip
    return Quantization(method="awq", packing=packing, kept=_kept(own, "modules_to_not_convert"))


def _bits(own: ConfigKeys, key: str) -> int:
    return own.number(key, 4, most=8)


def _group(own: ConfigKeys) -> int:
    """-1 is one group for all inputs; 0 here."""
    key = "group_size" if own.has("group_size") else "q_group_size"
    group = own.raw(key)
    return 0 if group == -1 else own.number(key, 128)


def _mxfp4(own: ConfigKeys) -> Quantization:
    packing = Packing(
        bits=4, scales=Scales.GROUP, scale_bytes=1, group=MXFP4_GROUP, loaded_multiple=MXFP4_LOADED_MULTIPLE
    )
    kept = _kept(own, "modules_to_not_convert")
    return Quantization(method="mxfp4", packing=packing, kept=kept, experts_only=True)


def _modelopt(own: ConfigKeys) -> Quantization:
    """Also the form of hf_quant_config.json, with everything below `quantization`."""
    inner = own.inner("quantization")
    own = ConfigKeys(inner) if inner is not None else own
    algorithm = own.text("quant_algo", "unknown")
    packing = {
        "FP8": Packing(bits=8, scales=Scales.TENSOR, extra_bytes=FLOAT32_BYTES),
        "NVFP4": Packing(bits=4, scales=Scales.GROUP, scale_bytes=1, group=NVFP4_GROUP, extra_bytes=2 * FLOAT32_BYTES),
    }.get(algorithm)
    cached = own.text("kv_cache_quant_algo") == "FP8" or own.has("kv_cache_scheme")
    return Quantization(
        method=f"modelopt {algorithm}", packing=packing, kept=_kept(own, "exclude_modules", "ignore"),
        kv_scale_bytes=FLOAT32_BYTES if cached else 0, cache_bytes=FP8_BYTES if cached else None,
    )  # fmt: skip


def _compressed(own: ConfigKeys) -> Quantization:
    """The first group of layers; checkpoints with several formats at once are of an unknown kind."""
    groups = own.inner("config_groups") or {}
    formats = [group for group in groups.values() if isinstance(group, Mapping) and group.get("weights")]
    kept = _kept(own, "ignore")
    if len(formats) != 1:
        return Quantization(method="compressed-tensors", packing=None, kept=kept)
    group = ConfigKeys(formats[0])
    weights = ConfigKeys(group.inner("weights") or {})
    packing = _compressed_packing(weights, own.text("format") or group.text("format"), group)
    cached = own.inner("kv_cache_scheme") is not None
    return Quantization(
        method="compressed-tensors", packing=packing, kept=kept,
        kv_scale_bytes=FLOAT16_BYTES if cached else 0, cache_bytes=FP8_BYTES if cached else None,
    )  # fmt: skip


def _compressed_packing(weights: ConfigKeys, layout: str, group: ConfigKeys) -> Packing | None:
    inputs = ConfigKeys(group.inner("input_activations") or {})
    if layout == "nvfp4-pack-quantized":
        scalars = 2 if inputs.config else 1
        return Packing(
            bits=4, scales=Scales.GROUP, scale_bytes=1, group=NVFP4_GROUP, extra_bytes=scalars * FLOAT32_BYTES
        )
    if layout == "mxfp4-pack-quantized":
        return Packing(bits=4, scales=Scales.GROUP, scale_bytes=1, group=MXFP4_GROUP)
    strategy, bits = weights.text("strategy"), _bits(weights, "num_bits")
    packed = layout == "pack-quantized"
    if strategy not in tuple(Scales) or not (packed or bits == 8):
        return None
    size = weights.raw("group_size")
    static = bool(inputs.config) and inputs.raw("dynamic") is False
    return Packing(
        bits=bits, scales=Scales(strategy), scale_bytes=None, group=size if type(size) is int and size > 0 else 0,
        block=_block(weights.numbers("block_structure") or (128, 128)) if strategy == Scales.BLOCK else (0, 0),
        zeros=packed and not weights.flag("symmetric", default=True),
        order=packed and weights.text("actorder") == "group",
        extra_bytes=2 * INT64_BYTES if packed else 0,
        extra_numbers=1 if static else 0,
    )  # fmt: skip
