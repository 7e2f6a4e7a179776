"""What tells one family of models from another, as values: which facts there are. The table itself is `families`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Bias = bool | str
"""Whether there is one; a string is the entry of config.json that says so (absent: no)."""


class Norm(StrEnum):
    WEIGHT = "weight"
    """RMS norm, or a layer norm without bias."""
    WEIGHT_AND_BIAS = "weight_and_bias"
    NONE = "none"
    """Without parameters."""


class QkNorm(StrEnum):
    """Norms on queries and keys."""

    NONE = "none"
    HEAD = "head"
    """One of `head_dim` elements, shared by all heads."""
    HEAD_AND_BIAS = "head_and_bias"
    WIDTH = "width"
    """As many elements as queries and keys have; also a norm of its own for each head."""


class Pattern(StrEnum):
    """Which layer mixes tokens how, where config.json has no `layer_types`."""

    UNIFORM = "uniform"
    """All alike: within `sliding_window` where there is one."""
    FULL = "full"
    """All alike and unbounded, whatever `sliding_window` says."""
    EVERY_NTH_FULL = "every_nth_full"
    """`sliding_window_pattern`: layers 1 to n-1 slide, the n-th is full."""
    LATER_SLIDING = "later_sliding"
    """Layers from `max_window_layers` on, where `use_sliding_window` says so."""
    ROPE_CHUNKED = "rope_chunked"
    """Llama 4: chunks of `attention_chunk_size`, but full where `no_rope_layers` has 0."""
    EVERY_NTH_ATTENTION = "every_nth_attention"
    """`full_attention_interval`: linear attention, but full attention in every n-th."""
    PERIODIC_ATTENTION = "periodic_attention"
    """Jamba: `attn_layer_period` and `attn_layer_offset`, state space elsewhere."""
    LISTED_ATTENTION = "listed_attention"
    """Bamba: `attn_layer_indices`, state space elsewhere."""
    LETTERS = "letters"
    """Nemotron-H: `hybrid_override_pattern`, one mixer or one MLP per layer."""
    ALL_STATE = "all_state"
    BESIDE = "beside"
    """Falcon-H1: attention and state space side by side in each layer."""


class State(StrEnum):
    """What linear layers are."""

    NONE = "none"
    MAMBA1 = "mamba1"
    MAMBA2 = "mamba2"
    GATED_DELTA = "gated_delta"
    SHORT_CONV = "short_conv"


class ExpertLayers(StrEnum):
    """Which layers have experts."""

    ALL = "all"
    AFTER_DENSE = "after_dense"
    """Every `moe_layer_freq`-th from `first_k_dense_replace` on."""
    SPARSE_STEP = "sparse_step"
    """Every `decoder_sparse_step`-th, but not `mlp_only_layers`."""
    INTERLEAVED = "interleaved"
    """Llama 4: `moe_layers`, or every `interleave_moe_layer_step`-th."""
    PERIODIC = "periodic"
    """Jamba: `expert_layer_period` and `expert_layer_offset`."""
    RANGE = "range"
    """ERNIE: from `moe_layer_start_index` to `moe_layer_end_index`, every `moe_layer_interval`-th."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Entries of config.json by their names there.

    `shared` is a number of experts of that width for every token (0 where absent), `shared_width` their width all
    together; at most one is set. `fewest`: with less of them than that, all MLPs are plain.
    `correction_bias`: one float32 per expert for choosing, stored beside the router.
    """

    number: str = "num_experts"
    per_token: str = "num_experts_per_tok"  # noqa: S105  # no password
    width: str = "moe_intermediate_size"
    where: ExpertLayers = ExpertLayers.ALL
    shared: str = ""
    shared_width: str = ""
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    correction_bias: bool = False
    fewest: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Facts of one `model_type`, as transformers builds it.

    `names`: our word for an entry of config.json to the family's. `defaults`: values where configs stay silent.
    `norms`: in each layer. `positions`: learned ones beyond `max_position_embeddings`, None for none learned. `tied`
    and `dense_width` (entry for the width of plain MLPs) are for configs that do not say. `dense_width_factor`: times
    `hidden_size`, where there is no such entry. `window_every`: length of the pattern, `window_extra`: tokens that a
    window sees beyond what is stated. `next_layers`: entry that counts the layers for predicting several tokens, in the
    checkpoint behind the last one; `next_layers_unstated` is their number where configs are silent, `next_ends` whether
    each has embeddings and a head of its own. `state_dtype`: entry for the number format of the recurrent state and its
    default; None is the model's own.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    norm: Norm = Norm.WEIGHT
    norms: int = 2
    final_norm: bool = True
    embedding_norm: bool = False
    qk_norm: QkNorm = QkNorm.NONE
    qk_norm_flag: str = ""
    qkv_bias: Bias = False
    o_bias: Bias = False
    mlp_bias: Bias = False
    head_bias: Bias = False
    gated: bool = True
    fused_qkv: bool = False
    fused_gate_up: bool = False
    output_gate: bool = False
    sinks: bool = False
    positions: int | None = None
    tied: bool = False
    dense_width: str = "intermediate_size"
    dense_width_factor: int = 0
    pattern: Pattern = Pattern.FULL
    window_every: int = 0
    window_extra: int = 0
    state: State = State.NONE
    state_dtype: tuple[str, str] | None = None
    experts: Experts | None = None
    latent: bool = False
    next_layers: str = ""
    next_layers_unstated: int = 0
    next_ends: bool = True
    activation_params: int = 0
