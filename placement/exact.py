"""The best answer for small instances, by OR-Tools CP-SAT: one goal after another, none traded for a later one.

In this order: serve as many replicas as possible of each priority, from the highest; keep the most running
replicas where they are; put replicas of one model on different devices; avoid ailing devices, pairs without
NVLink and NUMA crossings; then few devices (pack) or even ones (spread), even ones among the few, and at
last the first devices of the inventory. Replicas of one model are alike, so the model counts them per device set.

One worker, a fixed seed and a limit in deterministic time: the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

from ortools.sat.python import cp_model

from placement.policy import Goal
from placement.problem import Answer, DeviceSet, Problem, num_sets, set_cost

MAX_PAIRS = 400
"""Replicas x device sets above which `solve_exact` is not meant to be asked."""

SOLVER = "cp-sat"

FULL = 1000
"""A full device, in the thousandths that evenness is measured in."""
TANGENT_STEP = 50
MAX_ORDER_WEIGHT = 10**9
DETERMINISTIC_PER_SECOND = 0.5
"""Units of CP-SAT's deterministic time in a second of `Policy.time_limit_s`; one unit took at most 1.5 s of CPU."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One goal. `bound` is a value that cannot be beaten; reaching it needs no proof by search."""

    name: str
    expression: cp_model.LinearExpr
    maximize: bool
    bound: int


def is_small(problem: Problem) -> bool:
    return (
        sum(demand.num_replicas * num_sets(problem, index) for index, demand in enumerate(problem.demands)) <= MAX_PAIRS
    )


def solve_exact(problem: Problem, start: Answer) -> Answer | None:
    """The best answer, or None when the limit was reached before it was proven how much can be served.

    `start` is any feasible answer, used as a hint. A later goal that is not proven shows as `gap`.
    """
    model = _Model(problem)
    search = _Search(model, problem, start)
    gap = 0.0
    for stage in model.stages:
        stage_gap = search.run(stage)
        if stage.name == "served" and stage_gap != 0.0:
            return None
        if stage_gap is None:
            return Answer(search.sets(), SOLVER, gap or None)
        gap = gap or stage_gap
    return Answer(search.sets(), SOLVER, gap)


