"""The text our own models learn from: small instructions whose answers can be checked.

Pure: a seed in, tasks out. Whether a task may be trained on is decided by the digest of what it asks about,
so the test set stays unseen whatever the seed, the order or the number of tasks drawn. Knows nothing of
tokens, models or files.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import Final

TEST_TASKS_PER_KIND: Final = 40
"""Size of the whole test set: this many of each kind."""
TEST_SEED: Final = 20_240
HELD_OUT_SHARE: Final = 26
"""Of 256: the share of subjects that belong to the test set (10 %)."""
LARGEST_NUMBER: Final = 99
WORD_LETTERS: Final = (3, 6)
"""Shortest and longest word asked about."""

CONSONANTS: Final = "bcdfghjklmnpqrstvwxyz"
VOWELS: Final = "aeiou"
INSTRUCTION_WORDS: Final = (
    *("Repeat", " the", " word", "Write", " in", " capitals", "Last", " letter", " of", "Count", " letters"),
    *("Reverse", " or", "What", " comes", " after", "Which", " is", " larger", " +"),
    *("You", " are", " helpful", " assistant", "Answer", " only", " brief", " exact"),
)
"""Words of questions, answers and system prompts, with the blank before them: a tokenizer knows them whole."""
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


class TaskKind(StrEnum):
    REPEAT = "repeat"
    CAPITALS = "capitals"
    LAST_LETTER = "last-letter"
    COUNT_LETTERS = "count-letters"
    REVERSE = "reverse"
    LARGER = "larger"
    SUCCESSOR = "successor"
    SUM = "sum"


TRAINING_SHARES: Final[Mapping[TaskKind, int]] = MappingProxyType(
    {
        TaskKind.REPEAT: 2,
        TaskKind.CAPITALS: 2,
        TaskKind.LAST_LETTER: 1,
        TaskKind.COUNT_LETTERS: 1,
        TaskKind.REVERSE: 4,
        TaskKind.LARGER: 3,
        TaskKind.SUCCESSOR: 3,
        TaskKind.SUM: 5,
    }
)
"""How often each kind is trained on: more often what is harder to learn. The test set asks all alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question with its one right answer.

    `subject` is what is asked about, in one form for every kind (`word planet`, `numbers 4 37`): the test
    set and the training text share no subject.
    """

    kind: TaskKind
    prompt: str
    answer: str
    subject: str


def grade(task: Task, text: str) -> bool:
    """Whether `text` is the answer: nothing but white space around it is forgiven."""
    return text.strip() == task.answer


def is_held_out(subject: str) -> bool:
    """Whether tasks about `subject` belong to the test set and are never trained on."""
    return hashlib.sha256(subject.encode()).digest()[0] < HELD_OUT_SHARE


def difficulty(task: Task) -> int:
    """How long what it asks about is: letters of the word, or digits of the numbers together."""
    return sum(len(part) for part in task.subject.split()[1:])


def training_tasks(seed: int) -> Iterator[Task]:
    """Tasks to learn from, without end; the same for the same seed."""
    rng = Random(f"train {seed}")
    kinds, shares = tuple(TRAINING_SHARES), tuple(TRAINING_SHARES.values())
    while True:
        task = draw(rng.choices(kinds, shares)[0], rng)
        if not is_held_out(task.subject):
            yield task


def held_out_tasks(per_kind: int = TEST_TASKS_PER_KIND) -> tuple[Task, ...]:
    """The test set, the same on every machine. Kinds take turns, so that every beginning of it is balanced."""
    columns = [tuple(itertools.islice(_distinct_held_out(kind), per_kind)) for kind in TaskKind]
    return tuple(itertools.chain.from_iterable(zip(*columns, strict=True)))


def _distinct_held_out(kind: TaskKind) -> Iterator[Task]:
    rng = Random(f"test {TEST_SEED} {kind}")
    seen: set[str] = set()
    while True:
        task = draw(kind, rng)
        if is_held_out(task.subject) and task.prompt not in seen:
            seen.add(task.prompt)
            yield task


def draw(kind: TaskKind, rng: Random) -> Task:
    """One task of `kind`, held out or not."""
    return _DRAW[kind](kind, rng)


def draw_word(rng: Random) -> str:
    """A word that can nearly be spoken or, half of the time, any letters."""
    length = rng.randint(*WORD_LETTERS)
    if rng.random() < 0.5:
        return "".join(rng.choices(LETTERS, k=length))
    first = rng.randrange(2)
    return "".join(rng.choice(VOWELS if (first + place) % 2 else CONSONANTS) for place in range(length))


def _about_a_word(ask: str, solve: Callable[[str], str]) -> Callable[[TaskKind, Random], Task]:
    def make(kind: TaskKind, rng: Random) -> Task:
        word = draw_word(rng)
        return Task(kind=kind, prompt=ask.format(word), answer=solve(word), subject=f"word {word}")

    return make


def _about_a_number(ask: str, solve: Callable[[int], str]) -> Callable[[TaskKind, Random], Task]:
    def make(kind: TaskKind, rng: Random) -> Task:
        number = rng.randint(0, 999)
        return Task(kind=kind, prompt=ask.format(number), answer=solve(number), subject=f"number {number}")

    return make


def _about_two_numbers(
    ask: str, solve: Callable[[int, int], str], *, largest_second: int
) -> Callable[[TaskKind, Random], Task]:
    def make(kind: TaskKind, rng: Random) -> Task:
        one, two = rng.randint(0, LARGEST_NUMBER), rng.randint(0, largest_second)
        low, high = sorted((one, two))
        return Task(kind=kind, prompt=ask.format(one, two), answer=solve(one, two), subject=f"numbers {low} {high}")

    return make


_DRAW: Final[dict[TaskKind, Callable[[TaskKind, Random], Task]]] = {
    TaskKind.REPEAT: _about_a_word("Repeat the word: {}", str),
    TaskKind.CAPITALS: _about_a_word("Write in capitals: {}", str.upper),
    TaskKind.LAST_LETTER: _about_a_word("Last letter of the word: {}", lambda word: word[-1]),
    TaskKind.COUNT_LETTERS: _about_a_word("Count the letters: {}", lambda word: str(len(word))),
    TaskKind.REVERSE: _about_a_word("Reverse the word: {}", lambda word: word[::-1]),
    TaskKind.SUCCESSOR: _about_a_number("What comes after {}?", lambda number: str(number + 1)),
    TaskKind.LARGER: _about_two_numbers(
        "Which is larger: {} or {}?", lambda one, two: str(max(one, two)), largest_second=99
    ),
    TaskKind.SUM: _about_two_numbers("What is {} + {}?", lambda one, two: str(one + two), largest_second=9),
}
