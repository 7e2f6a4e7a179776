"""What changing to other settings would mean: plan, steps, and what can only change with a restart. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from placement.changes import Rates
from placement.demand import Demand
from placement.inventory import Inventory
from placement.plan import Placement, Plan
from placement.steps import DEFAULT_RATES, Steps
from serve_app.config.settings import ModelSettings, Settings
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.lifecycle import Rest

_LIVE = ("models", "modes")
"""The sections of cluster.yaml that change while the cluster runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """`slots` has one entry per placement of `plan`; an engine that may go on keeps its slot of now.

    `resting` are the models that do not run afterwards although `settings` names them. `giving_way` are the jobs, by
    the name of their guest, that go back to their queue first, each with the reason that it is told.
    """

    settings: Settings
    weights: Mapping[str, Weights]
    inventory: Inventory
    demands: tuple[Demand, ...]
    plan: Plan
    steps: Steps
    slots: tuple[Slot, ...]
    resting: Mapping[str, Rest] = field(default_factory=dict)
    giving_way: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes_nothing(self) -> bool:
        return not self.steps.batches


def restart_keys(before: Settings, after: Settings) -> list[str]:
    """Keys of cluster.yaml that differ and take effect only when everything starts anew."""
    sections = [field.name for field in fields(Settings) if field.name not in _LIVE]
    return [
        key for section in sections for key in _differing(section, getattr(before, section), getattr(after, section))
    ]


def changed_models(
    before: Settings, after: Settings, weights_before: Mapping[str, Weights], weights_after: Mapping[str, Weights]
) -> frozenset[str]:
    """Models whose running engines cannot go on: other weights or other arguments."""
    known = {model.id: model for model in before.models}
    return frozenset(
        model.id
        for model in after.models
        if model.id in known
        and (_engine(known[model.id]) != _engine(model) or weights_before.get(model.id) != weights_after.get(model.id))
    )


def keep_estimates(demands: Sequence[Demand], before: Sequence[Demand], changed: Collection[str]) -> tuple[Demand, ...]:
    """Engines that go on keep the bytes they were planned with: a later measurement is no reason to restart them."""
    known = {demand.model: demand.estimate for demand in before if demand.model not in changed}
    return tuple(replace(demand, estimate=known.get(demand.model, demand.estimate)) for demand in demands)


def staying(plan: Plan, inventory: Inventory, changed: Collection[str]) -> tuple[Placement, ...]:
    """The placements of the plan in force that a new plan should keep where they are."""
    nodes = {node.name for node in inventory.nodes}
    return tuple(one for one in plan.placements if one.model not in changed and one.node in nodes)


def told_apart(plan: Plan, before: Plan, changed: Collection[str]) -> Plan:
    """The plan with new names for the replicas of changed models: an old and a new engine are two replicas."""
    first = {model: 1 + max(_ordinals(before, model), default=-1) for model in changed}
    return replace(plan, placements=tuple(_renamed(one, first.get(one.model, 0)) for one in plan.placements))


def rates_seen(loads_s: Iterable[float]) -> Rates:
    """The default rates, with the quickest start of this cluster as what any start takes besides its weights."""
    return replace(DEFAULT_RATES, start_s=max(DEFAULT_RATES.start_s, min(loads_s, default=0.0)))


def _engine(model: ModelSettings) -> tuple[object, ...]:
    return (
        model.source,
        model.dtype,
        model.max_model_len,
        model.max_num_seqs,
        model.kv_cache_bytes,
        model.tensor_parallel,
        model.tool_parser,
        model.reasoning_parser,
    )


def _differing(section: str, before: object, after: object) -> Iterator[str]:
    for key in fields(before):  # type: ignore[arg-type]  # every section is a dataclass
        if getattr(before, key.name) != getattr(after, key.name):
            yield f"{section}.{_KEYS.get(key.name, key.name)}"


_KEYS = {"num_replicas": "replicas"}
"""Where a setting's key in cluster.yaml differs from its name here."""


def _ordinals(plan: Plan, model: str) -> list[int]:
    return [int(one.replica.rpartition("#")[2]) for one in plan.placements if one.model == model]


def _renamed(placement: Placement, first: int) -> Placement:
    ordinal = int(placement.replica.rpartition("#")[2])
    return replace(placement, replica=f"{placement.model}#{first + ordinal}") if first else placement