class _Model:
    """All variables and constraints, and the goals over them; a search only adds what it has reached."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.cp = cp_model.CpModel()
        self.options = [_options(problem, index) for index in range(len(problem.demands))]
        self.counts = [
            [self.cp.new_int_var(0, demand.num_replicas, "") for _ in options]
            for demand, options in zip(problem.demands, self.options, strict=True)
        ]
        for demand, counts in zip(problem.demands, self.counts, strict=True):
            self.cp.add(_total(counts) <= demand.num_replicas)
        self.on_device = [self._on_device(index) for index in range(len(problem.demands))]
        self.used = [self._used(index) for index in range(len(problem.demands))]
        self.peaks = [self._peak(number) for number in range(len(problem.devices))]
        self.stages = self._stages()

    def _stages(self) -> list[Stage]:
        stages = [*self._served(), self._moves(), self._together(), self._set_costs()]
        if self.problem.policy.goal is Goal.PACK:
            stages.append(self._open_devices())
        return [*stages, self._unevenness(), self._order()]

    def _on_device(self, index: int) -> dict[int, cp_model.LinearExpr]:
        """Replicas of one demand per device number."""
        terms: dict[int, list[cp_model.LinearExprT]] = {}
        for devices, count in zip(self.options[index], self.counts[index], strict=True):
            for number in devices:
                terms.setdefault(number, []).append(count)
        return {number: _total(counts) for number, counts in terms.items()}

    def _used(self, index: int) -> dict[int, cp_model.IntVar]:
        used = {}
        for number, replicas in self.on_device[index].items():
            used[number] = self.cp.new_bool_var("")
            self.cp.add(replicas <= self.problem.demands[index].num_replicas * used[number])
        return used

    def _peak(self, number: int) -> cp_model.LinearExpr | None:
        """Bytes on the device at the largest start, bounded by its budget."""
        here = [index for index, replicas in enumerate(self.on_device) if number in replicas]
        if not here:
            return None
        budget = max(0, self.problem.budgets[number])
        start = self.cp.new_int_var(0, budget, "")
        for index in here:
            self.cp.add(start >= self.used[index][number] * self.problem.needs[index].start_bytes)
        rests = [self.on_device[index][number] * self.problem.needs[index].rest_bytes for index in here]
        peak = _total([*rests, start])
        self.cp.add(peak <= self.problem.budgets[number])
        return peak

    def _served(self) -> list[Stage]:
        stages = []
        for priority in sorted({demand.priority for demand in self.problem.demands}, reverse=True):
            level = [index for index, demand in enumerate(self.problem.demands) if demand.priority == priority]
            asked = sum(self.problem.demands[index].num_replicas for index in level)
            stages.append(
                Stage(
                    "served",
                    _total([count for index in level for count in self.counts[index]]),
                    maximize=True,
                    bound=asked,
                )
            )
        return stages

    def _moves(self) -> Stage:
        kept, most = list[cp_model.LinearExprT](), 0
        for index, demand in enumerate(self.problem.demands):
            most += min(demand.num_replicas, len(self.problem.running[index]))
            for devices, count in zip(self.options[index], self.counts[index], strict=True):
                runs_here = self.problem.running[index].count(devices)
                if runs_here:
                    stays = self.cp.new_int_var(0, runs_here, "")
                    self.cp.add(stays <= count)
                    kept.append(stays)
        return Stage("moves", _total(kept), maximize=True, bound=most)

    def _together(self) -> Stage:
        """Replicas beyond the first of their model on a device."""
        extra = list[cp_model.LinearExprT]()
        for index, demand in enumerate(self.problem.demands):
            for replicas in self.on_device[index].values() if demand.num_replicas > 1 else ():
                beyond = self.cp.new_int_var(0, demand.num_replicas, "")
                self.cp.add(beyond >= replicas - 1)
                extra.append(beyond)
        return Stage("together", _total(extra), maximize=False, bound=0)

    def _set_costs(self) -> Stage:
        terms = [
            count * set_cost(self.problem, devices)
            for options, counts in zip(self.options, self.counts, strict=True)
            for devices, count in zip(options, counts, strict=True)
        ]
        return Stage("set costs", _total(terms), maximize=False, bound=0)

    def _open_devices(self) -> Stage:
        opened = list[cp_model.LinearExprT]()
        for number in range(len(self.problem.devices)):
            users = [used[number] for used in self.used if number in used]
            if users:
                opened.append(self.cp.new_bool_var(""))
                self.cp.add_max_equality(opened[-1], users)
        return Stage("devices", _total(opened), maximize=False, bound=0)

    def _unevenness(self) -> Stage:
        """Sum over the devices of the squared fill at the peak, the square drawn by its tangents."""
        costs = list[cp_model.LinearExprT]()
        for device, peak in zip(self.problem.devices, self.peaks, strict=True):
            if peak is None or device.total_bytes == 0:
                continue
            fill, cost = self.cp.new_int_var(0, FULL, ""), self.cp.new_int_var(0, FULL * FULL, "")
            self.cp.add(fill * device.total_bytes >= FULL * peak)
            for at in range(0, FULL + 1, TANGENT_STEP):
                self.cp.add(cost >= 2 * at * fill - at * at)
            costs.append(cost)
        return Stage("unevenness", _total(costs), maximize=False, bound=0)

    def _order(self) -> Stage:
        """Lower device numbers for earlier demands, in earnest for the first few and roughly for the rest."""
        base = max(2, len(self.problem.devices))
        most = int(log(MAX_ORDER_WEIGHT, base))
        terms = [
            replicas * (number * base ** max(0, min(most, len(self.options) - 1) - index))
            for index, on_device in enumerate(self.on_device)
            for number, replicas in on_device.items()
        ]
        return Stage("order", _total(terms), maximize=False, bound=0)


class _Search:
    """Solves stage after stage, holding each reached value fixed, within one budget of deterministic time.

    There is always a whole solution, at first `start`: a stage that finds nothing better leaves it as it is.
    """

    def __init__(self, model: _Model, problem: Problem, start: Answer) -> None:
        self._model = model
        self._seed = problem.policy.seed
        self._time_left = problem.policy.time_limit_s * DETERMINISTIC_PER_SECOND
        for sets, options, counts in zip(start.sets, model.options, model.counts, strict=True):
            for devices, count in zip(options, counts, strict=True):
                model.cp.add_hint(count, sets.count(devices))
        self._solution = self._solver(fixed=True)
        status = self._solution.solve(model.cp)
        assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE), "the heuristic's answer breaks the exact model"

    def run(self, stage: Stage) -> float | None:
        """Gap of the stage: 0.0 when proven best, None when the time was over before a bound was known."""
        cp = self._model.cp
        if self._solution.value(stage.expression) == stage.bound:
            cp.add(stage.expression == stage.bound)
            return 0.0
        if self._time_left <= 0:
            return None
        (cp.maximize if stage.maximize else cp.minimize)(stage.expression)
        self._hint_solution()
        solver = self._solver()
        status = solver.solve(cp)
        self._time_left -= solver.deterministic_time
        assert status not in (cp_model.INFEASIBLE, cp_model.MODEL_INVALID), "the solution in hand fits this model"
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        self._solution = solver
        value = solver.value(stage.expression)
        cp.add(stage.expression >= value if stage.maximize else stage.expression <= value)
        if status == cp_model.OPTIMAL:
            return 0.0
        return abs(value - solver.best_objective_bound) / max(1.0, abs(float(value)))

    def sets(self) -> tuple[tuple[DeviceSet, ...], ...]:
        return tuple(
            tuple(d for d, count in zip(options, counts, strict=True) for _ in range(self._solution.value(count)))
            for options, counts in zip(self._model.options, self._model.counts, strict=True)
        )

    def _solver(self, *, fixed: bool = False) -> cp_model.CpSolver:
        """`fixed` only completes the hint to a whole solution."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = self._seed
        solver.parameters.fix_variables_to_their_hinted_value = fixed
        if not fixed:
            solver.parameters.max_deterministic_time = self._time_left
        return solver

    def _hint_solution(self) -> None:
        cp = self._model.cp
        cp.clear_hints()  # type: ignore[no-untyped-call]  # OR-Tools gives it no annotation
        for index, value in enumerate(self._solution.response_proto.solution):
            cp.add_hint(cp.get_int_var_from_proto_index(index), value)


def _total(terms: Sequence[cp_model.LinearExprT]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.sum([*terms, cp_model.LinearExpr.constant(0)])


def _options(problem: Problem, index: int) -> list[DeviceSet]:
    """Every set of devices of one node that could hold a replica if nothing else were there."""
    peak, size = problem.needs[index].peak_bytes, problem.demands[index].tensor_parallel
    return [
        devices
        for usable in problem.usable
        for devices in combinations((n for n in usable if peak <= problem.budgets[n]), size)
    ]
