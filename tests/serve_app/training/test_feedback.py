from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.training.curriculum import EVEN, LEAST_WEIGHT, MOST_WEIGHT, Tally, weigh, weighted_tasks
from serve_app.training.feedback import (
    MOST_LINES,
    add_feedback,
    count_failures,
    feedback_path,
    read_feedback,
    tallies_since,
)
from serve_app.training.self_correction import AGAIN, Message, measure_self_correction
from serve_app.training.tasks import Task, TaskKind, held_out_tasks, is_held_out, training_tasks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TESTS = held_out_tasks()
SUBJECTS = {task.subject for task in TESTS}
RESULTS = st.lists(st.booleans(), min_size=len(TESTS), max_size=len(TESTS))


def tally(kind: TaskKind, *, failed: int, asked: int = 40, level: int = 4) -> Tally:
    return Tally(kind=kind, difficulty=level, num_asked=asked, num_failed=failed)


class TestCurriculum:
    @settings(max_examples=25, deadline=None)
    @given(right=RESULTS, seed=st.integers(0, 1 << 32))
    def test_whatever_failed_nothing_of_the_test_set_is_ever_trained_on(self, right: list[bool], seed: int) -> None:
        curriculum = weigh(count_failures(zip(TESTS, right, strict=True)))
        for task in islice(weighted_tasks(seed, curriculum), 300):
            assert task.subject not in SUBJECTS
            assert not is_held_out(task.subject)

    @given(right=RESULTS)
    def test_weights_stay_inside_their_bounds(self, right: list[bool]) -> None:
        weights = weigh(count_failures(zip(TESTS, right, strict=True))).weights
        assert all(LEAST_WEIGHT <= weight <= MOST_WEIGHT for weight in weights.values())

    @given(one=st.integers(0, 40), two=st.integers(0, 40))
    def test_more_failures_never_weigh_less(self, one: int, two: int) -> None:
        weights = weigh([tally(TaskKind.SUM, failed=one), tally(TaskKind.REVERSE, failed=two)]).weights
        assert one <= two or weights[TaskKind.SUM, 4] >= weights[TaskKind.REVERSE, 4]

    def test_what_failed_is_drawn_more_often(self) -> None:
        curriculum = weigh(tally(kind, failed=40 if kind is TaskKind.LARGER else 0) for kind in TaskKind)
        usual = Counter(task.kind for task in islice(training_tasks(0), 4000))
        weighted = Counter(task.kind for task in islice(weighted_tasks(0, curriculum), 4000))
        assert weighted[TaskKind.LARGER] > usual[TaskKind.LARGER]

    def test_without_failures_nothing_changes(self) -> None:
        assert weigh([]) == EVEN
        assert list(islice(weighted_tasks(3, EVEN), 500)) == list(islice(training_tasks(3), 500))


class TestTheCollection:
    def test_what_was_counted_is_read_again(self, tmp_path: Path) -> None:
        counted = count_failures((task, index % 3 > 0) for index, task in enumerate(TESTS))
        path = feedback_path(tmp_path, "mini")
        add_feedback(path, counted, weights_version="abc", tested_at=NOW)
        assert tallies_since(read_feedback(path), NOW) == counted
        assert sum(one.num_asked for one in counted) == len(TESTS)

    def test_it_holds_neither_questions_nor_subjects(self, tmp_path: Path) -> None:
        path = feedback_path(tmp_path, "mini")
        add_feedback(path, count_failures((task, False) for task in TESTS), weights_version="abc", tested_at=NOW)
        text = path.read_text()
        assert not any(task.prompt in text or task.subject in text for task in TESTS)

    def test_it_is_bounded_and_forgets_the_oldest(self, tmp_path: Path) -> None:
        path = feedback_path(tmp_path, "mini")
        for hour in (0, 1):
            lines = [tally(TaskKind.SUM, failed=1)] * (MOST_LINES - 1)
            add_feedback(path, lines, weights_version="abc", tested_at=NOW + timedelta(hours=hour))
        kept = read_feedback(path)
        assert len(kept) == MOST_LINES
        assert len(tallies_since(kept, NOW + timedelta(hours=1))) == MOST_LINES - 1

    @pytest.mark.parametrize("content", ["", "nonsense\n", '{"kind": "sum"}\n', "\x00\n"])
    def test_a_line_that_cannot_be_read_counts_as_none(self, tmp_path: Path, content: str) -> None:
        path = feedback_path(tmp_path, "mini")
        add_feedback(path, [tally(TaskKind.SUM, failed=1)], weights_version="abc", tested_at=NOW)
        path.write_text(content + path.read_text())
        assert len(read_feedback(path)) == 1


class TestSelfCorrection:
    async def test_only_wrong_answers_are_asked_again_in_a_second_turn(self) -> None:
        asked: list[list[Message]] = []

        async def ask(messages: object) -> str:
            asked.append(list(messages))  # type: ignore[call-overload]
            return TESTS[1].answer

        found = await measure_self_correction([(TESTS[0], TESTS[0].answer), (TESTS[1], "nonsense")], ask=ask)
        assert (found.num_failed, found.num_retried, found.num_corrected) == (1, 1, 1)
        (messages,) = asked
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        assert [message["content"] for message in messages] == [TESTS[1].prompt, "nonsense", AGAIN]

    async def test_a_stubborn_model_is_counted_and_the_number_of_retries_bounded(self) -> None:
        async def ask(messages: object) -> str:
            return " wrong "

        found = await measure_self_correction([(task, "wrong") for task in TESTS], ask=ask, most=5)
        assert (found.num_failed, found.num_retried, found.num_repeated) == (len(TESTS), 5, 5)
        assert found.corrected_share == 0.0

    async def test_where_nothing_was_wrong_there_is_no_share(self) -> None:
        async def ask(messages: object) -> str:
            raise AssertionError("nothing was wrong")

        found = await measure_self_correction([(task, task.answer) for task in TESTS], ask=ask)
        assert found.corrected_share is None


def test_difficulty_is_never_empty() -> None:
    made: list[Task] = list(islice(training_tasks(1), 500))
    assert {one.difficulty >= 1 for one in count_failures((task, True) for task in made)} == {True}
