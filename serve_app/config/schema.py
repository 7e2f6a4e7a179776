"""What cluster.yaml may say below `applications[name=headroom].args`: names, types, ranges, defaults, meaning.

The descriptions are also the comments of cluster.yaml and of `headroom config schema`; a test keeps them equal.
Rules that look at more than one key are in `crosschecks.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.config.access_schema import AccessSection
from serve_app.config.health_schema import HealthSection, MaintenanceSection, ObjectivesSection
from serve_app.config.scaling_schema import ScalingSection
from serve_app.config.schema_training import RolloutsSection, TrainingSection
from serve_app.config.schema_types import DeviceType, FilePath, Name, RedisUrl, SizeRange, Source
from serve_app.config.section import Section
from serve_app.config.settings import MAX_CACHE_TTL_S

MAX_MODELS = 1000
"""Models of one file; far above what one fleet serves, and low enough that planning them takes seconds."""

ParserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FleetSection(Section):
    headroom: float = Field(
        0.20, ge=0.0, le=0.95, description="Fraction of every device kept free, also while models start."
    )
    devices: Literal["auto", "cuda", "host"] = Field(
        "auto",
        description="Where models run: GPUs (cuda), the machine's memory (host), or GPUs if there are any (auto).",
    )
    idle_after_s: float = Field(
        600.0,
        ge=1.0,
        le=2_592_000.0,
        description="A model without requests for so long, in seconds, may sleep when another needs its room.",
    )


class ModelSection(Section):
    id: Name = Field(description="Name the API knows the model by.")
    source: Source = Field(
        description=(
            "default:mini, default:small or default:base (made on first use), a checkpoint directory below "
            "storage.model_roots, or a folder there in which checkpoint-<step> directories appear: the newest serves "
            "first, later ones by rollouts; a relative path starts at this file's directory."
        )
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of weights and KV cache on the device."
    )
    max_model_len: int = Field(512, ge=16, le=10_485_760, description="Longest prompt plus answer, in tokens.")
    max_num_seqs: int = Field(64, ge=1, le=4096, description="Most requests one replica works on at the same time.")
    replicas: int = Field(1, ge=1, le=64, description="Engines that run this model.")
    priority: int = Field(10, ge=0, le=1000, description="When room is short, a larger priority wins; 0 to 1000.")
    kv_cache_bytes: Annotated[int, SizeRange(2**20, 2**44)] | None = Field(
        None,
        description="KV cache of one replica, e.g. 512MiB; null holds max_num_seqs requests of max_model_len tokens.",
    )
    tensor_parallel: int = Field(1, ge=1, le=64, description="Devices of one node that share each replica.")
    device_types: list[DeviceType] = Field(
        default_factory=list,
        description="Devices it may lie on, by words of the product's name, e.g. [H100, A100]; empty allows all.",
    )
    cpus: float = Field(0.0, ge=0.0, le=4096.0, description="Cores each replica takes of its node; 0 plans none.")
    host_memory: Annotated[int, SizeRange(0, 2**44)] = Field(
        0, description="Memory of its node each replica takes beside its devices, e.g. 8GiB; 0 plans none."
    )
    requests_per_s: float = Field(
        0.0, ge=0.0, le=1e9, description="Requests per second all replicas together should serve; 0 means unknown."
    )
    max_offload: Annotated[int, SizeRange(0, 2**44)] = Field(
        0,
        description=(
            "Most weights per device that may lie in the node's memory when devices are full, e.g. 4GiB; "
            "each step then reads them over the bus."
        ),
    )
    pinned: bool = Field(False, description="Never put to sleep to make room for another model.")
    tool_parser: ParserName | None = Field(
        None, description="How this model writes tool calls, by vLLM's name, e.g. hermes; null offers it no tools."
    )
    reasoning_parser: ParserName | None = Field(
        None,
        description="How this model marks its reasoning, by vLLM's name, e.g. qwen3; null: all is the answer.",
    )


class SamplingSection(Section):
    temperature: float | None = Field(
        None, ge=0.0, le=2.0, description="0 always takes the likeliest token; null leaves it to the model."
    )
    top_p: float | None = Field(
        None, gt=0.0, le=1.0, description="Share of probability to sample from; null leaves it to the model."
    )
    max_tokens: int | None = Field(
        None, ge=1, le=10_485_760, description="Longest answer in tokens; null leaves it to the model's length."
    )


class ModeSection(Section):
    candidates: list[Name] = Field(min_length=1, description="Model ids in order of preference.")
    sampling: SamplingSection = Field(
        default_factory=SamplingSection, description="Used only where the request itself says nothing."
    )
    latency_target_s: float = Field(
        5.0, gt=0.0, le=3600.0, description="Time within which 95 % of requests should be answered, in seconds."
    )
    first_token_timeout_s: float | None = Field(
        None, gt=0.0, le=3600.0, description="The gateway's longest wait of this name, for this mode; null takes that."
    )
    between_tokens_timeout_s: float | None = Field(
        None, gt=0.0, le=3600.0, description="The same between two pieces of an answer."
    )
    downshift_to: Name | None = Field(
        None, description="Mode whose models answer, and say so, while this mode's are under pressure; null: none."
    )
    cache_ttl_s: float = Field(
        300.0, ge=0.0, le=MAX_CACHE_TTL_S, description="How long an answer may be given again, in seconds; 0 never."
    )
    hit_rate_target: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Part of look-ups that should hit; below it cache_ttl_s doubles, daily, up to 1200 s; null never.",
    )
    semantic_similarity: float | None = Field(
        None,
        ge=0.8,
        le=1.0,
        description="Likeness from which a similar question gets a stored answer, from 0.8, e.g. 0.95; null: none.",
    )


class CacheSection(Section):
    max_bytes: Annotated[int, SizeRange(2**20, 2**40)] = Field(
        256 * 2**20, description="Most memory that stored answers take in one gateway replica."
    )
    redis_url: RedisUrl | None = Field(
        None, description="Redis that all gateway replicas share; null keeps answers in the gateways themselves."
    )
    record_file: FilePath | None = Field(
        None,
        description="Look-ups (time, mode, salted hash, size) for `headroom cache simulate`; null records none.",
    )
    record_max_bytes: Annotated[int, SizeRange(2**10, 2**34)] = Field(
        64 * 2**20, description="Size at which each gateway replica stops recording."
    )
    embedder: Name = Field(
        "lexical",
        description="What compares questions for semantic_similarity: lexical (words and letters) or an installed one.",
    )
    semantic_max_bytes: Annotated[int, SizeRange(2**16, 2**40)] = Field(
        32 * 2**20, description="Most memory that vectors of questions take in one gateway replica."
    )


class GatewaySection(Section):
    replicas: int = Field(1, ge=1, le=64, description="Gateway processes behind the address.")
    max_body_bytes: Annotated[int, SizeRange(2**10, 2**28)] = Field(
        2**20, description="Largest request body that is read."
    )
    first_token_timeout_s: float = Field(
        60.0, gt=0.0, le=3600.0, description="Longest wait for the first piece of an answer, in seconds."
    )
    between_tokens_timeout_s: float = Field(
        30.0, gt=0.0, le=3600.0, description="Longest wait between two pieces of an answer, in seconds."
    )
    wake_timeout_s: float = Field(
        60.0, gt=0.0, le=3600.0, description="Longest wait of a request for a model that wakes up, in seconds."
    )
    max_queued: int = Field(
        256, ge=0, le=100_000, description="Most requests that wait for a model in one gateway process."
    )
    queue_timeout_s: float = Field(
        30.0, gt=0.0, le=3600.0, description="Longest wait there, in seconds; who would wait longer is refused at once."
    )
    hang_after_s: float = Field(
        10.0,
        gt=0.0,
        le=3600.0,
        description="An engine with requests and silent for so long, in seconds, is asked whether it still answers.",
    )


class LeasesSection(Section):
    grpc_port: int | None = Field(
        7212, ge=1, le=65535, description="Port of gRPC on 127.0.0.1, service modelops.ModelOps; null serves none."
    )
    zeromq_port: int | None = Field(
        7211, ge=1, le=65535, description="Port of ZeroMQ on 127.0.0.1, the same messages as JSON; null serves none."
    )


class TracingSection(Section):
    sample_ratio: float = Field(
        1.0, ge=0.0, le=1.0, description="Fraction of requests traced, where the caller has not decided already."
    )
    keep_recent: int = Field(
        200, ge=0, le=100_000, description="Traces kept in files for `headroom traces`; 0 keeps none."
    )


class StorageSection(Section):
    home: FilePath | None = Field(
        None, description="Directory of models, state and traces; null takes $HEADROOM_HOME, else ~/.headroom."
    )
    model_roots: list[FilePath] = Field(
        default_factory=list, description="Checkpoints are opened only below these directories and below home/models."
    )


class ClusterArgs(Section):
    """The arguments of the application `headroom`."""

    fleet: FleetSection = Field(default_factory=FleetSection, description="Devices and how full they may get.")
    models: list[ModelSection] = Field(min_length=1, max_length=MAX_MODELS, description="Models to serve.")
    modes: dict[Name, ModeSection] = Field(
        default_factory=dict, description="Modes a caller may ask for as model name or by the header x-headroom-mode."
    )
    cache: CacheSection = Field(default_factory=CacheSection, description="Cache of answers.")
    gateway: GatewaySection = Field(default_factory=GatewaySection, description="The process that takes requests.")
    leases: LeasesSection = Field(
        default_factory=LeasesSection, description="Device memory borrowed by programs outside; REST is at /v1/leases."
    )
    tracing: TracingSection = Field(
        default_factory=TracingSection, description="Traces; OTLP export is set by the standard OTEL_ variables."
    )
    health: HealthSection = Field(
        default_factory=HealthSection, description="Watch over devices: what is judged, what follows, who is told."
    )
    maintenance: MaintenanceSection = Field(
        default_factory=MaintenanceSection, description="Windows that hold devices by schedule."
    )
    objectives: ObjectivesSection = Field(
        default_factory=ObjectivesSection, description="What is promised; how fast it is being missed is told as burn."
    )
    training: TrainingSection = Field(
        default_factory=TrainingSection, description="What follows when a training job has made a checkpoint."
    )
    rollouts: RolloutsSection = Field(
        default_factory=RolloutsSection, description="How new weights come to serve, and go again."
    )
    scaling: ScalingSection = Field(
        default_factory=ScalingSection,
        description="How many of each there are: by load, between limits, and never into the headroom.",
    )
    access: AccessSection = Field(
        default_factory=AccessSection,
        description="Who may call; keys are made by `headroom keys`, and without any only loopback is served.",
    )
    storage: StorageSection = Field(default_factory=StorageSection, description="Files.")
