"""Make a proposal: read the fleet, ask the solver, say who sleeps or gives way where that makes room, order the steps.

Changes nothing; what it decides by stands in `proposal`, `room`, `giving_way` and `placement`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from placement.demand import Demand
from placement.inventory import DeviceKind, Inventory
from placement.plan import Placement, Plan
from placement.steps import Steps, steps
from serve_app.config.settings import Settings
from serve_app.controller.bringup import Bringup
from serve_app.controller.bringup_state import Phase
from serve_app.controller.change_spans import placement_span
from serve_app.controller.claims import Weights
from serve_app.controller.conditions import Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.giving_way import Room, RunningJob, room_for
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle, Rest, RestKind, awake
from serve_app.controller.planning import StoredPlan, demands_for, find_weights, solved, without_ours
from serve_app.controller.proposal import (
    Proposal,
    changed_models,
    keep_estimates,
    rates_seen,
    restart_keys,
    staying,
    told_apart,
)
from serve_app.controller.slots import beside, slots_of
from serve_app.controller.store import Store
from serve_app.errors import HeadroomError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted beside the settings.

    `resting` are the models that shall not run, None leaves that as it is. `needed` are those for which idle models
    may be put to sleep, beside models that are new or other than before. `knows_weights`: the checkpoints of now are
    taken as they are, without reading them again. `jobs_stay`: no job gives way for it.
    """

    resting: Mapping[str, Rest] | None = None
    needed: frozenset[str] = frozenset()
    knows_weights: bool = False
    jobs_stay: bool = False


