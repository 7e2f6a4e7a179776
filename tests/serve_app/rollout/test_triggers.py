"""Row C7 as a table."""

from __future__ import annotations

import pytest

from serve_app.rollout.triggers import (
    TRIGGERS,
    Signals,
    Traffic,
    TriggerKind,
    answer_triggers,
    health_triggers,
    quality_trigger,
)

K = TriggerKind


def seen(signals: Signals, *, is_observing: bool = True) -> list[TriggerKind]:
    return [one.kind for one in health_triggers(signals, is_observing=is_observing)]


class TestTimes:
    @pytest.mark.parametrize(
        ("kind", "minutes", "severity"),
        [
            (K.DEVICE_FAILURE, 2, "critical"),
            (K.LOAD_FAILURE, 5, "high"),
            (K.QUALITY_WORSE, 15, "medium"),
            (K.LATENCY_WORSE, 15, "medium"),
            (K.NODE_UNREACHABLE, 5, "high"),
        ],
    )
    def test_are_those_of_the_row(self, kind: TriggerKind, minutes: int, severity: str) -> None:
        assert (TRIGGERS[kind].within_s, TRIGGERS[kind].severity) == (60 * minutes, severity)

    def test_no_kind_is_without_a_rule(self) -> None:
        assert set(TRIGGERS) == set(TriggerKind)


class TestHealth:
    @pytest.mark.parametrize(
        ("signals", "kind"),
        [
            (Signals(failed_devices=("n/gpu-0",)), K.DEVICE_FAILURE),
            (Signals(failed_loads=("r",)), K.LOAD_FAILURE),
            (Signals(unreachable_nodes=("n",)), K.NODE_UNREACHABLE),
            (Signals(dead_workers=("r",)), K.WORKER_DEAD),
            (Signals(temperature_c={"d": 90.1}), K.TEMPERATURE_HIGH),
        ],
    )
    def test_fault_is_a_trigger_at_any_time(self, signals: Signals, kind: TriggerKind) -> None:
        assert seen(signals) == seen(signals, is_observing=False) == [kind]

    def test_memory_over_95_percent_counts_only_while_observing(self) -> None:
        signals = Signals(memory_ratio={"d": 0.96})
        assert seen(signals) == [K.MEMORY_HIGH]
        assert seen(signals, is_observing=False) == []

    def test_memory_over_98_percent_counts_always_and_first(self) -> None:
        signals = Signals(memory_ratio={"d": 0.99})
        assert seen(signals) == [K.MEMORY_CRITICAL, K.MEMORY_HIGH]
        assert seen(signals, is_observing=False) == [K.MEMORY_CRITICAL]

    def test_a_figure_at_its_limit_is_none(self) -> None:
        assert seen(Signals(memory_ratio={"d": 0.95}, temperature_c={"d": 90.0})) == []

    def test_the_most_urgent_is_first(self) -> None:
        signals = Signals(failed_loads=("r",), failed_devices=("d",), memory_ratio={"d": 0.96})
        severities = [one.rule.within_s for one in health_triggers(signals, is_observing=True)]
        assert severities == sorted(severities)


class TestAnswers:
    def test_a_fifth_worse_is_allowed_and_more_is_not(self) -> None:
        before = Traffic(num_requests=100, latency_s=1.0, accuracy=0.5)
        assert answer_triggers(before, Traffic(num_requests=100, latency_s=1.2, accuracy=0.4)) == ()
        worse = answer_triggers(before, Traffic(num_requests=100, latency_s=1.21, accuracy=0.39))
        assert [one.kind for one in worse] == [K.QUALITY_WORSE, K.LATENCY_WORSE]

    def test_too_few_answers_say_nothing(self) -> None:
        before = Traffic(num_requests=100, latency_s=1.0)
        assert answer_triggers(before, Traffic(num_requests=29, num_errors=29, latency_s=9.0)) == ()

    def test_errors_of_both_versions_are_not_the_new_ones_fault(self) -> None:
        now = Traffic(num_requests=100, num_errors=10)
        assert answer_triggers(Traffic(num_requests=100, num_errors=10), now) == ()
        assert [one.kind for one in answer_triggers(Traffic(num_requests=100), now)] == [K.ERRORS_WORSE]

    def test_what_was_not_measured_is_no_trigger(self) -> None:
        assert quality_trigger(None, 0.1) is None
        assert quality_trigger(0.9, None) is None
