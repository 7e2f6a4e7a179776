"""Who rests, who is idle and who may be put to sleep."""

from __future__ import annotations

from dataclasses import replace

from serve_app.config.settings import ModelSettings
from serve_app.controller.lifecycle import Lifecycle, LifecycleState, Rest, RestKind, awake
from serve_app.gateway.standalone import standalone_settings
from tracing import names
from tracing.metrics import Recorder

LOW, MIDDLE, HIGH = (
    replace(model, priority=priority)
    for model, priority in zip(standalone_settings(["low", "middle", "high"]).models, (1, 2, 3), strict=True)
)
MODELS = (HIGH, MIDDLE, LOW)
ASLEEP = Rest(kind=RestKind.ASLEEP, reason="test")


def lifecycle(*resting: str) -> Lifecycle:
    return Lifecycle(LifecycleState(resting=dict.fromkeys(resting, ASLEEP)), now_s=0.0)


def may_sleep(of: Lifecycle, *, now_s: float, models: tuple[ModelSettings, ...] = MODELS) -> list[str]:
    return [model.id for model in of.may_sleep(models, now_s=now_s, idle_after_s=600.0)]


class TestIdle:
    def test_counts_from_the_last_use_and_from_the_start_where_there_was_none(self) -> None:
        of = lifecycle()
        of.used("low", now_s=40.0)
        assert (of.idle_s("low", now_s=100.0), of.idle_s("high", now_s=100.0)) == (60.0, 100.0)

    def test_a_counted_request_is_a_use_once(self) -> None:
        of, recorder = lifecycle(), Recorder("gateway")
        recorder.counter(names.INFERENCE_REQUESTS, "none", "low", "success").inc()
        of.saw(recorder.drain(), now_s=50.0)
        of.saw(recorder.drain(), now_s=90.0)
        assert of.idle_s("low", now_s=100.0) == 50.0

    def test_every_outcome_and_mode_of_a_model_counts(self) -> None:
        of, recorder = lifecycle(), Recorder("gateway")
        for mode, outcome in (("fast", "success"), ("none", "error")):
            recorder.counter(names.INFERENCE_REQUESTS, mode, "low", outcome).inc()
            of.saw(recorder.drain(), now_s=50.0 if mode == "fast" else 80.0)
        assert of.idle_s("low", now_s=100.0) == 20.0

    def test_a_request_that_is_still_answered_is_a_use_now(self) -> None:
        of, recorder = lifecycle(), Recorder("gateway")
        recorder.gauge(names.REQUESTS_IN_FLIGHT, "low").inc()
        for now_s in (10.0, 700.0):
            of.saw(recorder.drain(), now_s=now_s)
        assert of.idle_s("low", now_s=700.0) == 0.0

    def test_a_gateway_that_starts_anew_counts_anew(self) -> None:
        of = lifecycle()
        for source, now_s in (("one", 10.0), ("two", 500.0)):
            recorder = Recorder(source)
            recorder.counter(names.INFERENCE_REQUESTS, "none", "low", "success").inc(7.0)
            of.saw(recorder.drain(), now_s=now_s)
        assert of.idle_s("low", now_s=500.0) == 0.0


class TestMaySleep:
    def test_lowest_priority_first_then_longest_idle(self) -> None:
        of = lifecycle()
        of.used("low", now_s=30.0)
        twin = replace(LOW, id="twin")
        assert may_sleep(of, now_s=700.0, models=(*MODELS, twin)) == ["twin", "low", "middle", "high"]

    def test_not_before_ten_idle_minutes(self) -> None:
        of = lifecycle()
        of.used("low", now_s=100.0)
        assert "low" not in may_sleep(of, now_s=699.9)
        assert "low" in may_sleep(of, now_s=700.0)

    def test_never_a_pinned_one_whether_by_file_or_by_hand(self) -> None:
        of = lifecycle()
        of.pin("high", pinned=True)
        assert may_sleep(of, now_s=700.0, models=(HIGH, replace(MIDDLE, pinned=True), LOW)) == ["low"]

    def test_what_was_said_by_hand_goes_before_the_file(self) -> None:
        of = lifecycle()
        of.pin("middle", pinned=False)
        assert may_sleep(of, now_s=700.0, models=(replace(MIDDLE, pinned=True),)) == ["middle"]

    def test_not_one_that_rests_already(self) -> None:
        assert may_sleep(lifecycle("low", "high"), now_s=700.0) == ["middle"]


class TestAwake:
    def test_are_those_that_do_not_rest(self) -> None:
        assert awake(MODELS, {"middle": ASLEEP}) == (HIGH, LOW)
