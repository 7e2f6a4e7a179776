from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.training.calibration import (
    COLDEST,
    HOTTEST,
    Judged,
    bins,
    calibrate,
    calibration_error,
    confidence_of,
    fit_temperature,
    surprise,
    tempered,
)

ANSWERS = st.lists(
    st.builds(lambda sure, right: Judged(confidence=sure, right=right), st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=60,
)


def too_sure(num: int, *, seed: int = 0) -> list[Judged]:
    """Right with probability p, but sure as if its logit were three times as large."""
    rng = Random(seed)
    made = []
    for _ in range(num):
        real = rng.uniform(0.05, 0.95)
        made.append(Judged(confidence=tempered(real, 1 / 3), right=rng.random() < real))
    return made


class TestCalibrationError:
    def test_a_model_as_sure_as_right_has_none(self) -> None:
        answers = [Judged(confidence=0.75, right=index % 4 > 0) for index in range(100)]
        assert calibration_error(answers) == pytest.approx(0.0)

    def test_one_that_is_sure_and_wrong_has_all(self) -> None:
        assert calibration_error([Judged(confidence=1.0, right=False)] * 5) == 1.0

    @given(answers=ANSWERS)
    def test_it_lies_between_none_and_all_and_its_bins_hold_every_answer(self, answers: list[Judged]) -> None:
        assert 0 <= calibration_error(answers) <= 1
        assert sum(one.num_answers for one in bins(answers)) == len(answers)

    def test_nothing_asked_is_no_error(self) -> None:
        assert calibration_error([]) == 0.0


class TestTemperature:
    @given(answers=ANSWERS)
    def test_it_is_bounded_and_never_makes_what_happened_less_likely(self, answers: list[Judged]) -> None:
        temperature = fit_temperature(answers)
        assert COLDEST <= temperature <= HOTTEST
        assert surprise(answers, temperature=temperature) <= surprise(answers, temperature=1.0) + 1e-6

    def test_it_finds_how_much_too_sure_a_model_is(self) -> None:
        assert fit_temperature(too_sure(4000)) == pytest.approx(3.0, rel=0.15)

    def test_it_mends_answers_it_has_not_seen(self) -> None:
        found = calibrate(too_sure(2000))
        assert found.num_measured == 1000
        assert found.calibrated_error < 0.5 * found.raw_error

    @given(one=st.floats(0, 1), two=st.floats(0, 1), temperature=st.floats(COLDEST, HOTTEST))
    def test_it_keeps_the_order_of_answers(self, one: float, two: float, temperature: float) -> None:
        assert one > two or tempered(one, temperature) <= tempered(two, temperature)


class TestConfidence:
    def test_it_is_the_mean_of_the_tokens(self) -> None:
        assert confidence_of([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)

    def test_an_empty_answer_is_not_sure_of_anything(self) -> None:
        assert confidence_of([]) == 0.0
