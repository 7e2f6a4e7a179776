"""Load, unload, sleep, wake, pin and unpin one model while the others serve on (rows A7 and B11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from placement.errors import PlacementError
from serve_app.api.wire import ModelAction, ModelAnswer, ModelOutcome
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.change_spans import ModelChange, Trigger, change_spans, model_changes
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle, Rest, RestKind
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import Wish
from serve_app.controller.store import Store
from serve_app.controller.turns import Spawn
from serve_app.errors import ApplyBusy, HeadroomError
from tracing.setup import Exporting

_BY_HAND = {
    RestKind.ASLEEP: Rest(kind=RestKind.ASLEEP, reason="put to sleep by hand"),
    RestKind.UNLOADED: Rest(kind=RestKind.UNLOADED, reason="unloaded by hand; `headroom models load` brings it back"),
}
_FOR_ROOM = "idle, made room for a lease of higher priority"


class ModelActions:
    """`publish` shows gateways who rests; `spawn` carries out what has been accepted.

    `exporting` None: the process's own.
    """

    def __init__(
        self,
        *,
        applier: Applier,
        bringup: Bringup,
        ledger: Ledger,
        lifecycle: Lifecycle,
        store: Store,
        publish: Callable[[], None],
        spawn: Spawn,
        exporting: Exporting | None = None,
    ) -> None:
        self._applier = applier
        self._bringup = bringup
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._store = store
        self._publish = publish
        self._spawn = spawn
        self._exporting = exporting

    async def act(self, action: ModelAction, model: str, *, trigger: Trigger = Trigger.PERSON) -> ModelAnswer:
        """`trigger` is told with what is carried out; a wake is always a request's, which asks by no other action."""
        known = [one.id for one in self._bringup.settings.models]
        if model not in known:
            return _said(ModelOutcome.UNKNOWN, f"Unknown model '{model[:128]}'. Valid values: {', '.join(known)}.")
        match action:
            case ModelAction.PIN | ModelAction.UNPIN:
                return self._pin(model, pinned=action is ModelAction.PIN)
            case ModelAction.LOAD | ModelAction.WAKE:
                return await self._back(model, action, Trigger.REQUEST if action is ModelAction.WAKE else trigger)
            case ModelAction.SLEEP:
                return await self._away(model, RestKind.ASLEEP, trigger)
            case ModelAction.UNLOAD:
                self._store.words.forget(model)  # a person's way out when the machine, not the weights, says otherwise
                return await self._away(model, RestKind.UNLOADED, trigger)
            case _:
                assert_never(action)

    def _pin(self, model: str, *, pinned: bool) -> ModelAnswer:
        self._lifecycle.pin(model, pinned=pinned)
        self._store.save_lifecycle(self._lifecycle.state)
        return _said(ModelOutcome.DONE, f"'{model}' is {'' if pinned else 'no longer '}pinned.")

    async def _back(self, model: str, action: ModelAction, trigger: Trigger) -> ModelAnswer:
        rest = self._lifecycle.resting.get(model)
        if self._has_place(model):
            return _said(ModelOutcome.DONE, f"'{model}' is loaded already, or loading.")
        if action is ModelAction.WAKE and rest is not None and rest.kind is RestKind.UNLOADED:
            return _said(ModelOutcome.REFUSED, f"'{model}' was {rest.reason}.")
        if model not in self._bringup.state.weights:
            return _said(ModelOutcome.REFUSED, self._bringup.state.problems.get(model, f"'{model}' has no weights."))
        resting = {name: one for name, one in self._lifecycle.resting.items() if name != model}
        wish = Wish(resting=resting, needed=frozenset({model}), knows_weights=True)
        proposal = await self._proposal(wish)
        if isinstance(proposal, ModelAnswer):
            return proposal
        refusal = next((one for one in proposal.plan.refusals if one.model == model), None)
        if refusal is not None:
            return _said(ModelOutcome.REFUSED, refusal.message)
        slept = sorted(set(proposal.resting) - set(resting))
        for_room = f" {', '.join(slept)} goes to sleep for it." if slept else ""
        if proposal.giving_way:
            for_room += f" {', '.join(sorted(proposal.giving_way))} goes back to the queue."
        return self._accepted(proposal, f"'{model}' loads.{for_room}", model=model, trigger=trigger)

    async def _away(self, model: str, kind: RestKind, trigger: Trigger) -> ModelAnswer:
        told = _BY_HAND[kind] if trigger is Trigger.PERSON else Rest(kind=kind, reason=_FOR_ROOM)
        resting: Mapping[str, Rest] = {**self._lifecycle.resting, model: told}
        rest = self._lifecycle.resting.get(model)
        if rest is not None and rest.kind is kind:
            return _said(ModelOutcome.DONE, f"'{model}' is {kind.value} already.")
        if not self._has_place(model):
            if self._applier.occupied:
                return _said(ModelOutcome.BUSY, "Another change is under way. Try again when it is done.")
            self._lifecycle.rest(resting)
            self._store.save_lifecycle(self._lifecycle.state)
            self._publish()
            return _said(ModelOutcome.DONE, f"'{model}' is {kind.value}.")
        proposal = await self._proposal(Wish(resting=resting, knows_weights=True, jobs_stay=True))
        if isinstance(proposal, ModelAnswer):
            return proposal
        return self._accepted(proposal, f"'{model}' answers what it has, and ends.", model=model, trigger=trigger)

    async def _proposal(self, wish: Wish) -> Proposal | ModelAnswer:
        try:
            return await self._applier.propose(self._bringup.settings, wish)
        except ApplyBusy as error:
            return _said(ModelOutcome.BUSY, str(error))
        except (HeadroomError, PlacementError) as error:
            return _said(ModelOutcome.REFUSED, str(error))

    def _accepted(self, proposal: Proposal, message: str, *, model: str, trigger: Trigger) -> ModelAnswer:
        changes = model_changes(
            proposal,
            before=self._lifecycle.resting,
            held=self._ledger.slots.values(),
            asked=model,
            trigger=trigger,
        )
        self._applier.begin(proposal)
        self._spawn(self._carry_out(proposal, changes))
        return _said(ModelOutcome.ACCEPTED, message)

    async def _carry_out(self, proposal: Proposal, changes: Sequence[ModelChange]) -> None:
        with change_spans(changes, exporting=self._exporting) as ended:
            ended(await self._applier.carry_out(proposal))

    def _has_place(self, model: str) -> bool:
        """Planned, running or on its way; one that is being retired has none any more."""
        resting = model in self._lifecycle.resting
        return not resting and any(slot.model == model for slot in self._ledger.slots.values())


def _said(outcome: ModelOutcome, message: str) -> ModelAnswer:
    return ModelAnswer(outcome=outcome, message=message)
