"""When one checkpoint is better than another beyond noise, and the order of many."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.compare.interval import chance_interval, difference
from serve_app.compare.score import CheckpointScore
from serve_app.compare.verdict import Outcome, judge, ranked
from tests.serve_app.compare.builders import score

marks = st.lists(st.booleans(), min_size=1, max_size=80).map(tuple)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


def two_sided_p(num_won: int, num_lost: int) -> float:
    """McNemar's exact test, by counting."""
    tried = num_won + num_lost
    tail = sum(math.comb(tried, won) for won in range(max(num_won, num_lost), tried + 1))
    return min(1.0, float(2 * tail / 2**tried))


def changed(won: int, lost: int, same: int) -> tuple[CheckpointScore, CheckpointScore]:
    new = score("+" * won + "-" * lost + "+" * same, version="b" * 12, step=2)
    return new, score("-" * won + "+" * lost + "+" * same)


class TestDifference:
    @given(pairs)
    def test_the_interval_holds_what_was_seen(self, answers: list[tuple[bool, bool]]) -> None:
        found = difference(*map(tuple, zip(*answers, strict=True)))
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9

    @given(pairs)
    def test_the_other_way_round_it_is_mirrored(self, answers: list[tuple[bool, bool]]) -> None:
        new, old = (tuple(side) for side in zip(*answers, strict=True))
        there, back = difference(new, old), difference(old, new)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))

    @given(st.integers(0, 40), st.integers(0, 40))
    def test_it_excludes_zero_exactly_when_mcnemars_test_does(self, won: int, lost: int) -> None:
        new, old = changed(won, lost, 10)
        found = difference(new.right, old.right)
        assert (found.low > 0 or found.high < 0) is (two_sided_p(won, lost) < 0.05)

    @pytest.mark.parametrize(
        ("won", "tried", "low", "high"), [(0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0)]
    )
    def test_its_chance_is_clopper_and_pearsons(self, won: int, tried: int, low: float, high: float) -> None:
        assert chance_interval(won, tried) == pytest.approx((low, high), abs=1e-4)


class TestVerdict:
    @given(marks)
    def test_nothing_is_better_than_itself(self, right: tuple[bool, ...]) -> None:
        one = replace(score("+"), right=right)
        assert judge(one, one).outcome is Outcome.NO_DIFFERENCE

    @given(pairs)
    def test_two_are_never_both_better(self, answers: list[tuple[bool, bool]]) -> None:
        new, old = (replace(score("+"), right=tuple(side)) for side in zip(*answers, strict=True))
        outcomes = [judge(new, old).outcome, judge(old, new).outcome]
        assert sorted(outcomes) in (
            [Outcome.BETTER, Outcome.WORSE],
            [Outcome.NO_DIFFERENCE, Outcome.NO_DIFFERENCE],
        )

    @pytest.mark.parametrize(
        ("won", "lost", "outcome"),
        [
            (6, 0, Outcome.BETTER),
            (5, 0, Outcome.NO_DIFFERENCE),
            (23, 10, Outcome.BETTER),
            (22, 10, Outcome.NO_DIFFERENCE),
            (0, 6, Outcome.WORSE),
        ],
    )
    def test_of_320_so_many_must_change(self, won: int, lost: int, outcome: Outcome) -> None:
        assert judge(*changed(won, lost, 320 - won - lost)).outcome is outcome

    @pytest.mark.parametrize("worse", [{"loss": 0.56}, {"loss": None}, {"format_share": 0.97}, {"latency_s": 0.29}])
    def test_what_is_worse_in_something_else_is_not_rolled_out(self, worse: dict[str, float | None]) -> None:
        new, old = changed(20, 0, 300)
        spoilt = replace(new, **worse)  # type: ignore[arg-type]
        assert judge(spoilt, old).outcome is Outcome.MIXED
        assert judge(replace(old, **worse), old).outcome is Outcome.WORSE  # type: ignore[arg-type]

    @pytest.mark.parametrize("near", [{"loss": 0.549}, {"format_share": 0.98}, {"latency_s": 0.27}])
    def test_within_its_tolerance_nothing_is_worse(self, near: dict[str, float]) -> None:
        new, old = changed(20, 0, 300)
        assert judge(replace(new, **near), old).outcome is Outcome.BETTER  # type: ignore[arg-type]

    def test_other_questions_cannot_be_compared(self) -> None:
        assert judge(score("++", test_set="a"), score("--", test_set="b")).outcome is Outcome.INCOMPARABLE
        assert judge(score("++"), score("-")).outcome is Outcome.INCOMPARABLE

    def test_its_sentence_says_what_to_do_and_why(self) -> None:
        sentence = judge(*changed(20, 3, 297)).sentence
        assert sentence.startswith("Better: roll out step 2 (bbbbbbbbbbbb) over step 1 (aaaaaaaaaaaa).")
        assert "20 of 320 won, 3 lost" in sentence


class TestRanking:
    scores = st.lists(
        st.builds(
            lambda right, loss, step: replace(score("+"), right=tuple(right), loss=loss, step=step),
            st.lists(st.booleans(), min_size=4, max_size=4),
            st.sampled_from([None, 0.1, 0.2]),
            st.integers(0, 5),
        ),
        max_size=8,
    ).map(lambda found: [replace(one, weights_version=f"{place:012x}") for place, one in enumerate(found)])

    @given(scores.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
    def test_its_order_does_not_depend_on_the_order_of_finding(
        self, found: tuple[list[CheckpointScore], list[CheckpointScore]]
    ) -> None:
        assert ranked(found[0]) == ranked(found[1])

    @given(scores)
    def test_nobody_stands_behind_one_with_less_accuracy(self, scores: list[CheckpointScore]) -> None:
        accuracies = [one.accuracy for one in ranked(scores)]
        assert accuracies == sorted(accuracies, reverse=True)
