"""What a goal needs next, from its jobs and from what comparison found. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from serve_app.compare.score import CheckpointScore
from serve_app.compare.verdict import Outcome, judge, ranked
from serve_app.goals.goal import (
    Compared,
    Decision,
    Goal,
    GoalJob,
    Hopeless,
    JobState,
    JobWanted,
    Met,
    Metric,
    Strategy,
    Submit,
    Wait,
)

MAX_WITHOUT_GAIN: Final = 3
"""Source: row C2."""
MAX_JOBS: Final = 100
_STRATEGIES: Final = tuple(Strategy)
_SLOWER: Final = 0.3
"""Of the learning rate, each time it is that strategy's turn."""


def decide(goal: Goal, jobs: Sequence[GoalJob], compared: Compared, *, now_s: float) -> Decision:
    """`jobs` in the order they were submitted.

    A met goal is met also after its deadline; a job that still runs is waited for only until then.
    """
    best = best_score(goal.metric, compared.scores)
    value = best_value(goal, jobs, best)
    if value is not None and _reaches(goal, value):
        return Met(f"{goal.metric} is {value:.4g}, the target is {goal.target:.4g}.")
    if now_s >= goal.deadline_s:
        return Hopeless(f"The deadline has passed with {_told(goal, value)}.")
    if any(job.state is JobState.ACTIVE for job in jobs):
        return Wait(f"Job {next(job.job_id for job in jobs if job.state is JobState.ACTIVE)} is under way.")
    if compared.pending:
        return Wait("A checkpoint waits to be scored.")
    lost = without_gain(goal, jobs, compared, best)
    if lost >= MAX_WITHOUT_GAIN or len(jobs) >= MAX_JOBS:
        return Hopeless(f"The last {lost} of {len(jobs)} jobs brought no gain; it stays at {_told(goal, value)}.")
    shortest_s = min(_durations_s(jobs), default=0.0)
    if now_s + shortest_s > goal.deadline_s:
        left_s = goal.deadline_s - now_s
        return Hopeless(
            f"It cannot be met any more: {left_s:.0f} s are left, the shortest of its jobs took {shortest_s:.0f} s."
        )
    return Submit(_next_job(goal, len(jobs), best))


def best_score(metric: Metric, scores: Iterable[CheckpointScore]) -> CheckpointScore | None:
    """The checkpoint to go on from; by accuracy unless the goal is a loss. None where nothing was scored."""
    order = ranked(scores)
    if metric is Metric.LOSS:
        order = tuple(sorted((one for one in order if one.loss is not None), key=lambda one: one.loss or 0.0))
    return next(iter(order), None)


def best_value(goal: Goal, jobs: Iterable[GoalJob], best: CheckpointScore | None) -> float | None:
    """None where nobody measured it."""
    match goal.metric:
        case Metric.ACCURACY:
            return None if best is None else best.accuracy
        case Metric.LOSS:
            return None if best is None else best.loss
        case Metric.REWARD:
            return max((job.reward for job in jobs if job.reward is not None), default=None)


def without_gain(goal: Goal, jobs: Sequence[GoalJob], compared: Compared, best: CheckpointScore | None) -> int:
    """How many of the last jobs, one after the other, moved the metric neither by `min_gain` nor beyond noise."""
    gains = list(_reward_gains(goal, jobs) if goal.metric is Metric.REWARD else _gains(goal, jobs, compared, best))
    return next((back for back, gained in enumerate(reversed(gains)) if gained), len(gains))


def _gains(goal: Goal, jobs: Sequence[GoalJob], compared: Compared, best: CheckpointScore | None) -> Iterator[bool]:
    """For each job, whether the best after it is better than the best before it."""
    by_version = {score.weights_version: score for score in compared.scores}
    versions = [*(job.before for job in jobs), best.weights_version if best else None]
    for before, after in pairwise(versions):
        if before is None:
            yield after is not None
        else:  # one that is gone from the ranking can prove no gain
            old, new = by_version.get(before), by_version.get(after or "")
            yield old is not None and new is not None and _is_gain(goal, new, old)


def _is_gain(goal: Goal, after: CheckpointScore, before: CheckpointScore) -> bool:
    if after.weights_version == before.weights_version:
        return False
    if goal.metric is Metric.LOSS:
        return before.loss is not None and after.loss is not None and before.loss - after.loss > (goal.min_gain or 0.0)
    if goal.min_gain is not None and after.accuracy - before.accuracy >= goal.min_gain:
        return True
    return judge(after, before).outcome in (Outcome.BETTER, Outcome.MIXED)


def _reward_gains(goal: Goal, jobs: Sequence[GoalJob]) -> Iterator[bool]:
    best: float | None = None
    for job in jobs:
        gained = job.reward is not None and (best is None or job.reward - best > (goal.min_gain or 0.0))
        best = job.reward if gained else best
        yield gained


def _next_job(goal: Goal, num_jobs: int, best: CheckpointScore | None) -> JobWanted:
    """Strategies take turns; each round trains longer, and a rate or seed is never used twice."""
    round_, place = divmod(num_jobs, len(_STRATEGIES))
    strategy = Strategy.REINFORCE if goal.metric is Metric.REWARD else _STRATEGIES[place]
    return JobWanted(
        strategy=strategy,
        model=goal.model,
        parent=None if best is None else best.path,
        seed=num_jobs if strategy is Strategy.SEED or goal.metric is Metric.REWARD else 0,
        learning_rate_scale=_SLOWER ** (round_ + 1) if strategy is Strategy.LEARNING_RATE else 1.0,
        steps_scale=float(round_ + 1),
    )


def _reaches(goal: Goal, value: float) -> bool:
    return value <= goal.target if goal.metric is Metric.LOSS else value >= goal.target


def _told(goal: Goal, value: float | None) -> str:
    return f"no {goal.metric} measured" if value is None else f"{goal.metric} {value:.4g} of {goal.target:.4g}"


def _durations_s(jobs: Iterable[GoalJob]) -> Iterator[float]:
    """Only of those that came to their end: one that fails at once says nothing of how long it takes."""
    for job in jobs:
        if job.state is JobState.DONE and job.ended_at_s is not None:
            yield job.ended_at_s - job.submitted_at_s
