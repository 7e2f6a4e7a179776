"""Rollouts as others ask for them: begin one, command it, roll back, go on after a restart. One at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from serve_app.engines.fingerprint import Fingerprint
from serve_app.errors import CheckpointRefused
from serve_app.logs import logger
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.record import Kind, Learned, Mode, Record, Stage, Weights
from serve_app.rollout.runner import Runner
from serve_app.rollout.stages import Asked, Command, Move, RolloutPolicy, begin, recover
from serve_app.rollout.world import World


class RefusalReason(StrEnum):
    BUSY = "busy"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_CHECKPOINT = "unknown_checkpoint"
    UNKNOWN_ROLLOUT = "unknown_rollout"
    CHECKPOINT_REFUSED = "checkpoint_refused"
    NOT_COMPARED = "not_compared"
    SERVES_ALREADY = "serves_already"
    IS_OVER = "is_over"
    NOT_POSSIBLE = "not_possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing was begun."""

    reason: RefusalReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What may be rolled out. `expected` and `score` are what comparison found, None where it has not looked yet."""

    weights: Weights
    expected: Fingerprint | None = None
    score: float | None = None
    config_hash: str | None = None
    git_commit: str | None = None
    made_by: str | None = None


class Catalog(Protocol):
    async def serving(self, model: str) -> Checkpoint | None:
        """What is committed; None for a model that nobody knows or that has no weights yet."""

    async def find(self, model: str, *, name: str | None, version: str | None) -> Checkpoint | None:
        """By the name `checkpoint-<step>` or the weights version; None: there is none. Raises: CheckpointRefused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`checkpoint` and `version` both None: the weights that serve, again. `observe_s` None: as configured."""

    model: str
    by: str
    checkpoint: str | None = None
    version: str | None = None
    mode: Mode = Mode.AUTO
    observe_s: float | None = None
    kind: Kind = Kind.FORWARD


class RolloutService:
    """Call `recover` once before anything else."""

    def __init__(
        self,
        *,
        ledger: RolloutLedger,
        world: World,
        catalog: Catalog,
        runner: Runner,
        policy: RolloutPolicy,
        trace: Callable[[Record], str | None] = lambda _: None,
    ) -> None:
        """`trace` begins the span of a rollout and gives its `traceparent`."""
        self._ledger = ledger
        self._world = world
        self._catalog = catalog
        self._runner = runner
        self._policy = policy
        self._trace = trace
        self._driving: asyncio.Task[None] | None = None

    async def recover(self) -> Record | None:
        """Goes on with what was under way; None where nothing was."""
        record = self._ledger.current()
        if record is not None:
            self._spawn(None)
        return record

    async def begin(self, ask: Ask) -> Record | Refused:
        serving = await self._catalog.serving(ask.model)
        if serving is None:
            return Refused(reason=RefusalReason.UNKNOWN_MODEL, message=f"No model '{ask.model[:128]}' serves.")
        try:
            found = await self._found(ask, serving)
        except CheckpointRefused as refused:
            return Refused(reason=RefusalReason.CHECKPOINT_REFUSED, message=str(refused))
        if isinstance(found, Refused):
            return found
        return await self._started(_record(ask, serving, found, self._policy, self._world.clock.unix_s()))

    def command(self, rollout_id: int, command: Command, *, by: str) -> Record | Refused:
        """The record as it is now; the command is carried out as soon as the stage allows it."""
        record = self._ledger.get(rollout_id)
        if record is None:
            return _no_such(rollout_id)
        if record.is_over:
            message = f"Rollout {rollout_id} is {record.stage.value}; there is nothing to {command.value}."
            return Refused(reason=RefusalReason.IS_OVER, message=message)
        if not self._runner.ask(Asked(command=command, by=by)):
            return Refused(reason=RefusalReason.BUSY, message="Too many commands wait. Try again in a moment.")
        return record

    async def roll_back(self, rollout_id: int, *, by: str, is_full: bool = False) -> Record | Refused:
        """One under way returns. After a finished one the weights before it come back, as a rollout of their own."""
        record = self._ledger.get(rollout_id)
        if record is None:
            return _no_such(rollout_id)
        if not record.is_over and not is_full:
            return self.command(rollout_id, Command.ROLLBACK, by=by)
        refused = await self._cannot_return(record, is_full=is_full)
        if refused is not None:
            return refused
        return await self._started(_way_back(record, by, self._world.clock.unix_s(), is_full=is_full))

    async def ended(self, rollout_id: int) -> Record | None:
        """Waits for the one under way, if it is this; the record then. None: there is no such rollout."""
        record = self._ledger.get(rollout_id)
        if record is not None and not record.is_over and self._driving is not None:
            await asyncio.shield(self._driving)
        return self._ledger.get(rollout_id)

    def get(self, rollout_id: int) -> Record | None:
        return self._ledger.get(rollout_id)

    def page(
        self, *, limit: int, before: int | None = None, model: str | None = None, status: Stage | None = None
    ) -> Sequence[Record]:
        """Newest first."""
        return self._ledger.page(limit=limit, before=before, model=model, status=status)

    def was_turned_away(self, model: str, version: str) -> bool:
        return self._ledger.was_turned_away(model, version)

    async def close(self) -> None:
        """The rollout under way stays as it is in the store, for `recover`."""
        if self._driving is not None:
            self._driving.cancel()
            await asyncio.wait({self._driving})

    async def _found(self, ask: Ask, serving: Checkpoint) -> Checkpoint | Refused:
        if ask.kind is Kind.RELOAD and ask.checkpoint is None and ask.version is None:
            return serving
        found = await self._catalog.find(ask.model, name=ask.checkpoint, version=ask.version)
        if found is None:
            message = f"'{ask.model}' has no checkpoint {ask.checkpoint or ask.version}."
            return Refused(reason=RefusalReason.UNKNOWN_CHECKPOINT, message=message)
        if ask.kind is Kind.FORWARD and found.weights.version == serving.weights.version:
            message = f"'{ask.model}' serves the weights {found.weights.version} already."
            return Refused(reason=RefusalReason.SERVES_ALREADY, message=message)
        if found.expected is None and found.weights.version != serving.weights.version:
            message = f"Nobody has compared {found.weights.version} yet, or knows what it should answer. Wait for that."
            return Refused(reason=RefusalReason.NOT_COMPARED, message=message)
        return found

    async def _cannot_return(self, record: Record, *, is_full: bool) -> Refused | None:
        why = ""
        serving = await self._catalog.serving(record.model)
        if record.stage is not Stage.FINISHED:
            why = f"it is {record.stage.value}"
        elif serving is None or serving.weights.version != record.new.version:
            why = "other weights serve since"
        elif is_full and record.learned.backup is None:
            why = "it has no backup"
        if not why:
            return None
        kind = "full rollback" if is_full else "rollback"
        message = f"No {kind} of rollout {record.id} is possible: {why}."
        return Refused(reason=RefusalReason.NOT_POSSIBLE, message=message)

    async def _started(self, record: Record) -> Record | Refused:
        """Written before it is begun; of two at once the store lets one in."""
        other = self._ledger.current()
        added = None if other else self._ledger.add(replace(record, traceparent=self._trace(record)))
        if added is None:
            which = f"Rollout {other.id} of '{other.model}' is {other.stage.value}" if other else "Another is under way"
            return Refused(reason=RefusalReason.BUSY, message=f"{which}; one is done at a time.")
        move = begin(added, unix_s=self._world.clock.unix_s())
        self._spawn(move)
        return move.record

    async def _recovered(self, record: Record) -> Move:
        committed = await self._world.publish.committed(record.model)
        return recover(record, committed=committed, unix_s=self._world.clock.unix_s())

    def _spawn(self, move: Move | None) -> None:
        self._driving = asyncio.create_task(self._drive(move))

    async def _drive(self, move: Move | None) -> None:
        """To its end, whatever happens: half of one would be gates that stay closed. None: from what is stored."""
        while True:
            try:
                if move is None:
                    record = self._ledger.current()
                    if record is None:
                        return
                    move = await self._recovered(record)
                await self._runner.drive(move)
            except Exception as error:  # noqa: BLE001  # a bug of ours; what the store says is still right
                log.error("rollout broke off; it goes on from the store", error=repr(error))
                move = None
                await self._world.clock.sleep(self._policy.most_again_s)
            else:
                return


def _record(ask: Ask, serving: Checkpoint, found: Checkpoint, policy: RolloutPolicy, unix_s: float) -> Record:
    return Record(
        id=0,
        model=ask.model,
        kind=ask.kind,
        mode=ask.mode,
        by=ask.by,
        old=serving.weights,
        new=found.weights,
        observe_s=policy.observe_s if ask.observe_s is None else ask.observe_s,
        asked_unix_s=unix_s,
        score=found.score,
        score_before=serving.score,
        expected=found.expected,
        config_hash=found.config_hash,
        git_commit=found.git_commit,
        made_by=found.made_by,
    )


def _way_back(record: Record, by: str, unix_s: float, *, is_full: bool) -> Record:
    """The old weights are known again by what they said before they were replaced; they were observed long ago."""
    return Record(
        id=0,
        model=record.model,
        kind=Kind.FULL if is_full else Kind.QUICK,
        mode=Mode.IN_PLACE,
        by=by,
        old=record.new,
        new=record.old,
        observe_s=0.0,
        asked_unix_s=unix_s,
        expected=record.learned.former,
        learned=Learned(backup=record.learned.backup if is_full else None),
        reason=f"Takes back rollout {record.id}.",
    )


def _no_such(rollout_id: int) -> Refused:
    message = f"There is no rollout {rollout_id} among the kept ones."
    return Refused(reason=RefusalReason.UNKNOWN_ROLLOUT, message=message)


log = logger(__name__)
