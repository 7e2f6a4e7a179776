"""When two fingerprints are of the same weights."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.fingerprint import TOLERANCE, Fingerprint, Trace, difference

TIE = math.log(0.45)
SURE = math.log(0.9)


def said(*tokens: tuple[str, float], leads: tuple[float, ...] = ()) -> Fingerprint:
    trace = Trace(prompt="p", tokens=tuple(one for one, _ in tokens), logprobs=tuple(n for _, n in tokens), leads=leads)
    return Fingerprint(traces=(trace,))


class TestDifference:
    def test_none_where_sums_differ_by_their_order(self) -> None:
        assert difference(said(("a", SURE)), said(("a", SURE - TOLERANCE / 2))) == ""

    def test_where_the_same_token_is_less_likely(self) -> None:
        assert "'a' at" in difference(said(("a", SURE)), said(("a", SURE - 2 * TOLERANCE)))

    def test_where_another_token_is_as_likely_as_only_one_can_be(self) -> None:
        assert "expected 'a'" in difference(said(("a", SURE)), said(("b", SURE)))

    def test_none_where_two_tokens_were_about_equally_likely_and_what_follows_is_not_compared(self) -> None:
        assert difference(said(("a", TIE), ("x", SURE)), said(("b", TIE), ("y", SURE))) == ""

    @pytest.mark.parametrize(("expected", "found"), [(2.0, 0.01), (0.01, 2.0)])
    def test_where_one_of_both_was_sure_of_its_token_though_it_was_unlikely(
        self, expected: float, found: float
    ) -> None:
        assert difference(said(("a", -1.5), leads=(expected,)), said(("b", -1.5), leads=(found,)))

    def test_none_where_both_were_unsure(self) -> None:
        assert difference(said(("a", -1.5), leads=(0.01,)), said(("b", -1.5), leads=(0.02,))) == ""

    @pytest.mark.parametrize("found", [said(("a", SURE)), said(("a", SURE), ("b", SURE), ("c", SURE))])
    def test_where_an_answer_is_shorter_or_longer(self, found: Fingerprint) -> None:
        assert "tokens" in difference(said(("a", SURE), ("b", SURE)), found)

    def test_where_a_log_probability_is_no_number(self) -> None:
        assert difference(said(("a", SURE)), said(("a", math.nan)))

    @given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(-5.0, 0.0)), min_size=1, max_size=4), st.data())
    def test_another_token_that_is_likelier_than_a_half_never_passes(
        self, tokens: list[tuple[str, float]], data: st.DataObject
    ) -> None:
        """Fails when a different token of the same log-probability is taken for a tie."""
        likely = data.draw(st.floats(math.log(0.5) + 2 * TOLERANCE, 0.0))
        assert difference(said(*tokens, ("a", likely)), said(*tokens, ("b", likely)))
