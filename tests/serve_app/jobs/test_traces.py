"""One trace from submission to run, and figures that say how jobs fare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from tests.serve_app.controller.traced import Traced, traced
from tests.serve_app.jobs.world import DEVICE, EXITED, World, progress, saved, script
from tracing import names
from tracing.job_metrics import JobMetrics
from tracing.job_spans import JobSpans
from tracing.metrics import Recorder
from tracing.spans import operation

CONTROLLERS = (names.JobSpan.SUBMIT, names.JobSpan.SCHEDULE, names.JobSpan.RUN, names.JobSpan.SETTLE)

CALLER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture
def trace() -> Iterator[Traced]:
    with traced() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, trace: Traced) -> World:
    return World(tmp_path / "state.sqlite", spans=JobSpans(trace.exporting))


def all_named(trace: Traced, name: str) -> list[ReadableSpan]:
    return [span for span in trace.kept.spans if span.name == name]


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


class TestTheFirstAttempt:
    async def test_is_one_trace_from_the_caller_to_the_program(self, world: World, trace: Traced) -> None:
        job_id = world.submit(script(traceparent=CALLER, priority=7))
        await world.service.close()
        world.restart()  # another process goes on with the trace
        world.pass_s(90)
        await world.round()
        traceparent = world.run(job_id).order.traceparent
        world.run(job_id).say(saved(10))
        world.run(job_id).end()
        await world.settle()
        submit, schedule, run, settle = (trace.span(name) for name in CONTROLLERS)
        assert {format_trace_id(one.context.trace_id) for one in (submit, schedule, run, settle) if one.context} == {
            "a" * 32
        }
        assert [parent_of(one) for one in (submit, schedule, run, settle)] == [
            0xBBBBBBBBBBBBBBBB,
            id_of(submit),
            id_of(schedule),
            id_of(run),
        ]
        assert traceparent == f"00-{'a' * 32}-{id_of(run):016x}-01"
        kinds = [SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CONSUMER, SpanKind.CLIENT]
        assert [one.kind for one in (submit, schedule, run, settle)] == kinds

    async def test_tells_what_was_asked_how_long_it_waited_and_where_it_ran(self, world: World, trace: Traced) -> None:
        job_id = world.submit(script(priority=7))
        world.pass_s(90)
        await world.round()
        world.run(job_id).say(saved(10))
        world.service.device_fault(DEVICE, message="XID 79")
        world.run(job_id).end()
        await world.settle()
        assert trace.facts("job.submit") == {
            names.MESSAGING_OPERATION: "send",
            names.JOB_ID: job_id,
            names.JOB_KIND: "script",
            names.JOB_PRIORITY: 7,
        }
        schedule = trace.facts("job.schedule")
        assert (schedule[names.JOB_WAIT_S], schedule[names.JOB_DEVICES]) == (90.0, (DEVICE,))
        assert (schedule[names.DECISION], schedule[names.JOB_ATTEMPT]) == ("placed", 1)
        assert [event.name for event in trace.span("job.run").events] == ["gpu.fault", "checkpoint.saved"]
        assert trace.facts("job.settle") == {names.JOB_RESULT: "succeeded"}

    async def test_holds_the_placer_s_own_spans(self, world: World, trace: Traced) -> None:
        def placing(_: object) -> None:
            with operation(names.PLACEMENT_SPAN, exporting=trace.exporting):
                pass

        world.placer.during = placing
        job_id = world.submit()
        await world.round()
        world.run(job_id).end()
        await world.settle()
        assert parent_of(trace.span(names.PLACEMENT_SPAN)) == id_of(trace.span("job.schedule"))


class TestLaterAttempts:
    async def test_are_traces_of_their_own_that_link_to_the_run_before(self, world: World, trace: Traced) -> None:
        job_id = world.submit()
        await world.round()
        world.service.preempt(job_id, message="hot")
        await world.settle()
        await world.round()
        world.run(job_id).end()
        await world.settle()
        first, second = all_named(trace, "job.run")
        _, again = all_named(trace, "job.schedule")
        assert again.parent is None
        assert [link.context.span_id for link in again.links] == [id_of(first), id_of(trace.span("job.submit"))]
        assert parent_of(second) == id_of(again)
        assert [event.name for event in first.events] == ["preempted"]
        assert first.status.status_code is StatusCode.UNSET

    async def test_show_what_failed_before_them(self, world: World, trace: Traced) -> None:
        job_id = world.submit()
        await world.round()
        world.run(job_id).end(EXITED)
        await world.settle()
        run = trace.span("job.run")
        assert run.status.status_code is StatusCode.ERROR
        assert (trace.facts("job.run")[names.ERROR_TYPE]) == "exited"
        await world.service.close()


class TestMetrics:
    def totals(self, recorder: Recorder) -> dict[tuple[str, tuple[str, ...]], float]:
        (delta,) = recorder.drain()
        counts = {key: float(sum(totals.counts)) for key, totals in delta.histograms.items()}
        return {**delta.counters, **delta.gauges, **counts}

    async def test_count_each_job_once_by_kind_and_result(self, tmp_path: Path) -> None:
        recorder = Recorder("test")
        world = World(tmp_path / "state.sqlite", metrics=JobMetrics(recorder))
        first, second = world.submit(), world.submit()
        await world.round()
        world.service.preempt(first, message="hot")
        world.run(second).end()
        await world.settle()
        world.service.record()
        found = self.totals(recorder)
        assert found[names.JOBS_SUBMITTED.name, ("script",)] == 2
        assert found[names.JOBS_SCHEDULED.name, ("script",)] == 2
        assert found[names.JOB_WAIT.name, ("script",)] == 2
        assert found[names.JOB_PREEMPTIONS.name, ("script",)] == 1
        assert found[names.JOBS_FINISHED.name, ("script", "succeeded")] == 1
        assert found[names.JOB_RUN.name, ("script", "requeued")] == 1
        assert found[names.JOBS.name, ("script", "queued")] == 1
        await world.service.close()

    def test_begin_at_zero_for_every_kind(self) -> None:
        recorder = Recorder("test")
        JobMetrics(recorder)
        found = self.totals(recorder)
        for kind in names.JOB_KINDS:
            assert found[names.JOBS_SUBMITTED.name, (kind,)] == 0
            assert found[names.JOBS_FINISHED.name, (kind, "failed")] == 0
            assert found[names.JOBS.name, (kind, "running")] == 0

    async def test_of_a_training_are_live_and_go_with_it(self, tmp_path: Path) -> None:
        recorder = Recorder("test")
        world = World(tmp_path / "state.sqlite", metrics=JobMetrics(recorder))
        job_id = world.submit()
        await world.round()
        world.run(job_id).say(progress(4, loss=2.0, reward_average=0.5, other=1.0))
        await world.settle()
        world.service.record()
        found = self.totals(recorder)
        labels = ("script", "none")
        assert found[names.TRAINING_LOSS.name, labels] == 2.0
        assert found[names.TRAINING_REWARD_AVERAGE.name, labels] == 0.5
        assert found[names.TRAINING_STEP.name, labels] == 4
        world.run(job_id).end()
        await world.settle()
        world.service.record()
        assert (names.TRAINING_LOSS.name, labels) not in self.totals(recorder)
