"""What is counted of each weights version, so that a rollout can tell the new from the old."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.api.errors import ApiError, invalid, timed_out, unavailable
from serve_app.engines.scripted import Behaviour
from serve_app.gateway.run_terms import Report
from serve_app.gateway.version_meters import MAX_LEFT, VersionMeters
from tests.serve_app.gateway.builders import backend, chat, table
from tests.serve_app.gateway.serving import stage
from tracing import names
from tracing.collector import Collector
from tracing.metrics import Recorder


def report(failure: ApiError | None = None, *, cancelled: bool = False, asked: bool = True) -> Report:
    return Report(
        failure=failure,
        cancelled=cancelled,
        whole=failure is None,
        tokens=None,
        response_id=None,
        finish_reasons=(),
        backend=backend("mini") if asked else None,
        first_byte_s=None,
        duration_s=0.3,
        num_retries=0,
    )


def shown(recorder: Recorder) -> dict[tuple[str, ...], float]:
    """Answers by version and outcome, as the controller has them."""
    collector = Collector(version="1")
    collector.merge(recorder.drain(), now_s=0.0)
    return {labels[1:]: value for labels, value in collector.counters(names.ANSWERS).items()}


def durations(recorder: Recorder) -> dict[str, int]:
    (delta,) = recorder.drain()
    name = names.ANSWER_DURATION.name
    return {key[1][1]: sum(found.counts) for key, found in delta.histograms.items() if key[0] == name}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder("gateway")


@pytest.fixture
def meters(recorder: Recorder) -> VersionMeters:
    return VersionMeters(recorder)


class TestAVersion:
    def test_is_shown_at_0_from_the_table_that_names_it(self, recorder: Recorder, meters: VersionMeters) -> None:
        meters.expect([("mini", "new")])
        assert shown(recorder) == {("new", "success"): 0.0, ("new", "error"): 0.0, ("new", "timeout"): 0.0}
        assert durations(recorder) == {"new": 0}

    def test_that_left_lately_is_still_counted_as_itself(self, recorder: Recorder, meters: VersionMeters) -> None:
        meters.expect([("mini", "old")])
        meters.expect([("mini", "new")])
        meters.ended("mini", "old", report())
        assert shown(recorder)["old", "success"] == 1

    def test_that_left_before_many_others_is_counted_as_other(self, recorder: Recorder, meters: VersionMeters) -> None:
        for number in range(MAX_LEFT + 2):
            meters.expect([("mini", f"v{number}")])
        meters.ended("mini", "v0", report())
        meters.ended("mini", "v1", report())
        found = shown(recorder)
        assert ("v0", "success") not in found
        assert (found["other", "success"], found["v1", "success"]) == (1, 1)

    def test_that_comes_back_has_its_own_series_again(self, recorder: Recorder, meters: VersionMeters) -> None:
        for number in (*range(MAX_LEFT + 2), 0):
            meters.expect([("mini", f"v{number}")])
        meters.ended("mini", "v0", report())
        assert shown(recorder)["v0", "success"] == 1

    def test_is_never_other_while_it_serves_however_many_came_before(
        self, recorder: Recorder, meters: VersionMeters
    ) -> None:
        for number in range(10 * names.ANSWERS.max_values):
            meters.expect([("mini", f"v{number}"), ("mini", f"v{number + 1}")])
            meters.ended("mini", f"v{number + 1}", report())
        assert shown(recorder)[f"v{number + 1}", "success"] == 1
        assert len(durations(recorder)) <= MAX_LEFT + 2

    def test_of_now_is_shown_though_gateways_that_are_gone_had_all_the_places(self) -> None:
        collector, at_s = Collector(version="1"), iter(range(1000))
        for number in range(2 * names.ANSWERS.max_values):
            recorder = Recorder(f"gateway-{number}", clock=lambda: float(next(at_s)))
            recorder.counter(names.ANSWERS, "mini", f"v{number}", "success").inc()
            collector.merge(recorder.drain(), now_s=0.0)
            collector.forget(recorder.source)
        found = collector.counters(names.ANSWERS)
        assert found["mini", f"v{number}", "success"] == 1
        assert len(found) == names.ANSWERS.max_values + 1
        assert sum(found.values()) == 2 * names.ANSWERS.max_values


class TestCounted:
    @pytest.mark.parametrize(
        ("ended", "as_what"),
        [
            (report(), "success"),
            (report(unavailable("gone", code="engine_gone")), "error"),
            (report(timed_out("late", code="first_token_timeout")), "timeout"),
        ],
    )
    def test_is_each_engine_run_by_how_it_ended(
        self, recorder: Recorder, meters: VersionMeters, ended: Report, as_what: str
    ) -> None:
        meters.expect([("mini", "new")])
        meters.ended("mini", "new", ended)
        assert {outcome for (_, outcome), value in shown(recorder).items() if value} == {as_what}
        assert durations(recorder)["new"] == (1 if as_what == "success" else 0)

    @pytest.mark.parametrize(
        "ended",
        [
            report(cancelled=True),
            report(invalid("the caller's own fault")),
            report(timed_out("unread", code="client_too_slow")),
            report(timed_out("waited in the queue", code="first_token_timeout"), asked=False),
        ],
    )
    def test_is_nothing_that_says_nothing_of_the_weights(
        self, recorder: Recorder, meters: VersionMeters, ended: Report
    ) -> None:
        meters.expect([("mini", "new")])
        meters.ended("mini", "new", ended)
        assert not any(shown(recorder).values())

    async def test_is_one_for_requests_that_share_a_run_and_none_for_a_hit(self) -> None:
        async with stage("mini", token_s=0.005) as one:
            await asyncio.gather(*(one.chat(chat()) for _ in range(5)))
            assert (await one.chat(chat())).headers["x-headroom-cache"] == "hit"
            assert shown(one.recorder)["v1", "success"] == 1

    async def test_is_an_error_of_the_version_that_gave_it(self) -> None:
        async with stage("mini") as one:
            one.gateway.update(table(backend("mini", url=one.urls["mini"], version="v2"), version=2))
            one.engine.behaviour = Behaviour.ERROR_500
            assert (await one.chat(chat())).status_code >= 500
            found = shown(one.recorder)
            assert (found["v1", "error"], found["v2", "error"]) == (0, 1)
