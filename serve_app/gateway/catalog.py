"""What can be asked for right now: settings and routing table joined once per change, read on every request.

Pure and immutable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil

from serve_app.config.settings import ModelSettings, ModeSettings, Settings
from serve_app.gateway.routing_table import Backend, Canary, RoutingTable


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryServing:
    """Ready backends of the new weights, and which part of the requests is theirs."""

    backends: tuple[Backend, ...]
    share: float
    seed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """`serving` holds the ready backends of each model, all of one weights version; models without any are absent.

    `canaries` are those of new weights beside them. `versions` are all ready ones, by model and weights version.
    `refusals` says of models that will not serve as things are, why; those in `wakeable` come when they are asked for.
    """

    models: Mapping[str, ModelSettings]
    modes: Mapping[str, ModeSettings]
    serving: Mapping[str, tuple[Backend, ...]]
    refusals: Mapping[str, str] = field(default_factory=dict)
    wakeable: frozenset[str] = frozenset()
    canaries: Mapping[str, CanaryServing] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, tuple[Backend, ...]]] = field(default_factory=dict)

    @property
    def names(self) -> str:
        """Every valid value of `model`, for messages."""
        return f"models {', '.join(self.models)}; modes {', '.join(self.modes)}"


def make_catalog(settings: Settings, table: RoutingTable) -> Catalog:
    """Join settings and table. Backends of models that the settings do not know are left out."""
    models = {model.id: model for model in settings.models}
    backends = [_part_of_one_gateway(backend, max(1, len(table.peers))) for backend in table.backends]
    versions = {model: _by_version(tuple(b for b in backends if b.model == model)) for model in models}
    canaries = {canary.model: canary for canary in table.canaries}
    serving = {model: _main(known, canaries.get(model)) for model, known in versions.items()}
    return Catalog(
        models=models,
        modes={mode.name: mode for mode in settings.modes},
        serving={model: backends for model, backends in serving.items() if backends},
        refusals=dict(table.refusals),
        wakeable=frozenset(table.wakeable),
        canaries={
            canary.model: CanaryServing(backends=beside, share=canary.share, seed=canary.seed)
            for canary in table.canaries
            if (beside := versions.get(canary.model, {}).get(canary.weights_version))
        },
        versions=versions,
    )


def _part_of_one_gateway(backend: Backend, num_gateways: int) -> Backend:
    if backend.max_in_flight is None or num_gateways == 1:
        return backend
    return replace(backend, max_in_flight=ceil(backend.max_in_flight / num_gateways))


def _by_version(backends: tuple[Backend, ...]) -> dict[str, tuple[Backend, ...]]:
    found = dict.fromkeys(backend.weights_version for backend in backends)
    return {version: tuple(b for b in backends if b.weights_version == version) for version in found}


def _main(versions: Mapping[str, tuple[Backend, ...]], canary: Canary | None) -> tuple[Backend, ...]:
    """The backends of the version that most replicas run, the first named one when equal, a canary only alone.

    One version is chosen before the cache is asked, so a retry can never mix two versions in one answer.
    """
    candidate = canary.weights_version if canary else None
    settled = [backends for version, backends in versions.items() if version != candidate]
    return max(settled or versions.values(), key=len, default=())
