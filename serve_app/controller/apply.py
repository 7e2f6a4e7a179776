"""Apply: from the plan in force to another one while everything serves on; back to where it was when a start fails.

Acts step by step and looks after each one. What is decided stands in `proposal` and in `placement.steps`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from placement.inventory import DeviceHealth
from placement.moves import Action, ActionKind
from serve_app.config.settings import Settings
from serve_app.controller.bringup import Bringup, plan_key
from serve_app.controller.claims import Slot, SlotState, Weights
from serve_app.controller.deploy import deploy_engines, wait_until_noticed
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle, Rest
from serve_app.controller.planning import StoredPlan
from serve_app.controller.preemption_desk import PreemptionDesk
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import AS_IT_IS, Proposer, Wish
from serve_app.controller.retirement import Retirement
from serve_app.controller.slots import deployments_of, slots_of
from serve_app.controller.store import Store
from serve_app.errors import ApplyBusy, EngineStartFailed, HeadroomError
from serve_app.logs import logger

_START_LIMIT_S = 600.0
_LOOK_S = 0.2


class ApplyStatus(StrEnum):
    NONE = "none"
    """Nothing has been applied since the controller started."""
    APPLYING = "applying"
    DONE = "done"
    FAILED = "failed"
    """A start failed; what ran before serves again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`done` of `num_batches` batches are through; `doing` says what is under way."""

    status: ApplyStatus = ApplyStatus.NONE
    done: int = 0
    num_batches: int = 0
    doing: str = ""
    message: str = ""


class Applier:
    """`publish` shows gateways what may be asked for and who serves."""

    def __init__(
        self,
        *,
        proposer: Proposer,
        bringup: Bringup,
        ledger: Ledger,
        fleet: FleetLink,
        store: Store,
        lifecycle: Lifecycle,
        retirement: Retirement,
        preemption: PreemptionDesk,
        publish: Callable[[], None],
    ) -> None:
        self._proposer = proposer
        self._bringup = bringup
        self._ledger = ledger
        self._fleet = fleet
        self._store = store
        self._lifecycle = lifecycle
        self._retired = retirement.retired
        self._preemption = preemption
        self._publish = publish
        self._planning = False
        self._asked: dict[str, int] = {}
        """Replicas that Serve was last asked for, by deployment."""
        self.progress = Progress()

    @property
    def busy(self) -> bool:
        return self.progress.status is ApplyStatus.APPLYING

    @property
    def occupied(self) -> bool:
        """A change is planned or carried out."""
        return self.busy or self._planning

    async def propose(self, settings: Settings, wish: Wish = AS_IT_IS) -> Proposal:
        """What applying these settings would do; until the caller has it, nobody else is answered.

        Raises: HeadroomError when it cannot be done, ApplyBusy while another is planned or carried out.
        """
        if self.busy or self._planning:
            raise ApplyBusy("Another change is under way.", advice="Try again when it is done.")
        self._planning = True
        try:
            return await self._proposer.propose(settings, wish)
        finally:
            self._planning = False

    def begin(self, proposal: Proposal) -> None:
        """From now on this applier is busy with the proposal; `carry_out` is to follow."""
        self.progress = Progress(status=ApplyStatus.APPLYING, num_batches=len(proposal.steps.batches))

    async def carry_out(self, proposal: Proposal) -> bool:
        """Do it, batch by batch; False when a start failed and everything was put back."""
        try:
            return await self._carry_out(proposal)
        finally:
            self._ended()

    def _ended(self) -> None:
        """A fault that nobody foresaw is told as such, instead of seeming busy for ever."""
        if self.busy:
            message = self.progress.message or "An unforeseen fault broke it off; the controller's log names it."
            self.progress = replace(self.progress, status=ApplyStatus.FAILED, doing="", message=message)

    async def _carry_out(self, proposal: Proposal) -> bool:
        bringup, stored = self._bringup, self._bringup.state.stored
        assert stored is not None, "a proposal is made from a plan in force"
        settings, weights, resting = bringup.settings, bringup.state.weights, self._lifecycle.resting
        batches = proposal.steps.batches
        now = tuple(self._ledger.slots.values())
        self._asked = {one.name: one.num_replicas for one in deployments_of(now)}
        target = _stored(proposal, retiring=tuple(slot for slot in now if slot not in proposal.slots))
        self._preemption.tell(proposal.giving_way)
        self._rest(proposal.resting)
        self._bringup.save(target)
        self._turn_to(target, proposal.settings, proposal.weights)
        try:
            await self._jobs_left(proposal.giving_way)
            await self._fleet.prepare(proposal.inventory)
            self._give_up_lost(proposal)
            for number, batch in enumerate(batches):
                doing = "; ".join(f"{action.kind.value} {action.replica}" for action in batch)
                self.progress = replace(self.progress, done=number, doing=doing)
                await self._batch(batch, proposal)
            await self._settle()
        except Exception as error:  # noqa: BLE001 - whatever it was, plan and ledger must be one again
            reason = str(error) if isinstance(error, HeadroomError) else repr(error)
            _log.error("apply failed, going back", reason=reason)
            self.progress = replace(self.progress, doing="going back", message=reason)
            self._rest(resting)
            await self._go_back(stored, settings, weights, now)
            self.progress = replace(self.progress, status=ApplyStatus.FAILED, doing="")
            return False
        self._bringup.save(_stored(proposal))
        self.progress = replace(self.progress, status=ApplyStatus.DONE, done=len(batches), doing="")
        return True

    async def _jobs_left(self, names: Collection[str]) -> None:
        """The plan that has their room is in force already, so nobody else takes it meanwhile."""
        if names:
            self.progress = replace(self.progress, doing=f"waiting for {', '.join(sorted(names))} to leave")
            await self._preemption.left(names)

    # -- one batch -----------------------------------------------------------------------------------

    async def _batch(self, batch: Sequence[Action], proposal: Proposal) -> None:
        starts = [self._slot(action, proposal) for action in batch if action.kind is ActionKind.START]
        stops = [held for action in batch if action.kind is ActionKind.STOP and (held := self._held(action))]
        await self._start(starts)
        await self._retired(stops)
        await self._ready(starts)

    async def _start(self, slots: Sequence[Slot]) -> None:
        """More replicas where there are too few. Fewer only in the end: a waiting one may take the next slot."""
        self._ledger.add(slots)
        if not slots:
            return
        needed = deployments_of(self._ledger.slots.values())
        wanted = [replace(one, num_replicas=max(one.num_replicas, self._asked.get(one.name, 0))) for one in needed]
        self._asked |= {one.name: one.num_replicas for one in wanted}
        await asyncio.to_thread(deploy_engines, wanted, self._fleet.selector, self._store, delete=False)

    async def _ready(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self._bringup.state.problems.pop(slot.model, None)
        until_s = time.monotonic() + _START_LIMIT_S
        waiting = list(slots)
        while waiting:
            waiting = [slot for slot in waiting if not self._is_ready(slot)]
            failed = next((slot for slot in waiting if slot.model in self._bringup.state.problems), None)
            if failed is not None:
                raise EngineStartFailed(f"{failed.replica} did not start: {self._bringup.state.problems[failed.model]}")
            if waiting and time.monotonic() > until_s:
                raise EngineStartFailed(f"{waiting[0].replica} was not ready within {_START_LIMIT_S:.0f} s.")
            await asyncio.sleep(_LOOK_S)

    async def _settle(self) -> None:
        """As many replicas as slots, and no application without one."""
        exact = deployments_of(self._ledger.slots.values())
        await asyncio.to_thread(wait_until_noticed, exact)
        await asyncio.to_thread(deploy_engines, exact, self._fleet.selector, self._store)

    async def _go_back(
        self, stored: StoredPlan, settings: Settings, weights: Mapping[str, Weights], slots: Sequence[Slot]
    ) -> None:
        """The engines of before, those that were stopped started anew; what came since is ended first."""
        self._bringup.forget_newer(stored)
        self._turn_to(stored, settings, weights)
        try:
            await self._retired(slot for slot in tuple(self._ledger.slots.values()) if slot not in slots)
        except HeadroomError as error:
            _log.error("an engine that came does not end yet", reason=str(error))
        live = await self._fleet.node_names()
        await self._started([slot for slot in slots if slot.name not in self._ledger.slots and slot.node in live])

    async def mended(self, live: Collection[str]) -> bool:
        """Start what the plan in force has and the ledger has not, as when a change broke off; False: nothing."""
        stored = self._bringup.state.stored
        missing = [slot for slot in stored.slots if slot.name not in self._ledger.slots] if stored else []
        missing = [slot for slot in missing if slot.node in live]
        if not missing or self.busy or self._planning:
            return False
        _log.warning("started again: planned, and not there", slots=[slot.name for slot in missing])
        self.progress = Progress(status=ApplyStatus.APPLYING, num_batches=1, doing="starting what is missing")
        try:
            await self._started(missing)
        finally:
            self.progress = replace(self.progress, status=ApplyStatus.DONE, done=1, doing="")
        return True

    async def _started(self, missing: Sequence[Slot]) -> None:
        await self._start(missing)
        try:
            await self._ready(missing)
        except HeadroomError as error:
            _log.error("an engine of before did not come back yet", reason=str(error))
        await self._settle()

    # -- parts ---------------------------------------------------------------------------------------

    def _rest(self, resting: Mapping[str, Rest]) -> None:
        self._lifecycle.rest(resting)
        self._store.save_lifecycle(self._lifecycle.state)

    def _turn_to(self, stored: StoredPlan, settings: Settings, weights: Mapping[str, Weights]) -> None:
        self._bringup.settings = settings
        self._bringup.state.weights = dict(weights)
        problems = self._bringup.state.problems
        self._bringup.state.problems = {model: why for model, why in problems.items() if model not in weights}
        self._bringup.take_over(stored)
        self._publish()

    def _slot(self, action: Action, proposal: Proposal) -> Slot:
        """The planned slot of a start; of a temporary place, one made for it."""
        wanted = next(slot for slot in proposal.slots if slot.replica == action.replica)
        if not action.temporary:
            return wanted
        placement = next(one for one in proposal.plan.placements if one.replica == action.replica)
        moved = replace(placement, node=action.node, devices=action.devices)
        plan = replace(proposal.plan, placements=(moved,))
        (slot,) = slots_of(plan, proposal.inventory, proposal.settings.models, proposal.weights)
        return replace(slot, name=f"{slot.replica}.{proposal.inventory.version}-meanwhile")

    def _held(self, action: Action) -> Slot | None:
        """None: it is gone already."""
        held = (
            slot
            for slot in self._ledger.slots.values()
            if slot.replica == action.replica and {seat.device for seat in slot.seats} == set(action.devices)
        )
        return next(held, None)

    def _is_ready(self, slot: Slot) -> bool:
        tenure = self._ledger.tenures.get(slot.name)
        return tenure is not None and tenure.state is SlotState.READY

    def _give_up_lost(self, proposal: Proposal) -> None:
        """Nothing can be drained on a node that is gone, and nobody waits for what was on a device that is."""
        nodes = {node.name for node in proposal.inventory.nodes}
        lost = {device.id for device in proposal.inventory.devices if device.health is DeviceHealth.LOST}
        for slot in tuple(self._ledger.slots.values()):
            if slot.node not in nodes:
                self._ledger.abandon(slot.name)
                self._store.drop_tenure(slot.name)
            elif slot not in proposal.slots and lost & {seat.device for seat in slot.seats}:
                self._ledger.retire(slot.name)


def _stored(proposal: Proposal, *, retiring: tuple[Slot, ...] = ()) -> StoredPlan:
    return StoredPlan(
        key=plan_key(proposal.settings, proposal.weights),
        inventory=proposal.inventory,
        demands=proposal.demands,
        plan=proposal.plan,
        slots=proposal.slots,
        retiring=retiring,
    )


_log = logger("headroom.controller")
