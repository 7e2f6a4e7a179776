"""`solve`: from what there is and what is wanted to a plan. The one entrance to all solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from placement.assemble import assemble
from placement.deadline import Deadline
from placement.demand import Demand
from placement.exact import is_small, solve_exact
from placement.greedy import solve_greedy
from placement.inventory import Inventory
from placement.packing import solve_large, tightened
from placement.plan import Placement, Plan
from placement.policy import Policy
from placement.problem import pose


def solve(
    inventory: Inventory,
    demands: Sequence[Demand],
    policy: Policy,
    *,
    running: Sequence[Placement] = (),
    elapsed_s: Callable[[], float] | None = None,
) -> Plan:
    """The plan for these demands; what does not fit is in `plan.refusals`, never an exception.

    `running` are the placements of the plan in force: what may stay where it is does.
    `elapsed_s` tells the seconds since the call: then the whole of it keeps to `policy.time_limit_s` by this clock,
    with the best plan so far and its gap when time is over. Without a clock only counted work is limited, and the same
    arguments give the same plan; so they do with one that never came to the limit.
    Raises: InvalidProblem when inventory, demands or policy contradict themselves.
    """
    problem = pose(inventory, demands, policy, running)
    deadline = Deadline(policy.time_limit_s, elapsed_s)
    searching = deadline.of_search(len(demands))
    start = solve_greedy(problem, searching)
    if is_small(problem):
        answer = tightened(problem, solve_exact(problem, start, searching), searching)
    else:
        answer = solve_large(problem, start, searching)
    return assemble(problem, answer, inventory, running, deadline)
