"""Who holds which planned slot: a pure state machine over the slots of the current plan.

Decides claims, the order of starts (one per device at a time) and what a death means. Knows no Ray, no
clock and no store; the controller acts on what it returns, after writing it down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from serve_app.controller.claims import ReadyReport, Slot, SlotState, Waiting, Weights
from serve_app.fleet.process_memory import ProcessKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """One replica's hold on one slot. `seen_s` is when it was last heard of, on the caller's monotonic clock.

    `heard`: it has been heard of since this controller started; what only the store knows may have died long ago.
    """

    slot: str
    replica: str
    epoch: int
    process: ProcessKey
    state: SlotState
    seen_s: float
    report: ReadyReport | None = None
    heard: bool = True

    @property
    def serves(self) -> bool:
        """It takes requests."""
        return self.state is SlotState.READY and self.heard

    @property
    def marker(self) -> str:
        """Mark carried by every process of this tenure."""
        return f"{self.slot}:{self.epoch}"


class Ledger:
    """The one owner of tenures. Every method returns what changed; None means nothing did."""

    def __init__(self, *, next_epoch: int) -> None:
        self._slots: dict[str, Slot] = {}
        self._tenures: dict[str, Tenure] = {}
        self._retiring: set[str] = set()
        self._next_epoch = next_epoch

    @property
    def slots(self) -> Mapping[str, Slot]:
        return self._slots

    @property
    def tenures(self) -> Mapping[str, Tenure]:
        return self._tenures

    def add(self, slots: Iterable[Slot]) -> None:
        """More places that replicas may claim. A slot never changes: one that is there already stays as it is."""
        for slot in slots:
            known = self._slots.setdefault(slot.name, slot)
            assert known == slot, f"slot {slot.name!r} is there already, and another"

    def reweigh(self, model: str, weights: Weights) -> tuple[Tenure, ...]:
        """The slots of this model are for other weights now, but not its candidates'. Returns who has others yet."""
        for slot in tuple(self._slots.values()):
            if slot.model == model and not slot.is_candidate:
                self._slots[slot.name] = replace(slot, weights=weights)
        return tuple(
            tenure
            for tenure in self._tenures.values()
            if self._slots[tenure.slot].model == model and tenure.report is not None and not self.is_true(tenure)
        )

    def reloaded(self, *, slot: str, epoch: int, version: str) -> Tenure | None:
        """A running engine has other weights now."""
        tenure = self._live(slot, epoch)
        if tenure is None or tenure.report is None:
            return None
        return self._set(replace(tenure, report=replace(tenure.report, weights_version=version)))

    def is_true(self, tenure: Tenure) -> bool:
        """Its engine has the weights that its slot is for."""
        report = tenure.report
        return report is None or report.weights_version in (None, self._slots[tenure.slot].weights.version)

    def answers(self, model: str) -> bool:
        """Whether a replica of the model takes requests with the weights that are meant."""
        tenures = self._tenures.values()
        return any(one.serves and self.is_true(one) and self._slots[one.slot].model == model for one in tenures)

    def retire(self, name: str) -> Tenure | None:
        """Nobody may claim the slot any more; whoever has it drains. None: nobody had it, and it is gone."""
        self._retiring.add(name)
        tenure = self._tenures.get(name)
        if tenure is None:
            self._forget(name)
            return None
        if tenure.state is SlotState.REAPING:
            return tenure
        return self._set(replace(tenure, state=SlotState.DRAINING))

    def abandon(self, name: str) -> None:
        """The slot's node is gone, and whatever was there with it."""
        self._tenures.pop(name, None)
        self._forget(name)

    def restore(self, tenures: Iterable[Tenure], *, now_s: float) -> None:
        """Take back what the store knew; each must be heard of again before its deadline, counted from now."""
        for tenure in tenures:
            if tenure.slot in self._slots:
                self._tenures[tenure.slot] = replace(tenure, seen_s=now_s, heard=False)
                self._next_epoch = max(self._next_epoch, tenure.epoch + 1)

    def claim(self, *, deployment: str, replica: str, process: ProcessKey, now_s: float) -> Tenure | Waiting:
        mine = [slot for slot in self._slots.values() if slot.deployment == deployment]
        for slot in mine:
            held = self._tenures.get(slot.name)
            if held is not None and held.replica == replica:
                return held
        free = [slot for slot in mine if slot.name not in self._tenures and slot.name not in self._retiring]
        if not free:
            return Waiting(_why_no_slot(deployment, mine, self._tenures))
        tenure = Tenure(
            slot=free[0].name,
            replica=replica,
            epoch=self._next_epoch,
            process=process,
            state=SlotState.CLAIMED,
            seen_s=now_s,
        )
        self._next_epoch += 1
        self._tenures[tenure.slot] = tenure
        return tenure

    def start(self, *, slot: str, epoch: int) -> Tenure | Waiting | None:
        """Let the tenure take device memory, unless another replica is starting on one of its devices."""
        tenure = self._live(slot, epoch)
        if tenure is None or tenure.state is SlotState.STARTING:
            return tenure
        if tenure.state is SlotState.DRAINING:
            return None
        devices = _devices(self._slots[slot])
        for other in self._tenures.values():
            if _hinders_a_start(other) and devices & _devices(self._slots[other.slot]):
                return Waiting(f"{other.slot!r} is {other.state.value} on {', '.join(sorted(devices))}")
        return self._set(replace(tenure, state=SlotState.STARTING))

    def ready(self, *, slot: str, epoch: int, report: ReadyReport) -> Tenure | None:
        tenure = self._live(slot, epoch)
        if tenure is None or tenure.state is SlotState.DRAINING:
            return None
        return self._set(replace(tenure, state=SlotState.READY, report=report))

    def seen(self, *, slot: str, epoch: int, now_s: float) -> Tenure | None:
        """The replica lives. None: it is fenced off, and must stop."""
        tenure = self._live(slot, epoch)
        return tenure and self._set(replace(tenure, seen_s=now_s, heard=True))

    def lost(self, *, slot: str, epoch: int) -> Tenure | None:
        """The replica is gone. Its slot stays taken until its bytes are back."""
        tenure = self._live(slot, epoch)
        return tenure and self._set(replace(tenure, state=SlotState.REAPING))

    def freed(self, *, slot: str, epoch: int) -> Tenure | None:
        tenure = self._tenures.get(slot)
        if tenure is None or tenure.epoch != epoch:
            return None
        del self._tenures[slot]
        if slot in self._retiring:
            self._forget(slot)
        return tenure

    def silent(self, *, now_s: float, limit_s: float, unheard_limit_s: float) -> tuple[Tenure, ...]:
        """Tenures not heard of for longer than `limit_s`, or never since they were restored for the other."""
        return tuple(
            t
            for t in self._tenures.values()
            if t.state is not SlotState.REAPING and now_s - t.seen_s > (limit_s if t.heard else unheard_limit_s)
        )

    def unheard(self) -> tuple[Tenure, ...]:
        return tuple(t for t in self._tenures.values() if t.state is not SlotState.REAPING and not t.heard)

    def _live(self, slot: str, epoch: int) -> Tenure | None:
        """The tenure of this very epoch, unless its replica is dead: from there is no way back."""
        tenure = self._tenures.get(slot)
        if tenure is None or tenure.epoch != epoch or tenure.state is SlotState.REAPING:
            return None
        return tenure

    def _forget(self, name: str) -> None:
        self._retiring.discard(name)
        self._slots.pop(name, None)

    def _set(self, tenure: Tenure) -> Tenure:
        self._tenures[tenure.slot] = tenure
        return tenure


def _hinders_a_start(other: Tenure) -> bool:
    """Its bytes may be more than at rest, or still there though it is dead."""
    never_ready = other.state is SlotState.DRAINING and other.report is None
    return other.state in (SlotState.STARTING, SlotState.REAPING) or never_ready


def _devices(slot: Slot) -> set[str]:
    return {seat.device for seat in slot.seats}


def _why_no_slot(deployment: str, slots: Sequence[Slot], tenures: Mapping[str, Tenure]) -> str:
    if not slots:
        return f"the plan has no slot for {deployment!r}"
    held = ", ".join(
        f"{slot.name} by {tenures[slot.name].replica} ({tenures[slot.name].state.value})" for slot in slots
    )
    return f"all {len(slots)} planned slots of {deployment!r} are held: {held}"
