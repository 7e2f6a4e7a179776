from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.training.tasks import (
    TEST_TASKS_PER_KIND,
    TRAINING_SHARES,
    Task,
    TaskKind,
    draw,
    grade,
    held_out_tasks,
    is_held_out,
    training_tasks,
)

SUBJECTS = {task.subject for task in held_out_tasks()}
PROMPTS = {task.prompt for task in held_out_tasks()}
SOLVED = {
    "Repeat the word: planet": "planet",
    "Write in capitals: planet": "PLANET",
    "Last letter of the word: planet": "t",
    "Count the letters: planet": "6",
    "Reverse the word: planet": "tenalp",
    "Which is larger: 45 or 7?": "45",
    "What comes after 199?": "200",
    "What is 97 + 8?": "105",
}


def solve(prompt: str) -> str:
    """A second opinion, from the text alone."""
    last = prompt.split()[-1].rstrip("?")
    numbers = [int(word.rstrip("?")) for word in prompt.split() if word.rstrip("?").isdigit()]
    first = prompt.split()[0]
    if "+" in prompt:
        return str(sum(numbers))
    if first == "Which":
        return str(max(numbers))
    if first == "What":
        return str(numbers[0] + 1)
    words = {"Repeat": last, "Write": last.upper(), "Last": last[-1], "Count": str(len(last)), "Reverse": last[::-1]}
    return words[first]


class TestTasks:
    def test_a_second_opinion_knows_the_examples(self) -> None:
        assert {prompt: solve(prompt) for prompt in SOLVED} == SOLVED

    @given(kind=st.sampled_from(TaskKind), seed=st.integers())
    def test_every_answer_is_the_right_one(self, kind: TaskKind, seed: int) -> None:
        task = draw(kind, Random(seed))
        assert task.answer == solve(task.prompt)

    def test_the_same_seed_gives_the_same_tasks(self) -> None:
        assert list(islice(training_tasks(7), 200)) == list(islice(training_tasks(7), 200))

    def test_another_seed_gives_others(self) -> None:
        assert list(islice(training_tasks(7), 200)) != list(islice(training_tasks(8), 200))

    def test_every_kind_is_trained_on(self) -> None:
        assert set(TRAINING_SHARES) == set(TaskKind)
        assert {task.kind for task in islice(training_tasks(0), 2000)} == set(TaskKind)


class TestTheTestSet:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers())
    def test_nothing_in_it_is_ever_trained_on(self, seed: int) -> None:
        for task in islice(training_tasks(seed), 300):
            assert task.subject not in SUBJECTS
            assert task.prompt not in PROMPTS

    def test_a_sum_is_not_learned_with_its_numbers_exchanged(self) -> None:
        one = Task(kind=TaskKind.SUM, prompt="What is 12 + 7?", answer="19", subject="numbers 7 12")
        sums = [task for task in islice(training_tasks(0), 5000) if task.kind is TaskKind.SUM]
        assert one.subject in {task.subject for task in sums} or is_held_out(one.subject)
        assert all(task.subject.split()[1:] == sorted(task.subject.split()[1:], key=int) for task in sums)

    def test_it_is_the_same_each_time_and_nothing_is_asked_twice(self) -> None:
        assert held_out_tasks() == held_out_tasks()
        assert len({task.prompt for task in held_out_tasks()}) == len(held_out_tasks())

    def test_kinds_take_turns_so_that_its_beginning_is_balanced(self) -> None:
        beginning = held_out_tasks()[: 3 * len(TaskKind)]
        assert Counter(task.kind for task in beginning) == dict.fromkeys(TaskKind, 3)
        assert Counter(task.kind for task in held_out_tasks()) == dict.fromkeys(TaskKind, TEST_TASKS_PER_KIND)


class TestGrading:
    task = Task(kind=TaskKind.SUM, prompt="What is 3 + 4?", answer="7", subject="numbers 3 4")

    @pytest.mark.parametrize("text", ["7", " 7\n"])
    def test_the_answer_counts_with_white_space_around_it(self, text: str) -> None:
        assert grade(self.task, text)

    @pytest.mark.parametrize("text", ["", "8", "7.", "77", "The answer is 7", "7 7", "seven"])
    def test_nothing_else_counts(self, text: str) -> None:
        assert not grade(self.task, text)
