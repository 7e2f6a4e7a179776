"""The best answer for small instances, by OR-Tools CP-SAT: one goal after another, none traded for a later one.

The goals and their order are those of `goals.py`. Each reached value is held fixed for the goals after it, and each
comes with the value that cannot be beaten, given what the goals before it reached.

One worker, a fixed seed and a limit in deterministic time: the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import ceil, floor

from ortools.sat.python import cp_model

from placement.deadline import NO_DEADLINE, Deadline
from placement.exact_model import ExactModel, Option, Stage
from placement.goals import gap_of
from placement.plan import GoalReached
from placement.problem import Answer, DeviceSet, Problem, num_sets
from placement.refill import refill

MAX_PAIRS = 400
"""Replicas x device sets above which `solve_exact` is not meant to be asked."""

SOLVER = "cp-sat"

DETERMINISTIC_PER_SECOND = 0.5
"""Units of CP-SAT's deterministic time in a second of `Policy.time_limit_s`; one unit took at most 1.5 s of CPU."""
MAX_OF_REMAINING = 0.5
"""Share of the time left that one goal may take, so that the goals after a hard one get some too."""
ROUNDING = 1e-6


def is_small(problem: Problem) -> bool:
    pairs = 0
    for index, demand in enumerate(problem.demands):
        pairs += demand.num_replicas * num_sets(problem, index)
        if pairs > MAX_PAIRS:
            return False
    return True


def solve_exact(problem: Problem, start: Answer, deadline: Deadline = NO_DEADLINE) -> Answer:
    """The best answer found within the limit, never worse than `start` in any goal before one where it is better.

    `start` is any feasible answer. Whatever is not proven best shows as a `gap`; where the time was over before
    anything was searched, the answer is `start`, with its values and what bounds are known without a search.
    """
    answer = _search(problem, start, problem.policy.time_limit_s, deadline)
    if answer.gap and _lacks(problem, answer):
        filled = refill(problem, answer)
        return answer if filled.sets == answer.sets else _search(problem, filled, 0.0, deadline)
    return answer


def _lacks(problem: Problem, answer: Answer) -> bool:
    return any(len(sets) < demand.num_replicas for sets, demand in zip(answer.sets, problem.demands, strict=True))


def _search(problem: Problem, start: Answer, time_limit_s: float, deadline: Deadline) -> Answer:
    model = ExactModel(problem)
    search = _Search(model, problem, start, time_limit_s, deadline)
    ran = [search.run(stage) for stage in model.stages]
    reached = tuple(search.measure(stage, goal) for stage, goal in zip(model.stages, ran, strict=True))
    gap = gap_of(reached)
    if gap and not search.has_searched:
        return Answer(start.sets, start.solver, gap, start.offloads, reached)
    sets, offloads = search.replicas()
    return Answer(sets, SOLVER, gap, offloads if any(map(any, offloads)) else (), reached)


