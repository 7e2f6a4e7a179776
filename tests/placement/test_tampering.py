"""Whatever field of a sound plan is changed, the verifier finds it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from placement.check import ViolationKind, verify
from placement.codec import from_json_value, to_json_value
from placement.demand import Demand
from placement.errors import DecodeError
from placement.plan import Cause, GoalReached, Plan, RefusalKind, Strategy
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import demand, fleet, with_device, with_node

Path = tuple[str | int, ...]

FLEET = with_device(with_node(fleet("a: 2x24GiB", "b: 1x24GiB"), "b", num_cpus=4), "b/gpu-0", product="NVIDIA H100")
DEMANDS: tuple[Demand, ...] = (
    demand("wide", gib=18, kv_gib=3, loading_gib=1, priority=3, tensor_parallel=2, offload_gib=5),
    demand("typed", gib=9, priority=2, types=("H100",), cpu_millis=3000, host_gib=2, requests_per_s=4, replicas=2),
    demand("small", gib=4, priority=2),
    demand("huge", gib=50, priority=0),
)
SOUND = solve(FLEET, DEMANDS, Policy())
WHOLE: Any = to_json_value(SOUND)

ONLY_WORDS = {"reason", "solver"}
"""Text for people that follows from nothing else in the plan; it can only be held to be there."""
MEMBERS: dict[str, list[str]] = {
    "strategy": [member.value for member in Strategy],
    "kind": [member.value for member in RefusalKind],
    "causes": [member.value for member in Cause],
}


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every plain value in the plan, and every list as a whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, dict):
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


def others(path: Path, value: Any) -> list[Any]:
    """Values a tamperer might write instead."""
    field = next(key for key in reversed(path) if isinstance(key, str))
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value - 1]
        case str() if field in MEMBERS:
            return [member for member in MEMBERS[field] if member != value]
        case str():
            return [""] if field in ONLY_WORDS else ["", "tampered"]
        case list() if field == "goals":  # a solver may state fewer
            return [[*value, *value[:1]]]
        case list():
            return [value[:-1], [*value, *value[:1]]] if value else []
        case _:
            return [1]


CHANGES = [(path, other) for path, value in leaves(WHOLE) for other in others(path, value)]


def changed(path: Path, to: Any) -> Plan | None:
    """The plan with one value changed; None if it is no plan any more."""
    whole = deepcopy(WHOLE)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    try:
        return from_json_value(Plan, whole)
    except DecodeError:
        return None


class TestEveryField:
    def test_the_plan_is_sound_and_has_a_bit_of_everything(self) -> None:
        assert verify(SOUND, FLEET, DEMANDS, Policy()) == ()
        assert {refusal.model for refusal in SOUND.refusals} == {"typed", "huge"}
        assert any(placement.offload_bytes for placement in SOUND.placements)
        assert SOUND.gap == 0.0

    @pytest.mark.parametrize("field", sorted({str(next(k for k in path if isinstance(k, str))) for path, _ in CHANGES}))
    def test_any_other_value_is_found(self, field: str) -> None:
        mine = [(path, to) for path, to in CHANGES if path[0] == field]
        plans = {(path, str(to)): changed(path, to) for path, to in mine}
        unseen = [at for at, plan in plans.items() if plan is not None and not verify(plan, FLEET, DEMANDS, Policy())]
        assert mine
        assert unseen == []


class TestGoals:
    def test_a_value_beyond_its_bound_is_found(self) -> None:
        goals = tuple(replace(goal, bound=goal.value - 1) for goal in SOUND.goals[:1])
        tampered = replace(SOUND, goals=(*goals, *SOUND.goals[1:]), gap=1.0)
        assert self._kinds(tampered) == {ViolationKind.WRONG_GOALS}

    def test_a_count_that_nothing_bears_out_is_found_though_value_and_bound_agree(self) -> None:
        goals = tuple(
            replace(goal, value=goal.value + 1, bound=goal.bound + 1) if goal.name == "devices in use" else goal
            for goal in SOUND.goals
        )
        assert self._kinds(replace(SOUND, goals=goals)) == {ViolationKind.WRONG_GOALS}

    def test_a_gap_of_its_own_is_found(self) -> None:
        assert self._kinds(replace(SOUND, gap=0.25)) == {ViolationKind.WRONG_GOALS}
        assert self._kinds(replace(SOUND, gap=None)) == {ViolationKind.WRONG_GOALS}

    def test_a_goal_nobody_has_is_found(self) -> None:
        goals = (*SOUND.goals, GoalReached(name="beauty", value=1, bound=1))
        assert self._kinds(replace(SOUND, goals=goals)) == {ViolationKind.WRONG_GOALS}

    def test_a_plan_without_goals_is_held_to_none(self) -> None:
        assert self._kinds(replace(SOUND, goals=(), gap=None)) == set()

    def _kinds(self, plan: Plan) -> set[ViolationKind]:
        return {violation.kind for violation in verify(plan, FLEET, DEMANDS, Policy())}
