"""The review of reinforcement settings over the jobs that are kept: what each value was worth in a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from serve_app.jobs.job import JobKind, JobState
from serve_app.jobs.service import JobService
from serve_app.training.review import ReviewedRun, best_values, review, run_of

DAY_S: Final = 86_400.0
WEEK_DAYS: Final = 7
_MOST_JOBS: Final = 1000


def settings_review(jobs: JobService, *, days: int, unix_s: float) -> dict[str, Any]:
    """Of the reinforcements that ended well in the last `days`; `advice` is empty where too few runs say anything."""
    runs = tuple(_runs(jobs, since_s=unix_s - days * DAY_S))
    effects = review(runs)
    return {
        "made_at": datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds"),
        "days": days,
        "num_runs": len(runs),
        "effects": [{**asdict(one), "enough": one.enough} for one in effects],
        "advice": best_values(effects),
    }


def _runs(jobs: JobService, *, since_s: float) -> Iterator[ReviewedRun]:
    views, _ = jobs.page(limit=_MOST_JOBS, kind=JobKind.REINFORCE, state=JobState.SUCCEEDED)
    for job in (view.job for view in views):
        if job.ended is not None and job.ended.unix_s >= since_s and job.result:
            run = run_of(json.loads(job.result))
            if run is not None:
                yield run
