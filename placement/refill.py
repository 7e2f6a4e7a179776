"""An answer filled up with what a search that ran out of time left out."""

from __future__ import annotations

from dataclasses import replace

from placement.greedy import answer_of, fill, seats_of, ways_of, worth_of
from placement.problem import Answer, Problem


def refill(problem: Problem, answer: Answer) -> Answer:
    """The answer with whatever still fits, priority after priority; what it places of lower priorities gives way.

    Of each priority what runs is kept in place first, or else what the answer places, whichever then serves more.
    """
    runs = [seats_of(*both) for both in zip(problem.running, problem.running_offloads, strict=True)]
    placed = [seats_of(sets, answer.offloads_of(index)) for index, sets in enumerate(answer.sets)]
    way, squeezes = ways_of(problem)[0], any(problem.max_offloads)
    tables = [fill(problem, way, layers, may_squeeze=squeezes) for layers in ([placed], [runs, placed])]
    return replace(answer_of(max(tables, key=worth_of)), solver=answer.solver)
