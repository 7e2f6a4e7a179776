"""From the checked schema to the frozen settings; the one place where paths and the environment are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from math import ceil
from pathlib import Path

from serve_app.config.access_schema import AccessSection
from serve_app.config.convert_health import health_settings, maintenance_settings, objectives_settings
from serve_app.config.convert_scaling import scaling_settings
from serve_app.config.schema import (
    CacheSection,
    ClusterArgs,
    GatewaySection,
    ModelSection,
    ModeSection,
    SamplingSection,
    StorageSection,
)
from serve_app.config.settings import (
    AccessSettings,
    CacheSettings,
    DeviceChoice,
    FleetSettings,
    GatewaySettings,
    LeaseSettings,
    ModelSettings,
    ModeSettings,
    RolloutSettings,
    SamplingDefaults,
    Settings,
    StorageSettings,
    TracingSettings,
    TrainingSettings,
)

HOME_VARIABLE = "HEADROOM_HOME"


def convert(args: ClusterArgs, *, base_dir: Path, environment: Mapping[str, str]) -> Settings:
    """`base_dir` is where relative paths start."""
    return Settings(
        fleet=FleetSettings(
            headroom=args.fleet.headroom,
            devices=DeviceChoice(args.fleet.devices),
            idle_after_s=args.fleet.idle_after_s,
        ),
        models=tuple(_model(model, index, base_dir) for index, model in enumerate(args.models)),
        modes=tuple(_mode(name, mode) for name, mode in args.modes.items()),
        cache=_cache(args.cache, base_dir),
        gateway=_gateway(args.gateway),
        leases=LeaseSettings(grpc_port=args.leases.grpc_port, zeromq_port=args.leases.zeromq_port),
        tracing=TracingSettings(sample_ratio=args.tracing.sample_ratio, keep_recent=args.tracing.keep_recent),
        health=health_settings(args.health, lambda text: _absolute(text, base_dir)),
        maintenance=maintenance_settings(args.maintenance),
        objectives=objectives_settings(args.objectives),
        training=TrainingSettings(
            **args.training.model_dump(exclude={"compare_memory"}), compare_bytes=args.training.compare_memory
        ),
        rollouts=RolloutSettings(**args.rollouts.model_dump()),
        scaling=scaling_settings(args.scaling),
        access=_access(args.access, base_dir),
        storage=_storage(args.storage, base_dir, environment),
    )


def _model(section: ModelSection, index: int, base_dir: Path) -> ModelSettings:
    is_default = section.source.startswith("default:")
    return ModelSettings(
        id=section.id,
        source=section.source if is_default else str(_absolute(section.source, base_dir)),
        dtype=section.dtype,
        max_model_len=section.max_model_len,
        max_num_seqs=section.max_num_seqs,
        num_replicas=section.replicas,
        priority=section.priority,
        kv_cache_bytes=section.kv_cache_bytes,
        tensor_parallel=section.tensor_parallel,
        path=f"models[{index}]",
        device_types=tuple(section.device_types),
        cpu_millis=cpu_millis(section.cpus),
        host_memory_bytes=section.host_memory,
        requests_per_s=section.requests_per_s,
        max_offload_bytes=section.max_offload,
        pinned=section.pinned,
        tool_parser=section.tool_parser,
        reasoning_parser=section.reasoning_parser,
    )


def cpu_millis(cpus: float) -> int:
    """Thousandths of a core, rounded up, so that any cores asked for count."""
    return ceil(Decimal(str(cpus)) * 1000)


def _mode(name: str, section: ModeSection) -> ModeSettings:
    return ModeSettings(
        name=name,
        candidates=tuple(section.candidates),
        sampling=_sampling(section.sampling),
        latency_target_s=section.latency_target_s,
        cache_ttl_s=section.cache_ttl_s,
        hit_rate_target=section.hit_rate_target,
        semantic_similarity=section.semantic_similarity,
        first_token_timeout_s=section.first_token_timeout_s,
        between_tokens_timeout_s=section.between_tokens_timeout_s,
        downshift_to=section.downshift_to,
    )


def _sampling(section: SamplingSection) -> SamplingDefaults:
    return SamplingDefaults(temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens)


def _gateway(section: GatewaySection) -> GatewaySettings:
    return GatewaySettings(
        num_replicas=section.replicas,
        max_body_bytes=section.max_body_bytes,
        first_token_timeout_s=section.first_token_timeout_s,
        between_tokens_timeout_s=section.between_tokens_timeout_s,
        wake_timeout_s=section.wake_timeout_s,
        max_queued=section.max_queued,
        queue_timeout_s=section.queue_timeout_s,
        hang_after_s=section.hang_after_s,
    )


def _cache(section: CacheSection, base_dir: Path) -> CacheSettings:
    return CacheSettings(
        max_bytes=section.max_bytes,
        redis_url=section.redis_url,
        record_file=None if section.record_file is None else _absolute(section.record_file, base_dir),
        record_max_bytes=section.record_max_bytes,
        embedder=section.embedder,
        semantic_max_bytes=section.semantic_max_bytes,
    )


def _access(section: AccessSection, base_dir: Path) -> AccessSettings:
    files = (section.certificate_file, section.key_file)
    certificate_file, key_file = (None if file is None else _absolute(file, base_dir) for file in files)
    return AccessSettings(
        certificate_file=certificate_file, key_file=key_file, encrypted_elsewhere=section.encrypted_elsewhere
    )


def _storage(section: StorageSection, base_dir: Path, environment: Mapping[str, str]) -> StorageSettings:
    home = section.home or environment.get(HOME_VARIABLE) or "~/.headroom"
    return StorageSettings(
        home=_absolute(home, base_dir),
        model_roots=tuple(_absolute(root, base_dir) for root in section.model_roots),
    )


def _absolute(text: str, base_dir: Path) -> Path:
    """Not resolved through symbolic links: who opens a path decides what it may lead to."""
    return (base_dir / Path(text).expanduser()).absolute()
