"""What weights say is remembered where it was proved, and whatever starts later is held against it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from serve_app.controller.claims import Slot, Weights
from serve_app.controller.words import MAX_KEPT, Words
from serve_app.engines.fingerprint import Fingerprint, Trace
from tests.serve_app.controller.test_ledger import slot

MINI = slot("mini#0")
ELSEWHERE = replace(MINI, node="other")


def saying(word: str) -> Fingerprint:
    return Fingerprint(traces=(Trace(prompt="p", tokens=(word,), logprobs=(-0.25,), leads=(1.5,)),))


def with_version(base: Slot, version: str) -> Slot:
    return replace(base, weights=Weights(path=base.weights.path, version=version, step=None))


@pytest.fixture
def words() -> Words:
    return Words(sqlite3.connect(":memory:", isolation_level=None))


class TestWords:
    def test_are_unknown_before_anybody_said_any(self, words: Words) -> None:
        assert words.of(MINI) is None

    def test_of_a_first_start_hold_on_its_node_and_on_no_other(self, words: Words) -> None:
        words.believe(MINI, saying("a"))
        assert (words.of(MINI), words.of(ELSEWHERE)) == (saying("a"), None)

    def test_of_a_later_start_change_nothing(self, words: Words) -> None:
        words.believe(MINI, saying("a"))
        words.believe(MINI, saying("garbage"))
        assert words.of(MINI) == saying("a")

    def test_of_a_commit_hold_everywhere_and_go_before_what_was_believed(self, words: Words) -> None:
        words.believe(MINI, saying("garbage"))
        words.committed([MINI], saying("a"))
        assert (words.of(MINI), words.of(ELSEWHERE)) == (saying("a"), saying("a"))
        words.believe(ELSEWHERE, saying("garbage"))
        assert words.of(ELSEWHERE) == saying("a")

    def test_of_a_candidate_are_not_believed(self, words: Words) -> None:
        words.believe(replace(MINI, is_candidate=True), saying("garbage"))
        assert words.of(MINI) is None

    @pytest.mark.parametrize(
        "other",
        [
            with_version(MINI, "v9"),
            replace(MINI, model="base"),
            replace(MINI, arguments=replace(MINI.arguments, dtype="bfloat16")),
            replace(MINI, arguments=replace(MINI.arguments, tensor_parallel=2)),
        ],
        ids=["weights", "model", "type", "devices"],
    )
    def test_are_of_one_model_one_version_and_one_setup(self, words: Words, other: Slot) -> None:
        words.committed([MINI], saying("a"))
        assert words.of(other) is None

    def test_are_forgotten_when_a_person_says_so(self, words: Words) -> None:
        words.committed([MINI], saying("a"))
        words.forget("mini")
        assert words.of(MINI) is None

    def test_are_kept_up_to_a_limit_the_newest_of_them(self, words: Words) -> None:
        for number in range(MAX_KEPT + 5):
            words.believe(with_version(MINI, f"v{number}"), saying("a"))
        assert words.of(with_version(MINI, "v4")) is None
        assert words.of(with_version(MINI, "v5")) == saying("a")
