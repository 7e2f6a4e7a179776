"""The configuration as the rest of the product sees it: frozen, checked, with units in the names.

Built once by `serve_app.config.load` from the pydantic schema; nothing else reads YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from placement.health_rules import Severity
from placement.health_state import HealthPolicy
from placement.objectives import ALERT_RESPONSE_TIME, AVAILABILITY, JOB_COMPLETION_TIME, Objective
from serve_app.access.tls import TlsFiles
from serve_app.scaling.rules import ScalingSettings


class DeviceChoice(StrEnum):
    AUTO = "auto"
    """CUDA devices where NVML finds any, else the host's memory."""
    CUDA = "cuda"
    HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    headroom: float
    """Fraction of every device kept free."""
    devices: DeviceChoice
    idle_after_s: float = 600.0
    """A model without requests for so long may sleep when another needs its room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """`source` is `default:<name>` for a model made by our own trainer, a checkpoint directory, or a folder of them."""

    id: str
    source: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    num_replicas: int
    priority: int
    kv_cache_bytes: int | None
    """None: enough for `max_num_seqs` sequences of `max_model_len` tokens."""
    tensor_parallel: int
    path: str
    """Key in cluster.yaml, e.g. `models[0]`."""
    device_types: tuple[str, ...] = ()
    """Words of the product's name; empty allows every device."""
    cpu_millis: int = 0
    host_memory_bytes: int = 0
    """Of each replica, beside its devices."""
    requests_per_s: float = 0.0
    """Of all replicas together; 0 means unknown."""
    max_offload_bytes: int = 0
    """Weights per device that may lie in host memory."""
    pinned: bool = False
    """Never put to sleep to make room."""
    tool_parser: str | None = None
    """vLLM's name of it, as that of `reasoning_parser`; None: the engine takes no call of a tool out of an answer."""
    reasoning_parser: str | None = None
    num_named: int | None = field(default=None, repr=False, compare=False)
    """Replicas that cluster.yaml names where scaling has put another count in force; None: those in force."""

    @property
    def num_configured(self) -> int:
        return self.num_replicas if self.num_named is None else self.num_named


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """Applied only where the request is silent; None leaves the engine's own default."""

    temperature: float | None
    top_p: float | None
    max_tokens: int | None


MAX_CACHE_TTL_S = 2_592_000.0
"""Thirty days."""


class TtlSource(StrEnum):
    """Who says how long a mode's answers live."""

    CONFIGURED = "configured"
    RAISED = "raised"
    """By tuning, because the hit rate was under its target."""
    PINNED = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSettings:
    name: str
    candidates: tuple[str, ...]
    """Model ids in order of preference."""
    sampling: SamplingDefaults
    latency_target_s: float
    cache_ttl_s: float
    """0 turns the cache of this mode off."""
    hit_rate_target: float | None = None
    """Under it the time to live is raised, within bounds; None: never."""
    semantic_similarity: float | None = None
    """How similar a question must be for another one's answer, a cosine; None: only equal requests share answers."""
    cache_ttl_source: TtlSource = TtlSource.CONFIGURED
    first_token_timeout_s: float | None = None
    """None: the gateway's."""
    between_tokens_timeout_s: float | None = None
    downshift_to: str | None = None
    """Mode that answers while this one's models are under pressure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    max_bytes: int
    """Bound on stored answers in one gateway replica."""
    redis_url: str | None
    record_file: Path | None = None
    """Where look-ups are written for `headroom cache simulate`, one file per gateway replica; None: nowhere."""
    record_max_bytes: int = 64 * 2**20
    embedder: str = "lexical"
    """What compares questions, in modes that share answers of similar ones."""
    semantic_max_bytes: int = 32 * 2**20
    """Bound on what it keeps of them in one gateway replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    num_replicas: int
    max_body_bytes: int
    first_token_timeout_s: float
    """Longest wait for the first byte of an answer."""
    between_tokens_timeout_s: float
    wake_timeout_s: float = 60.0
    """Longest wait of a request for a model that wakes up."""
    max_queued: int = 256
    """Requests that wait for one model in one gateway."""
    queue_timeout_s: float = 30.0
    hang_after_s: float = 10.0
    """Silence of an engine that holds requests, after which it is asked whether it still answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """Ports on loopback; None: not served."""

    grpc_port: int | None = 7212
    zeromq_port: int | None = 7211


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    sample_ratio: float
    keep_recent: int
    """Traces kept in local files for `headroom traces`; 0 keeps none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Exactly one of `secret_file` and `secret_env` is set; the secret itself is read where it is used."""

    url: str
    secret_file: Path | None
    secret_env: str | None
    min_severity: Severity
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings(HealthPolicy):
    """The policy of the state machine, and who is told."""

    preempt_at_risk: float | None = None
    """Risk of failure from which a device is emptied before it fails; None never."""
    webhooks: tuple[WebhookSettings, ...] = ()
    history: int = 10_000
    """Alerts kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """Opens by `cron` in `timezone`, and holds these devices while it is open."""

    name: str
    cron: str
    duration_s: float
    timezone: str
    devices: frozenset[str]
    nodes: frozenset[str]
    """All devices of these nodes."""
    drains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    windows: tuple[WindowSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectivesSettings:
    availability: Objective = AVAILABILITY
    job_completion_time: Objective = JOB_COMPLETION_TIME
    alert_response_time: Objective = ALERT_RESPONSE_TIME


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """`compare_bytes` on one device for the engine that scores; `test_every_s` 0 never asks.

    `archive_after_s` 0 never archives.
    No job gives way to a model before it has had its devices for `min_hold_s`.
    """

    compare: bool = True
    compare_bytes: int = 3 * 2**30
    test_every_s: float = 86_400.0
    archive_after_s: float = 2_592_000.0
    min_hold_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """`check_*` are limits of the checks after a switch, where callers ask too: wider than those of row C9."""

    auto: bool = False
    canary_share: float = 0.1
    canary_s: float = 60.0
    observe_s: float = 86_400.0
    candidate_port: int = 5571
    check: bool = True
    check_request_s: float = 5.0
    check_connect_s: float = 1.0
    check_metrics_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Both files or neither: HTTP and gRPC are encrypted where they are given."""

    certificate_file: Path | None = None
    key_file: Path | None = None
    encrypted_elsewhere: bool = False

    @property
    def tls(self) -> TlsFiles | None:
        if self.certificate_file is None or self.key_file is None:
            return None
        return TlsFiles(certificate=self.certificate_file, key=self.key_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    home: Path
    """Models, state and trace files; `HEADROOM_HOME` or `~/.headroom`."""
    model_roots: tuple[Path, ...]
    """Checkpoints are only ever opened below these, and below `home/models`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    fleet: FleetSettings
    models: tuple[ModelSettings, ...]
    modes: tuple[ModeSettings, ...]
    cache: CacheSettings
    gateway: GatewaySettings
    tracing: TracingSettings
    storage: StorageSettings
    leases: LeaseSettings = field(default_factory=LeaseSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    objectives: ObjectivesSettings = field(default_factory=ObjectivesSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    rollouts: RolloutSettings = field(default_factory=RolloutSettings)
    scaling: ScalingSettings = field(default_factory=ScalingSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
