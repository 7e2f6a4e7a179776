"""Another count of engines of one model, by plan and apply: what finds no room above the headroom is not begun."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Final

from placement.plan import Plan
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.lifecycle import Lifecycle, Rest, RestKind
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import Wish
from serve_app.controller.scaled_counts import Scaled, ScaledCounts, with_count
from serve_app.controller.turns import Spawn
from serve_app.errors import EngineStartFailed
from serve_app.scaling.rules import Kind, Target
from serve_app.scaling.service import Applied, Blocked

WAIT_S: Final = 20.0
"""For the engines to come up; after that the change is on its way. A gateway waits 30 s for an answer."""


class EngineScaler:
    """`spawn` carries out what has been accepted, also when nobody waits for it any more."""

    def __init__(
        self, *, applier: Applier, bringup: Bringup, lifecycle: Lifecycle, counts: ScaledCounts, spawn: Spawn
    ) -> None:
        self._applier = applier
        self._bringup = bringup
        self._lifecycle = lifecycle
        self._counts = counts
        self._spawn = spawn

    async def scale(self, model: str, count: int, *, by_hand: bool) -> Applied | Blocked:
        """0 puts the model to sleep, any other count wakes it.

        Raises: ApplyBusy while something else changes; HeadroomError or PlacementError when it cannot be planned, or
        when an engine did not start and what ran before serves again.
        """
        proposal = await self._proposal(model, count, by_hand=by_hand)
        obstacle = self._obstacle(proposal, model, count)
        if obstacle is not None:
            return Blocked(obstacle)
        self._applier.begin(proposal)
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._spawn(self._carry_out(proposal, model, count, by_hand=by_hand, ended=ended))
        await asyncio.wait((ended,), timeout=WAIT_S)
        if ended.done() and not ended.result():
            raise EngineStartFailed(f"{self._applier.progress.message} What ran before serves again.")
        return Applied()

    async def _proposal(self, model: str, count: int, *, by_hand: bool) -> Proposal:
        settings, resting = self._bringup.settings, dict(self._lifecycle.resting)
        was_resting = resting.pop(model, None) is not None
        if count == 0:
            reason = "put to sleep by hand" if by_hand else "scaled to 0"
            resting[model] = Rest(kind=RestKind.ASLEEP, reason=reason)
            return await self._applier.propose(settings, Wish(resting=resting, knows_weights=True, jobs_stay=True))
        models = tuple(with_count(one, count) if one.id == model else one for one in settings.models)
        needed = frozenset({model}) if was_resting else frozenset[str]()
        wish = Wish(resting=resting, needed=needed, knows_weights=True, jobs_stay=not by_hand)
        return await self._applier.propose(replace(settings, models=models), wish)

    def _obstacle(self, proposal: Proposal, model: str, count: int) -> str | None:
        """Why it must not be begun: there is no room for it, or only where another model runs."""
        stored = self._bringup.state.stored
        assert stored is not None, "a proposal is made from a plan in force"
        before, after = _replicas(stored.plan), _replicas(proposal.plan)
        if count <= before[model]:
            return None
        refusal = next((one for one in proposal.plan.refusals if one.model == model), None)
        if refusal is not None:
            return refusal.message
        losers = sorted(one for one in before if after[one] < before[one] and one not in proposal.resting)
        if losers:
            whom = " and ".join(f"'{one}'" for one in losers)
            return f"'{model}' has room for {count} above the headroom only where {whom} runs. Unload that first."
        return None

    async def _carry_out(
        self, proposal: Proposal, model: str, count: int, *, by_hand: bool, ended: asyncio.Future[bool]
    ) -> None:
        before, is_done = self._written(model, count, by_hand=by_hand), False
        try:
            is_done = await self._applier.carry_out(proposal)
        finally:
            if before is not None and not is_done:
                self._counts.restore(_target(model), before)
            ended.set_result(is_done)

    def _written(self, model: str, count: int, *, by_hand: bool) -> Scaled | None:
        """What was in force before. None for sleep, which is written with the rests: the count comes back with it."""
        if count == 0:
            return None
        configured = next(one.num_configured for one in self._bringup.settings.models if one.id == model)
        return self._counts.scaled(_target(model), count, configured=configured, by_hand=by_hand)


def _replicas(plan: Plan) -> Counter[str]:
    return Counter(one.model for one in plan.placements)


def _target(model: str) -> Target:
    return Target(kind=Kind.ENGINE, model=model)