AS_IT_IS = Wish()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What the solver is asked. `running` are the placements to keep where they are, `inventory_without` some jobs."""

    inventory_without: Callable[[frozenset[str]], Inventory]
    demands: tuple[Demand, ...]
    running: tuple[Placement, ...]
    headroom: float

    def plan_without(self, models: frozenset[str], jobs: frozenset[str]) -> Plan:
        wanted = [demand for demand in self.demands if demand.model not in models]
        running = [one for one in self.running if one.model not in models]
        return solved(self.inventory_without(jobs), wanted, headroom=self.headroom, running=running)


class Proposer:
    """`conditions` says what is known of the devices now, `jobs` which jobs run."""

    def __init__(
        self,
        *,
        bringup: Bringup,
        ledger: Ledger,
        fleet: FleetLink,
        store: Store,
        lifecycle: Lifecycle,
        conditions: Callable[[], Conditions],
        jobs: Callable[[], Sequence[RunningJob]],
    ) -> None:
        self._bringup = bringup
        self._ledger = ledger
        self._fleet = fleet
        self._store = store
        self._lifecycle = lifecycle
        self._conditions = conditions
        self._jobs = jobs

    async def propose(self, settings: Settings, wish: Wish) -> Proposal:
        """What applying these settings would do. Raises: HeadroomError when it cannot be done."""
        with placement_span() as planned:
            proposal = await self._propose(settings, wish)
            planned(proposal.inventory, proposal.demands, proposal.plan)
        return proposal

    async def _propose(self, settings: Settings, wish: Wish) -> Proposal:
        stored = self._in_force(settings)
        weights = await self._weights(settings, wish)
        changed = changed_models(self._bringup.settings, settings, self._bringup.state.weights, weights)
        question = await self._question(settings, stored, weights, changed, wish)
        resting = self._resting(settings, wish)
        asked = _without(question, frozenset(resting))
        needed = wish.needed | {model.id for model in settings.models if model not in self._bringup.settings.models}
        room = await self._room(asked, settings, wish, resting, needed)
        resting |= {model: self._makes_room(model, needed) for model in sorted(room.asleep)}
        asked, jobs = _without(asked, room.asleep), frozenset(room.giving_way)
        plan = await asyncio.to_thread(asked.plan_without, frozenset(), jobs)
        plan, inventory = told_apart(plan, stored.plan, changed), asked.inventory_without(jobs)
        new = slots_of(plan, inventory, settings.models, weights)
        return Proposal(
            settings=settings,
            weights=weights,
            inventory=inventory,
            demands=asked.demands,
            plan=plan,
            steps=await self._steps(stored, plan, inventory, asked.demands),
            slots=beside(new, tuple(self._ledger.slots.values()), mark=str(inventory.version)),
            resting=resting,
            giving_way=_reasons(room.giving_way, _priorities(asked)),
        )

    async def _room(
        self,
        asked: _Question,
        settings: Settings,
        wish: Wish,
        resting: Mapping[str, Rest],
        needed: Collection[str],
    ) -> Room:
        running = {placement.model for placement in asked.running}
        return await asyncio.to_thread(
            room_for,
            asked.plan_without,
            needed=needed,
            idle=[model for model in self._may_sleep(settings, resting) if model in running],
            priorities=_priorities(asked),
            jobs=() if wish.jobs_stay else self._jobs(),
            min_hold_s=settings.training.min_hold_s,
        )

    def _in_force(self, settings: Settings) -> StoredPlan:
        stored = self._bringup.state.stored
        if stored is None or self._bringup.state.phase is not Phase.SERVING:
            raise HeadroomError("The cluster is not up yet.", advice="Apply again when `headroom status` shows models.")
        keys = restart_keys(self._bringup.settings, settings)
        if keys:
            raise HeadroomError(
                f"{', '.join(f'`{key}`' for key in keys)} cannot change while the cluster runs.",
                advice="Leave it as it was, or run `headroom down` and `headroom up`.",
            )
        return stored

    async def _weights(self, settings: Settings, wish: Wish) -> Mapping[str, Weights]:
        if wish.knows_weights:
            return self._bringup.state.weights
        weights, problems = await find_weights(settings.models, settings.storage, self._store)
        _raise_all(problems)
        return weights

    async def _question(
        self,
        settings: Settings,
        stored: StoredPlan,
        weights: Mapping[str, Weights],
        changed: frozenset[str],
        wish: Wish,
    ) -> _Question:
        inventory = await self._inventory(settings)
        kind = inventory.devices[0].kind
        demands, problems = await asyncio.to_thread(self._demands, settings, weights, kind)
        if not wish.knows_weights:
            _raise_all(problems)
        running = staying(stored.plan, inventory, changed)
        headroom, conditions = settings.fleet.headroom, self._conditions()

        def inventory_without(jobs: frozenset[str]) -> Inventory:
            return conditions.without_guests(jobs).dress(inventory, running, headroom=headroom)

        return _Question(
            inventory_without=inventory_without,
            demands=keep_estimates(demands, stored.demands, changed),
            running=running,
            headroom=headroom,
        )

    def _demands(
        self, settings: Settings, weights: Mapping[str, Weights], kind: DeviceKind
    ) -> tuple[tuple[Demand, ...], dict[str, HeadroomError]]:
        return demands_for(settings, weights, kind=kind, store=self._store)

    async def _inventory(self, settings: Settings) -> Inventory:
        version = self._store.next_plan_version()
        inventory = await self._fleet.inventory(choice=settings.fleet.devices, version=version)
        return without_ours(inventory, await self._fleet.read(inventory, self._ledger))

    async def _steps(self, stored: StoredPlan, plan: Plan, inventory: Inventory, demands: tuple[Demand, ...]) -> Steps:
        before = {demand.model: demand for demand in (*demands, *stored.demands)}
        loads_s = [tenure.report.load_s for tenure in self._ledger.tenures.values() if tenure.report]
        return await asyncio.to_thread(
            steps,
            stored.plan,
            plan,
            inventory,
            demands,
            demands_before=tuple(before.values()),
            rates=rates_seen(loads_s),
        )

    def _resting(self, settings: Settings, wish: Wish) -> dict[str, Rest]:
        """Models of these settings that rest; one that left the file is forgotten."""
        resting = self._lifecycle.resting if wish.resting is None else wish.resting
        return {model.id: resting[model.id] for model in settings.models if model.id in resting}

    def _may_sleep(self, settings: Settings, resting: Mapping[str, Rest]) -> Sequence[str]:
        models = awake(settings.models, resting)
        limit_s = settings.fleet.idle_after_s
        return [one.id for one in self._lifecycle.may_sleep(models, now_s=time.monotonic(), idle_after_s=limit_s)]

    def _makes_room(self, model: str, needed: Collection[str]) -> Rest:
        minutes = self._lifecycle.idle_s(model, now_s=time.monotonic()) / 60
        whom = " and ".join(f"'{one}'" for one in sorted(needed))
        return Rest(kind=RestKind.ASLEEP, reason=f"idle for {minutes:.0f} min, made room for {whom}")


def _without(question: _Question, gone: frozenset[str]) -> _Question:
    return _Question(
        inventory_without=question.inventory_without,
        demands=tuple(demand for demand in question.demands if demand.model not in gone),
        running=tuple(one for one in question.running if one.model not in gone),
        headroom=question.headroom,
    )


def _priorities(question: _Question) -> dict[str, int]:
    return {demand.model: demand.priority for demand in question.demands}


def _reasons(giving_way: Mapping[str, str], priorities: Mapping[str, int]) -> dict[str, str]:
    return {
        job: f"Made way for model '{model}' of priority {priorities[model]}, which finds no room otherwise."
        for job, model in giving_way.items()
    }


def _raise_all(problems: dict[str, HeadroomError]) -> None:
    if problems:
        raise HeadroomError(" ".join(f"'{model}': {error}" for model, error in problems.items()))
