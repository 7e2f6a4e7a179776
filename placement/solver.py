"""`solve`: from what there is and what is wanted to a plan. The one entrance to all solvers."""

from __future__ import annotations

from collections.abc import Sequence

from placement.assemble import assemble
from placement.demand import Demand
from placement.exact import is_small, solve_exact
from placement.greedy import solve_greedy
from placement.inventory import Inventory
from placement.packing import solve_large, tightened
from placement.plan import Placement, Plan
from placement.policy import Policy
from placement.problem import pose


def solve(
    inventory: Inventory, demands: Sequence[Demand], policy: Policy, *, running: Sequence[Placement] = ()
) -> Plan:
    """The plan for these demands; what does not fit is in `plan.refusals`, never an exception.

    `running` are the placements of the plan in force: what may stay where it is does.
    The same arguments give the same plan.
    Raises: InvalidProblem when inventory, demands or policy contradict themselves.
    """
    problem = pose(inventory, demands, policy, running)
    start = solve_greedy(problem)
    answer = tightened(problem, solve_exact(problem, start)) if is_small(problem) else solve_large(problem, start)
    return assemble(problem, answer, inventory, running)