class _Search:
    """Solves stage after stage, holding each reached value fixed, within one budget of deterministic time.

    There is always a whole solution, at first `start`: a stage that finds nothing better leaves it as it is.
    """

    def __init__(
        self, model: ExactModel, problem: Problem, start: Answer, time_limit_s: float, deadline: Deadline
    ) -> None:
        self._model = model
        self._problem = problem
        self._deadline = deadline
        self._time_left = time_limit_s * DETERMINISTIC_PER_SECOND
        self.has_searched = False
        model.hint(start)
        self._solution = self._solver()
        self._solution.parameters.fix_variables_to_their_hinted_value = True
        status = self._solution.solve(model.cp)
        assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE), "the heuristic's answer breaks the exact model"

    def run(self, stage: Stage) -> GoalReached:
        """The best value of the stage that was found, held fixed from now on, and its bound."""
        bound = stage.bound
        if self._value(stage) != bound:
            self._tighten(stage)
        if self._value(stage) != bound and self._time_left > 0 and not self._deadline.is_over:
            bound = self._improve(stage)
        value = self._value(stage)
        self._model.cp.add(stage.expression >= value if stage.maximize else stage.expression <= value)
        return GoalReached(name=stage.name, value=value, bound=bound)

    def measure(self, stage: Stage, goal: GoalReached) -> GoalReached:
        """The goal as the last solution has it: what was not proven may have become better since."""
        if goal.value == goal.bound:
            return goal
        self._tighten(stage)
        return replace(goal, value=self._value(stage))

    def _improve(self, stage: Stage) -> int:
        """Searches a better solution; the bound that was proven.

        One that is only as good is left: the solution in hand does better in the goals to come, for it stems from a
        heuristic that keeps them in mind.
        """
        cp, solver = self._model.cp, self._solver()
        (cp.maximize if stage.maximize else cp.minimize)(stage.expression)
        self._hint_solution(range(len(self._solution.response_proto.solution)))
        solver.parameters.max_deterministic_time = self._time_left * MAX_OF_REMAINING
        solver.parameters.max_time_in_seconds = self._deadline.left_s
        status = solver.solve(cp)
        self.has_searched = True
        self._time_left -= solver.deterministic_time
        before = self._value(stage)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            found = int(solver.value(stage.expression))
            if (found > before) if stage.maximize else (found < before):
                self._solution = solver
            if self._value(stage) == found:
                return found if status == cp_model.OPTIMAL else _bound(stage, solver.best_objective_bound, found)
        # Unknown: the time was over. Anything else contradicts the solution in hand, so it proves nothing.
        return stage.bound

    def _tighten(self, stage: Stage) -> None:
        """The same replicas, with every variable that only measures them at its true value for this stage."""
        solver = self._solver()
        solver.parameters.fix_variables_to_their_hinted_value = True
        (self._model.cp.maximize if stage.maximize else self._model.cp.minimize)(stage.expression)
        self._hint_solution(self._model.decisions())
        assert solver.solve(self._model.cp) == cp_model.OPTIMAL, "a solution in hand can be measured"
        self._solution = solver

    def _value(self, stage: Stage) -> int:
        return int(self._solution.value(stage.expression))

    def replicas(self) -> tuple[tuple[tuple[DeviceSet, ...], ...], tuple[tuple[int, ...], ...]]:
        """Device sets of the placed replicas of each demand, and what each of them offloads per device."""
        placed = [
            [(option.devices, offload) for option in options for offload in self._offloads(index, option)]
            for index, options in enumerate(self._model.options)
        ]
        return (
            tuple(tuple(devices for devices, _ in of_demand) for of_demand in placed),
            tuple(tuple(offload for _, offload in of_demand) for of_demand in placed),
        )

    def _offloads(self, index: int, option: Option) -> list[int]:
        """One figure per replica: those that stay keep theirs, the first of the others take all they may."""
        kept = [offload for offload, stays in option.stays.items() for _ in range(self._solution.value(stays))]
        left = self._solution.value(option.free) if option.free is not None else 0
        others = list[int]()
        for _ in range(self._solution.value(option.count) - len(kept)):
            others.append(min(left, self._problem.max_offloads[index]))
            left -= others[-1]
        return [*kept, *others]

    def _solver(self) -> cp_model.CpSolver:
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        # Presolve of OR-Tools 9.15 calls solvable models infeasible and worse values optimal (google/or-tools 5274);
        # these models were among them.
        solver.parameters.cp_model_presolve = False
        return solver

    def _hint_solution(self, variables: Iterable[int]) -> None:
        cp, solution = self._model.cp, self._solution.response_proto.solution
        cp.clear_hints()  # type: ignore[no-untyped-call]  # OR-Tools gives it no annotation
        for index in variables:
            cp.add_hint(cp.get_int_var_from_proto_index(index), solution[index])


def _bound(stage: Stage, proven: float, value: int) -> int:
    """What was proven, as a whole number that is no tighter; never worse than what was known without search."""
    if stage.maximize:
        return max(value, min(stage.bound, floor(proven + ROUNDING)))
    return min(value, max(stage.bound, ceil(proven - ROUNDING)))
