"""Joining free space: the plan with room for one more replica of a wanted size, or of the largest, and its moves.

Asks `solve` with the running placements and one more demand that stands for the room: least in priority, so that
nobody is refused or moved to host memory for it, but before what keeps replicas in place, so that they move for it,
and as few as can be. Afterwards the room is left empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from placement.assemble import assemble
from placement.changes import Rates
from placement.demand import Demand, Estimate, Part, PartName
from placement.feasible import budget_bytes, is_usable, need_of, sum_loads
from placement.goals import STAYING
from placement.inventory import Inventory
from placement.plan import Plan
from placement.policy import Policy
from placement.problem import Answer, pose
from placement.solver import solve
from placement.steps import DEFAULT_RATES, Steps, steps

ROOM = "headroom.room"
"""Model name of the demand that stands for the room; no model may have it."""
STEPS_OF_SEARCH = 256
"""The largest room is found to this fraction of the largest device, then counted to the byte in the plan found."""


class Outcome(StrEnum):
    GAINED = "gained"
    ENOUGH_ALREADY = "enough already"
    """The wanted room is there without a move."""
    NOTHING_TO_GAIN = "nothing to gain"
    """No plan was found with more room on one device that serves as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The largest peak of one more replica on one device; `device` None when no device takes any."""

    num_bytes: int
    device: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defragmentation:
    """`wanted_bytes` 0 means: as much as possible. `plan` and `steps` are those in force unless something is gained.

    `most` is the largest room any plan may have: that of the largest usable device with nothing on it.
    `is_fewest_moves`: proven that no plan with this room moves fewer replicas.
    """

    outcome: Outcome
    wanted_bytes: int
    before: Room
    after: Room
    most: Room
    plan: Plan
    steps: Steps
    is_fewest_moves: bool


def defragment(
    running: Plan,
    inventory: Inventory,
    demands: Sequence[Demand],
    policy: Policy,
    *,
    wanted_bytes: int = 0,
    rates: Rates = DEFAULT_RATES,
) -> Defragmentation:
    """From `running`, a plan for this inventory and these demands, to the one with the room wanted.

    Raises: InvalidProblem as `solve` and `steps` do.
    """
    search = _Search(running, inventory, demands, policy)
    before, most = room_of(running, inventory), _room_when_empty(inventory, policy)
    if wanted_bytes:
        enough = before.num_bytes >= wanted_bytes
        found = None if enough or most.num_bytes < wanted_bytes else search.plan_with(wanted_bytes)
    else:
        enough, found = False, search.plan_with_most(before.num_bytes, most.num_bytes)
    outcome = Outcome.ENOUGH_ALREADY if enough else Outcome.GAINED if found else Outcome.NOTHING_TO_GAIN
    plan = found or running
    return Defragmentation(
        outcome=outcome,
        wanted_bytes=wanted_bytes,
        before=before,
        after=room_of(plan, inventory),
        most=most,
        plan=plan,
        steps=steps(running, plan, inventory, demands, rates=rates),
        is_fewest_moves=search.is_fewest_moves,
    )


def room_of(plan: Plan, inventory: Inventory) -> Room:
    """The largest peak of one more replica that a plan has room for on one device, beside a start of any other."""
    rooms = (
        Room(
            num_bytes=budget_bytes(device, plan.headroom)
            - sum_loads(need_of(p.estimate) for p in plan.placements if device.id in p.devices).peak_bytes,
            device=device.id,
        )
        for device in inventory.devices
        if is_usable(device)
    )
    return max(rooms, key=lambda room: room.num_bytes, default=Room(num_bytes=0, device=None))


class _Search:
    """Plans with room, asked of `solve` one after the other; remembers what is proven of the last one found."""

    def __init__(self, running: Plan, inventory: Inventory, demands: Sequence[Demand], policy: Policy) -> None:
        self._running, self._inventory, self._policy = running, inventory, policy
        self._asked = demands
        self._demands = [_offloaded_as_now(demand, running) for demand in demands]
        self.is_fewest_moves = False

    def plan_with_most(self, least: int, most: int) -> Plan | None:
        """Halves the range between what there is and what an empty device would have."""
        best, grain = None, max(1, most // STEPS_OF_SEARCH)
        while most - least >= grain:
            middle = least + max(1, (most - least) // 2)
            found = self.plan_with(middle)
            if found:
                best, least = found, max(middle, room_of(found, self._inventory).num_bytes)
            else:
                most = middle - 1
        return best

    def plan_with(self, num_bytes: int) -> Plan | None:
        """First as the least of all; a heuristic that keeps what runs first may find it only as the first of all."""
        priorities = [demand.priority for demand in self._demands] or [0]
        for priority in (min(priorities) - 1, max(priorities) + 1):
            room = _demand_of(num_bytes, priority)
            plan = solve(self._inventory, [*self._demands, room], self._policy, running=self._running.placements)
            if any(placement.model == ROOM for placement in plan.placements) and self._serves_as_much(plan):
                proven = {goal.name: goal.value == goal.bound for goal in plan.goals}
                self.is_fewest_moves = priority < min(priorities) and proven.get(STAYING, False)
                return self._without_room(plan)
        return None

    def _without_room(self, plan: Plan) -> Plan:
        """The plan as it is put in force: its bounds were those of a question with the room in it, its refusals too."""
        problem = pose(self._inventory, self._asked, self._policy, self._running.placements)
        number_of = {device.id: number for number, device in enumerate(problem.devices)}
        placed = [[one for one in plan.placements if one.model == demand.model] for demand in problem.demands]
        answer = Answer(
            tuple(tuple(tuple(sorted(number_of[d] for d in one.devices)) for one in ones) for ones in placed),
            plan.solver,
            None,
            tuple(tuple(one.offload_bytes for one in ones) for ones in placed),
        )
        return assemble(problem, answer, self._inventory, self._running.placements)

    def _serves_as_much(self, plan: Plan) -> bool:
        """Model by model: the heuristic may have put the room before others."""
        then, now = (Counter(p.model for p in each.placements) for each in (self._running, plan))
        return all(now[demand.model] >= then[demand.model] for demand in self._demands)


def _offloaded_as_now(demand: Demand, running: Plan) -> Demand:
    """The demand with no more leave to offload than its replicas use: room is not made by slowing them down."""
    used = max((p.offload_bytes for p in running.placements if p.model == demand.model), default=0)
    return replace(demand, max_offload_bytes=min(used, demand.max_offload_bytes))


def _demand_of(num_bytes: int, priority: int) -> Demand:
    part = Part(name=PartName.WEIGHTS, num_bytes=num_bytes, source="room to be left free")
    return Demand(model=ROOM, num_replicas=1, priority=priority, estimate=Estimate(parts=(part,)))


def _room_when_empty(inventory: Inventory, policy: Policy) -> Room:
    rooms = (
        Room(num_bytes=budget_bytes(device, policy.headroom), device=device.id)
        for device in inventory.devices
        if is_usable(device)
    )
    return max(rooms, key=lambda room: room.num_bytes, default=Room(num_bytes=0, device=None))
