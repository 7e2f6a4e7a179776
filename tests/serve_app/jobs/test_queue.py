"""Who goes first, and that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from serve_app.jobs import changes, queue
from serve_app.jobs.job import GIB, MAX_PRIORITY, Job, JobKind, JobLimits, JobSpec, Moment, Placed
from serve_app.jobs.queue import AGE_S, HOLD_AFTER_S, LONGEST_LEAD_S

PRIORITIES = st.integers(0, MAX_PRIORITY)
TIMES = st.floats(0, 1e6)
PLACED = Placed(node="node-1", devices=("node-1/gpu-0",), epoch=1)


def waiting(job_id: str, *, priority: int = 100, at_s: float = 0.0, gib: int = 1, run_s: float = 3600.0) -> Job:
    spec = JobSpec(
        kind=JobKind.SCRIPT,
        command=("x",),
        num_bytes=gib * GIB,
        priority=priority,
        limits=JobLimits(run_s=run_s),
    )
    return changes.submitted(job_id, spec, at=Moment(at_s, at_s))


def started(job: Job, *, at_s: float) -> Job:
    at = Moment(at_s, at_s)
    return changes.running(changes.scheduled(job, PLACED, at=at), run_traceparent=None, at=at)


class TestOrder:
    def test_is_by_priority_among_those_that_came_together(self) -> None:
        jobs = [waiting("low", priority=1), waiting("high", priority=2)]
        assert [job.id for job in queue.in_order(jobs)] == ["high", "low"]

    @given(priority=PRIORITIES, other=PRIORITIES, at_s=TIMES, later_s=st.floats(0, 2 * LONGEST_LEAD_S))
    def test_lets_a_later_one_go_first_only_within_the_stated_lead(
        self, priority: int, other: int, at_s: float, later_s: float
    ) -> None:
        first = waiting("first", priority=priority, at_s=at_s)
        later = waiting("later", priority=other, at_s=at_s + later_s)
        if queue.in_order([later, first])[0] is later:
            assert later_s <= max(0, other - priority) * AGE_S + 1e-6
            assert later_s <= LONGEST_LEAD_S + 1e-6

    @given(priority=PRIORITIES, gap_s=st.floats(30, 600))
    def test_starves_nobody_however_many_higher_ones_keep_coming(self, priority: int, gap_s: float) -> None:
        """One place, one job of the highest priority every `gap_s`, which each takes just so long."""
        ours, now_s, queued = waiting("ours", priority=priority), 0.0, [waiting("ours", priority=priority)]
        for number in range(int(LONGEST_LEAD_S / gap_s) + 3):
            queued.append(waiting(f"high-{number:04d}", priority=MAX_PRIORITY, at_s=now_s))
            chosen = queue.in_order(queued)[0]
            if chosen.id == ours.id:
                assert now_s <= (MAX_PRIORITY - priority) * AGE_S + gap_s
                return
            queued.remove(chosen)
            now_s += gap_s
        raise AssertionError("it never ran")

    def test_is_kept_by_a_job_that_comes_back(self) -> None:
        job = waiting("first", at_s=0)
        back = replace(job, queued=Moment(5000, 5000))
        assert queue.rank_s(back) == queue.rank_s(job)


@dataclass
class OneDevice:
    """A device of 10 GiB, a queue, and jobs that run for exactly their limit: time goes by events."""

    now_s: float = 0.0
    queued: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)

    def round(self) -> None:
        blocked: list[Job] = []
        for job in queue.ready(self.queued, now_s=self.now_s):
            held_by = queue.holder(blocked, self.running, now_s=self.now_s)
            if held_by is not None and queue.would_delay(job, held_by, self.running, now_s=self.now_s):
                continue
            used = sum(one.spec.num_bytes for one in self.running)
            if used + job.spec.num_bytes > 10 * GIB:
                blocked.append(job)
                continue
            self.queued.remove(job)
            self.running.append(started(job, at_s=self.now_s))

    def pass_to(self, at_s: float) -> None:
        while ends := [one for one in self.running if queue.surely_over_s(one, now_s=self.now_s) <= at_s]:
            first = min(ends, key=lambda one: queue.surely_over_s(one, now_s=self.now_s))
            self.now_s = queue.surely_over_s(first, now_s=self.now_s)
            self.running.remove(first)
            self.round()
        self.now_s = at_s
        self.round()

    def runs(self, job_id: str) -> bool:
        return job_id in {job.id for job in self.running}


SMALL = st.lists(st.tuples(st.integers(1, 5), st.floats(10, 2000), st.floats(1, 60)), min_size=40, max_size=40)
"""Size in GiB, limit, time to the next: together within the bound below."""


class TestHolding:
    @given(small=SMALL)
    def test_starts_a_large_job_within_its_bound_though_small_ones_keep_coming(
        self, small: Sequence[tuple[int, float, float]]
    ) -> None:
        """All of one priority, so all came later: after `HOLD_AFTER_S` it waits only for what runs then."""
        device = OneDevice(queued=[waiting("large", gib=10)])
        device.running.append(started(waiting("before", gib=1, run_s=2000), at_s=0.0))
        began_s = None
        for number, (gib, run_s, gap_s) in enumerate(small):
            device.queued.append(waiting(f"small-{number}", at_s=device.now_s, gib=gib, run_s=run_s))
            device.pass_to(device.now_s + gap_s)
            if began_s is None and device.runs("large"):
                began_s = device.now_s
        device.pass_to(HOLD_AFTER_S + 2000)
        assert began_s is not None or device.runs("large") or "large" not in {job.id for job in device.queued}

    def test_lets_nobody_pass_who_might_run_on_when_its_room_comes(self) -> None:
        device = OneDevice(queued=[waiting("large", gib=10)])
        device.running.append(started(waiting("before", gib=5, run_s=2000), at_s=0.0))
        device.pass_to(HOLD_AFTER_S)
        device.queued += [
            waiting("long", at_s=HOLD_AFTER_S, run_s=1401),
            waiting("short", at_s=HOLD_AFTER_S, run_s=1399),
        ]
        device.round()
        assert (device.runs("long"), device.runs("short")) == (False, True)
        device.pass_to(2000)
        assert device.runs("large")

    def test_is_done_by_nobody_before_his_time(self) -> None:
        device = OneDevice(queued=[waiting("large", gib=10)])
        device.running.append(started(waiting("before", gib=5, run_s=2000), at_s=0.0))
        device.queued.append(waiting("long", run_s=9000))
        device.pass_to(HOLD_AFTER_S - 1)
        assert device.runs("long")


class TestAsBlocked:
    def test_is_who_asks_for_no_less_with_no_more_weight(self) -> None:
        blocked = [waiting("blocked", gib=5, priority=50)]
        assert queue.as_blocked(waiting("same", gib=5, priority=50), blocked) is blocked[0]
        assert queue.as_blocked(waiting("smaller", gib=4, priority=50), blocked) is None
        assert queue.as_blocked(waiting("heavier", gib=5, priority=51), blocked) is None
