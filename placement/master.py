"""The linear program over patterns, whose columns are made as they are needed.

The program is relaxed (devices may be cut), so its value bounds every whole answer. The bound handed out does not lean
on the program's floating point: it is worked out in whole numbers from its rounded duals (Lagrange), and holds for
whatever duals they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor
from typing import NamedTuple

from ortools.linear_solver import pywraplp

from placement.columns import Aim, Column, Kind, Sort, Work, Worth
from placement.fill import Fineness, Found, Thing, best_fill

SCALE = 10**9
"""Whole parts of a unit in the duals, fewer where worths are large."""
MOST_WORTH, MOST_DUAL = 10**12, 10**13
"""In parts; what thousands of replicas are worth together still is a number of 64 bits."""
TOLERANCE = 1e-6
"""A column must be better than the others by so much to be added."""
MAX_ROUNDS = 2000
COARSE = (Fineness(400, 2, bounds=False),)
CLOSE = (*COARSE, Fineness(2000, 6, bounds=False))
FINE = (*COARSE, Fineness(4000, 8, bounds=True), Fineness(8000, 64, bounds=True))
"""How finely columns are sought; the next is used when the one before finds none that is better."""
TAIL = 12
FLAT = 0.05
"""A program that gained no more than this in the last rounds is left: the rest would be worth less than it costs."""
MIN_COLUMNS = 4
KINDS_PER_COLUMN = 12
"""How many columns of one sort are sought in one round, no two with a kind in common."""


class Duals(NamedTuple):
    """Prices, in parts of SCALE: of a replica of each kind, of what is held, of a device of each sort."""

    kinds: tuple[int, ...]
    holds: tuple[int, ...]
    sorts: tuple[int, ...]

    def mixed(self, other: Duals) -> Duals:
        """Halfway to the other."""
        return Duals(
            *(tuple((a + b) // 2 for a, b in zip(*both, strict=True)) for both in zip(self, other, strict=True))
        )


@dataclass(slots=True)
class Relaxed:
    """The state of the program: `value` of its last solution, `bound` that no whole answer exceeds."""

    value: float = float("-inf")
    bound: int | None = None
    least: int | None = None
    """Of the bounds of this run, known or supposed, in parts of SCALE and before what is fixed is paid."""
    is_settled: bool = False
    """No better column was found: the value is that of the relaxed program, as far as the grid can see."""
    amounts: list[float] = field(default_factory=list)
    """Devices per column, of the last solution."""


class Master:
    """The program over the columns known so far. Maximizes; `fix` puts devices aside as decided."""

    def __init__(self, kinds: Sequence[Kind], sorts: Sequence[Sort], aim: Aim) -> None:
        self.kinds, self.sorts, self.aim = tuple(kinds), tuple(sorts), aim
        self.columns = list[Column]()
        self._known = set[Column]()
        self.fixed_kinds = [0] * len(kinds)
        self.fixed_sorts = [0] * len(sorts)
        most = max([1, aim.per_device, *aim.worth.running, *aim.worth.new])
        self._scale = max(1, min(SCALE, MOST_WORTH // most))
        self._best = self._by_volume() if aim.per_device and aim.held else None
        self._build()

    def _by_volume(self) -> Duals:
        """A replica is worth its part of the roomiest device, so that no device is worth more than it costs."""
        price = self.aim.per_device * self._scale
        rooms = [max((s.room for s in self.sorts if k in s.takes), default=0) for k in range(len(self.kinds))]
        rooms = [room - kind.start_bytes for room, kind in zip(rooms, self.kinds, strict=True)]
        kinds = tuple(
            min(price, price * kind.rest_bytes // room) if room > 0 else 0
            for room, kind in zip(rooms, self.kinds, strict=True)
        )
        return Duals(kinds, tuple(max(kinds, default=0) for _ in self.aim.held), tuple(0 for _ in self.sorts))

    def _build(self) -> None:
        self._lp = lp = pywraplp.Solver.CreateSolver("GLOP")
        lp.SetSolverSpecificParametersAsString("use_preprocessing: false")
        self._amounts = list[pywraplp.Variable]()
        self._running = [lp.NumVar(0, kind.num_running, "") for kind in self.kinds]
        self._new = [lp.NumVar(0, kind.num - kind.num_running, "") for kind in self.kinds]
        self._covers = [lp.Constraint(0, lp.infinity()) for _ in self.kinds]
        for cover, running, new in zip(self._covers, self._running, self._new, strict=True):
            cover.SetCoefficient(running, -1)
            cover.SetCoefficient(new, -1)
        self._limits = [lp.Constraint(-lp.infinity(), sort.num) for sort in self.sorts]
        self._holds = [lp.Constraint(value, lp.infinity()) for _, value in self.aim.held]
        for hold, (worth, _) in zip(self._holds, self.aim.held, strict=True):
            self._weigh(hold, worth)
        self._weigh(lp.Objective(), self.aim.worth)
        lp.Objective().SetMaximization()

    def _weigh(self, row: pywraplp.Constraint | pywraplp.Objective, worth: Worth) -> None:
        for variables, counts in ((self._running, worth.running), (self._new, worth.new)):
            for variable, count in zip(variables, counts, strict=True):
                if count:
                    row.SetCoefficient(variable, count)

    def cost(self, sort: int) -> int:
        return 0 if self.sorts[sort].is_open else self.aim.per_device

    def add(self, column: Column) -> bool:
        """False when it was there already."""
        if column in self._known:
            return False
        self._known.add(column)
        self.columns.append(column)
        amount = self._lp.NumVar(0, self._lp.infinity(), "")
        self._amounts.append(amount)
        for number, count in column.fill:
            self._covers[number].SetCoefficient(amount, count)
        self._limits[column.sort].SetCoefficient(amount, 1)
        if self.cost(column.sort):
            self._lp.Objective().SetCoefficient(amount, -self.cost(column.sort))
        return True

    def fix(self, column: Column, times: int) -> None:
        """Decide that so many devices more hold this column; a negative number takes it back."""
        self.fixed_sorts[column.sort] += times
        self._limits[column.sort].SetUb(self.sorts[column.sort].num - self.fixed_sorts[column.sort])
        for number, count in column.fill:
            self.fixed_kinds[number] += count * times
            self._covers[number].SetLb(-self.fixed_kinds[number])

    def worth_of(self, decided: Sequence[tuple[Column, int]]) -> int:
        """What these devices are worth to the aim when nothing else is decided."""
        covered, worth = [0] * len(self.kinds), 0
        for column, times in decided:
            worth -= self.cost(column.sort) * times
            for number, count in column.fill:
                covered[number] += count * times
        for number, kind in enumerate(self.kinds):
            running = min(covered[number], kind.num_running)
            new = min(covered[number] - running, kind.num - kind.num_running)
            worth += running * self.aim.worth.running[number] + new * self.aim.worth.new[number]
        return worth

    def left_of(self, number: int) -> int:
        """Replicas of a kind that no fixed column holds."""
        return max(0, self.kinds[number].num - self.fixed_kinds[number])

    def relax(
        self,
        work: Work,
        *,
        enough: int | None = None,
        until: int | None = None,
        fineness: Sequence[Fineness] = FINE,
        max_rounds: int = MAX_ROUNDS,
        is_hasty: bool = False,
    ) -> Relaxed | None:
        """Solve, making columns until none is better, the work is spent or the rounded value is proven.

        `enough`: also stop when the bound shows that no answer is worth more than this; `until`: when the program's
        value, short of its best, is this or more; `is_hasty`: on a rounded grid, when it gains next to nothing. None
        when nothing satisfies what is held and fixed. Columns are sought halfway between the program's duals, which
        jump, and those of the best bound so far.
        """
        state = Relaxed()
        finer, is_halfway, first, values = 1, True, self._best, list[float]()
        for _ in range(max_rounds):
            if not self._solve(state, work):
                return None
            values.append(state.value)
            if (until is not None and state.value + 1e-6 >= until) or (
                is_hasty and state.bound is None and _is_flat(values)
            ):
                break
            here = self._duals()
            at = first or (here.mixed(self._best) if is_halfway and self._best else here)
            first = None
            added = [self.add(column) for column in self._price(state, here, at, fineness[finer - 1], work)]
            if work.is_done or self._is_settled(state, enough):
                break
            if any(added):
                is_halfway = True
            elif at is not here:
                is_halfway = False
            elif finer < len(fineness):
                finer, state.least = finer + 1, None
            else:
                state.is_settled = True
                break
        return state

    def _solve(self, state: Relaxed, work: Work) -> bool:
        if self._lp.Solve() != pywraplp.Solver.OPTIMAL:
            return False
        work.spend(self._effort())
        state.value = self._lp.Objective().Value() - self._fixed_cost()
        state.amounts = [amount.solution_value() for amount in self._amounts]
        return True

    def _duals(self) -> Duals:
        return Duals(
            tuple(self._parts(-cover.dual_value()) for cover in self._covers),
            tuple(self._parts(-hold.dual_value()) for hold in self._holds),
            tuple(self._parts(limit.dual_value()) for limit in self._limits),
        )

    def _parts(self, dual: float) -> int:
        return min(MOST_DUAL, max(0, round(dual * self._scale)))

    def _effort(self) -> int:
        """Work of the last solution: the program is handed over whole, then its steps go over the rows."""
        iterations: int = self._lp.iterations()
        return 300 + 3 * len(self.columns) + iterations * len(self.kinds) // 20

    def _fixed_cost(self) -> int:
        return sum(self.cost(sort) * times for sort, times in enumerate(self.fixed_sorts))

    def _is_settled(self, state: Relaxed, enough: int | None) -> bool:
        if state.bound is None:
            return False
        return state.bound <= floor(state.value + 1e-6) or (enough is not None and state.bound <= enough)

    def _price(self, state: Relaxed, here: Duals, at: Duals, grid: Fineness, work: Work) -> list[Column]:
        """Columns found `at` these duals that better the solution `here`; lowers `state.bound` where `at` shows it."""
        known, proven, better = self._without_devices(at), True, list[Column]()
        for number, sort in enumerate(self.sorts):
            left = sort.num - self.fixed_sorts[number]
            if left > 0:
                found = self._price_sort(number, here, at, grid, work, better)
                proven = proven and found.bound is not None
                known += left * max(0, (found.bound or found.value) - self.cost(number) * self._scale)
        if self._best is None or state.least is None or known < state.least:
            self._best, state.least = at, known
        if proven:
            whole = known // self._scale - self._fixed_cost()
            state.bound = whole if state.bound is None else min(state.bound, whole)
        return better

    def _price_sort(
        self, number: int, here: Duals, at: Duals, grid: Fineness, work: Work, better: list[Column]
    ) -> Found:
        """The best fill of a device of this sort; it and others beside it are added to `better` if they are."""
        sort, things, first = self.sorts[number], self._things(self.sorts[number], at), None
        for _ in range(max(MIN_COLUMNS, len(self.kinds) // KINDS_PER_COLUMN)):
            found = best_fill(things, room=sort.room, start=sort.start, fineness=grid)
            work.spend(found.work)
            first, grid = first or found, grid._replace(bounds=False)
            value = sum(here.kinds[kind] * count for kind, count in found.fill)
            if value <= self.cost(number) * self._scale + here.sorts[number] + TOLERANCE * self._scale:
                break
            better.append(Column(number, found.fill))
            used = {kind for kind, _ in found.fill}
            things = [thing for thing in things if thing.number not in used]
        assert first is not None
        return first

    def _things(self, sort: Sort, at: Duals) -> list[Thing]:
        return [
            Thing(number, at.kinds[number], kind.rest_bytes, kind.start_bytes, min(kind.most, self.left_of(number)))
            for number, kind in enumerate(self.kinds)
            if at.kinds[number] and number in sort.takes
        ]

    def _without_devices(self, at: Duals) -> int:
        """The part of Lagrange's bound that no device has a share in, in parts of SCALE."""
        bound = sum(dual * fixed for dual, fixed in zip(at.kinds, self.fixed_kinds, strict=True))
        bound -= sum(dual * value for dual, (_, value) in zip(at.holds, self.aim.held, strict=True))
        for number, kind in enumerate(self.kinds):
            for counts, most in (("running", kind.num_running), ("new", kind.num - kind.num_running)):
                worth = getattr(self.aim.worth, counts)[number] * self._scale - at.kinds[number]
                worth += sum(
                    dual * getattr(held, counts)[number]
                    for dual, (held, _) in zip(at.holds, self.aim.held, strict=True)
                )
                bound += max(0, worth) * most
        return bound


def _is_flat(values: Sequence[float]) -> bool:
    return len(values) > TAIL and values[-1] - values[-1 - TAIL] < FLAT
