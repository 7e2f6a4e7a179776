"""What an answer is worth: right, or at least of the form that was asked for. Pure."""

from __future__ import annotations

import re
from typing import Final

from serve_app.training.tasks import Task, grade

FORM_REWARD: Final = 0.1
"""For an answer of the form that was asked for."""
PLACES_REWARD: Final = 0.3
"""At most, by the share of its letters or digits that stand where they should: most groups of answers of a weak model
hold no right one, and would teach nothing otherwise."""


def reward(task: Task, text: str, *, ended: bool) -> float:
    """1 for a right answer; less than half for its form and the letters in place; 0 if it did not end by itself."""
    if not ended:
        return 0.0
    if grade(task, text):
        return 1.0
    return FORM_REWARD + PLACES_REWARD * in_place(task, text) if has_form(task, text) else 0.0


def has_form(task: Task, text: str) -> bool:
    """Whether `text` is written as a right answer would be: digits, small letters or capitals, about as many."""
    alphabet = r"\d" if task.answer.isdigit() else "[A-Z]" if task.answer.isupper() else "[a-z]"
    given = text.strip()
    return re.fullmatch(f"{alphabet}+", given) is not None and abs(len(given) - len(task.answer)) <= 1


def in_place(task: Task, text: str) -> float:
    """The share of letters or digits, counted from the beginning, that are those of the right answer."""
    given = text.strip()
    same = sum(one == other for one, other in zip(given, task.answer, strict=False))
    return same / max(len(given), len(task.answer))
