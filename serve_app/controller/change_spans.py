"""Spans of what the controller does: making a plan, and models that load, wake, sleep and are unloaded.

Only tells. How long each took is the span itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from placement.demand import Demand
from placement.inventory import Inventory
from placement.plan import Plan
from serve_app.controller.claims import Slot
from serve_app.controller.lifecycle import Rest, RestKind
from serve_app.controller.proposal import Proposal
from tracing import names
from tracing.setup import Exporting
from tracing.spans import fail, operation

NOT_DONE: Final = "not_done"
"""Type of the error of a change that was put back."""
_AWAY: Final = {RestKind.ASLEEP: names.SLEEP_MODEL_SPAN, RestKind.UNLOADED: names.UNLOAD_MODEL_SPAN}


class Trigger(StrEnum):
    """What asked for a model to come or go."""

    PERSON = "person"
    REQUEST = "request"
    """One for a model that sleeps."""
    ROOM = "room"
    """Another model, or a lease, needs its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """One model that comes or goes. `num_bytes` are those of its replicas, over all their devices."""

    span: str
    model: str
    trigger: Trigger
    num_bytes: int


def model_changes(
    proposal: Proposal, *, before: Mapping[str, Rest], held: Iterable[Slot], asked: str, trigger: Trigger
) -> tuple[ModelChange, ...]:
    """What carrying out `proposal`, made for the `asked` model, does to models: this one first, then those that go.

    `before` are the rests, and `held` the slots, of now.
    """
    come = () if asked in proposal.resting else (_comes(proposal, before.get(asked), asked, trigger),)
    slots = tuple(held)
    going = [model for model in proposal.resting if model not in before and _bytes_of(slots, model)]
    away = (
        ModelChange(
            span=_AWAY[proposal.resting[model].kind].format(model),
            model=model,
            trigger=trigger if model == asked else Trigger.ROOM,
            num_bytes=_bytes_of(slots, model),
        )
        for model in sorted(going, key=lambda model: (model != asked, model))
    )
    return (*come, *away)


def _comes(proposal: Proposal, rest: Rest | None, model: str, trigger: Trigger) -> ModelChange:
    slept = rest is not None and rest.kind is RestKind.ASLEEP
    span = names.WAKE_MODEL_SPAN if slept else names.LOAD_MODEL_SPAN
    return ModelChange(
        span=span.format(model), model=model, trigger=trigger, num_bytes=_bytes_of(proposal.slots, model)
    )


def _bytes_of(slots: Sequence[Slot], model: str) -> int:
    return sum(slot.share_bytes * len(slot.seats) for slot in slots if slot.model == model)


@contextmanager
def change_spans(
    changes: Sequence[ModelChange], *, exporting: Exporting | None = None
) -> Iterator[Callable[[bool], None]]:
    """One span for each change, those that make room within the one they make room for. Tell it whether it was done.

    `exporting` None: the process's own.
    """
    with ExitStack() as stack:
        spans = [stack.enter_context(operation(one.span, _facts(one), exporting=exporting)) for one in changes]

        def ended(is_done: bool) -> None:
            for span in spans:
                span.set_attribute(names.OUTCOME, "done" if is_done else "put_back")
                if not is_done:
                    fail(span, NOT_DONE)

        yield ended


def _facts(change: ModelChange) -> dict[str, str | int]:
    return {
        names.MODEL: change.model,
        names.TRIGGER: change.trigger.value,
        names.NUM_BYTES: change.num_bytes,
    }


@contextmanager
def placement_span(
    *, exporting: Exporting | None = None
) -> Iterator[Callable[[Inventory, Sequence[Demand], Plan], None]]:
    """Around the making of a plan; tell it what was planned, and for what."""
    with operation(names.PLACEMENT_SPAN, exporting=exporting) as span:

        def planned(inventory: Inventory, demands: Sequence[Demand], plan: Plan) -> None:
            span.set_attribute(names.INVENTORY_VERSION, inventory.version)
            span.set_attribute(names.NUM_DEMANDS, len(demands))
            span.set_attribute(names.NUM_REFUSED, sum(one.num_replicas for one in plan.refusals))
            if plan.gap is not None:
                span.set_attribute(names.PLAN_GAP, plan.gap)

        yield planned
