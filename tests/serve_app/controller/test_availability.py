"""Which answers count for availability, and that each counts once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.errors import Outcome
from serve_app.controller.availability import BAD, GOOD, Answered, Availability
from tracing import names
from tracing.metrics import Delta, Recorder


class Gateway:
    """One process that answers requests and reports them."""

    def __init__(self) -> None:
        self.recorder = Recorder("gateway")

    def answers(self, outcome: Outcome, count: int = 1, *, mode: str = "fast", model: str = "mini") -> None:
        self.recorder.counter(names.INFERENCE_REQUESTS, mode, model, outcome.value).inc(count)

    def report(self) -> tuple[Delta, ...]:
        return self.recorder.drain()


def answered(good: int, total: int) -> Answered:
    return Answered(num_good=good, num_total=total)


class TestAvailability:
    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [
            (Outcome.SUCCESS, answered(1, 1)),
            (Outcome.ERROR, answered(0, 1)),
            (Outcome.TIMEOUT, answered(0, 1)),
            (Outcome.CANCELLED, answered(0, 0)),
            (Outcome.REJECTED, answered(0, 0)),
        ],
    )
    def test_counts_what_we_did_and_not_what_the_caller_did(self, outcome: Outcome, expected: Answered) -> None:
        gateway = Gateway()
        gateway.answers(outcome)
        assert Availability().saw(gateway.report()) == expected

    def test_counts_every_mode_and_model(self) -> None:
        gateway = Gateway()
        gateway.answers(Outcome.SUCCESS, mode="fast", model="mini")
        gateway.answers(Outcome.SUCCESS, mode="none", model="base")
        gateway.answers(Outcome.ERROR, mode="none", model="none")
        assert Availability().saw(gateway.report()) == answered(2, 3)

    def test_counts_another_process_on_its_own(self) -> None:
        of, before, after = Availability(), Gateway(), Gateway()
        before.answers(Outcome.SUCCESS, 7)
        after.answers(Outcome.SUCCESS, 5)
        assert of.saw(before.report()) == answered(7, 7)
        assert of.saw(after.report()) == answered(5, 5)

    def test_does_not_count_again_what_was_told_to_the_controller_before(self) -> None:
        gateway = Gateway()
        gateway.answers(Outcome.SUCCESS, 7)
        Availability().saw(gateway.report())
        restarted = Availability()
        assert restarted.saw(gateway.report()) == answered(0, 0)
        gateway.answers(Outcome.TIMEOUT)
        assert restarted.saw(gateway.report()) == answered(0, 1)

    def test_forgets_the_source_that_was_silent_for_longest_and_counts_it_never_twice(self) -> None:
        of, first, second, third = Availability(max_sources=2), Gateway(), Gateway(), Gateway()
        for gateway in (first, second):
            gateway.answers(Outcome.SUCCESS)
            of.saw(gateway.report())
        of.saw(first.report())
        of.saw(third.report())
        second.answers(Outcome.SUCCESS)
        assert of.saw(second.report()) == answered(0, 0)
        second.answers(Outcome.SUCCESS)
        assert of.saw(second.report()) == answered(1, 1)

    @given(
        outcomes=st.lists(st.sampled_from(Outcome), min_size=1, max_size=30),
        seed=st.integers(0, 2**16),
        num_repeats=st.integers(1, 3),
    )
    def test_counts_each_answer_once_however_reports_are_lost_repeated_and_late(
        self, outcomes: list[Outcome], seed: int, num_repeats: int
    ) -> None:
        """The first report arrives first; of the others only the last must arrive at all."""
        gateway, chance = Gateway(), random.Random(seed)
        reports = [gateway.report()]
        for outcome in outcomes:
            gateway.answers(outcome)
            reports.append(gateway.report())
        sent = [reports[-1], *(report for report in reports if chance.random() < 0.5)] * num_repeats
        chance.shuffle(sent)
        of = Availability()
        seen = sum((of.saw(report) for report in [reports[0], *sent]), Answered())
        num_good = sum(outcome.value in GOOD for outcome in outcomes)
        assert seen == answered(num_good, num_good + sum(outcome.value in BAD for outcome in outcomes))
