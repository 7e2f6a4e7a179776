"""Turns tasks into rows of tokens: several short conversations packed behind one another.

Pure but for the tokenizer it is given. Conversations in one row do not see each other (`segments`), the turns
of one conversation do. Only answers are learned; everything else has the label `IGNORED`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from serve_app.training.curriculum import EVEN, Curriculum, weighted_tasks
from serve_app.training.tasks import Task, draw_word
from serve_app.training.tokenizer import ASSISTANT, BEGIN, END, PAD, SYSTEM, USER, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED: Final = -100
"""The label that PyTorch's cross entropy leaves out."""
SAME_CONVERSATION: Final = 0.12
"""Chance that a task follows the one before it as the next turn of the same conversation."""
WITH_SYSTEM_PROMPT: Final = 0.06
"""Chance that a conversation begins with a system message."""
SYSTEM_PROMPTS: Final = ("You are a helpful assistant.", "You are brief and exact.", "Answer only.")
NUM_SYSTEM_PROMPTS: Final = 64
"""So many are shown: these, and words without sense, so that no system message leads the model astray."""
TASKS_AT_ONCE: Final = 256
"""How many tasks are given to the tokenizer in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`ids`, `labels` and `segments` have one entry per token; padding has a segment of its own."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    question: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.question) + len(self.answer)


def rows(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, num_tokens: int, curriculum: Curriculum = EVEN
) -> Iterator[Row]:
    """Rows of `num_tokens` tokens, without end; the same for the same seed and curriculum."""
    rng = Random(f"rows {seed}")
    begin = special_ids(tokenizer)[BEGIN]
    openings = [(begin, *system) for system in _system_messages(tokenizer, rng)]
    turns = _turns(tokenizer, weighted_tasks(seed, curriculum))
    packer = _Packer(num_tokens, pad=special_ids(tokenizer)[PAD])
    for turn in turns:
        if packer.is_empty or rng.random() >= SAME_CONVERSATION:
            opening = rng.choice(openings) if rng.random() < WITH_SYSTEM_PROMPT else (begin,)
        else:
            opening = ()
        if not packer.has_room(len(opening) + turn.num_tokens):
            yield packer.take()
            opening = opening or (begin,)
        packer.add(opening, turn)


class _Packer:
    """Fills one row at a time. The first turn of a row always has an opening."""

    def __init__(self, num_tokens: int, *, pad: int) -> None:
        self._num_tokens, self._pad = num_tokens, pad
        self._clear()

    def _clear(self) -> None:
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._segments: list[int] = []
        self._segment = 0

    @property
    def is_empty(self) -> bool:
        return not self._ids

    def has_room(self, num_tokens: int) -> bool:
        return len(self._ids) + num_tokens <= self._num_tokens

    def add(self, opening: tuple[int, ...], turn: _Turn) -> None:
        assert self.has_room(len(opening) + turn.num_tokens), "one turn must fit into an empty row"
        self._segment += bool(opening)
        self._ids += (*opening, *turn.question, *turn.answer)
        self._labels += (*[IGNORED] * (len(opening) + len(turn.question)), *turn.answer)
        self._segments += [self._segment] * (len(opening) + turn.num_tokens)

    def take(self) -> Row:
        room = self._num_tokens - len(self._ids)
        row = Row(
            ids=(*self._ids, *[self._pad] * room),
            labels=(*self._labels, *[IGNORED] * room),
            segments=(*self._segments, *[0] * room),
        )
        self._clear()
        return row


def _turns(tokenizer: PreTrainedTokenizerFast, tasks: Iterator[Task]) -> Iterator[_Turn]:
    ids = special_ids(tokenizer)
    while True:
        batch = list(itertools.islice(tasks, TASKS_AT_ONCE))
        texts = [text for task in batch for text in (task.prompt, task.answer)]
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
        for prompt, answer in zip(encoded, encoded, strict=True):
            yield _Turn(question=(ids[USER], *prompt, ids[END], ids[ASSISTANT]), answer=(*answer, ids[END]))


def _system_messages(tokenizer: PreTrainedTokenizerFast, rng: Random) -> list[tuple[int, ...]]:
    ids = special_ids(tokenizer)
    texts = list(SYSTEM_PROMPTS)
    while len(texts) < NUM_SYSTEM_PROMPTS:
        texts.append(" ".join(draw_word(rng) for _ in range(rng.randint(1, 5))) + ".")
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [(ids[SYSTEM], *text, ids[END]) for text in encoded]
