"""Proposals in one line each: `proposal(slot("mini#0"), base=RestKind.ASLEEP)`."""

from __future__ import annotations

from placement.policy import Policy
from placement.solver import solve
from placement.steps import steps
from serve_app.controller.claims import Slot
from serve_app.controller.lifecycle import Rest, RestKind
from serve_app.controller.proposal import Proposal
from serve_app.gateway.standalone import standalone_settings
from tests.placement.builders import demand, fleet

SETTINGS = standalone_settings(["mini", "base", "large"])
FLEET = fleet("head: 1x24GiB", version=7)
DEMANDS = (demand("mini", gib=4), demand("base", gib=60, replicas=2))
PLAN = solve(FLEET, DEMANDS, Policy())
"""`mini` is placed; both replicas of `base` are refused."""


def rests(**kinds: RestKind) -> dict[str, Rest]:
    return {model: Rest(kind=kind, reason="test") for model, kind in kinds.items()}


def proposal(*slots: Slot, **resting: RestKind) -> Proposal:
    """After it these slots run and these models rest; its plan is `PLAN`."""
    return Proposal(
        settings=SETTINGS,
        weights={},
        inventory=FLEET,
        demands=DEMANDS,
        plan=PLAN,
        steps=steps(None, PLAN, FLEET, DEMANDS),
        slots=slots,
        resting=rests(**resting),
    )
