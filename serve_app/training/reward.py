"""What an answer is worth: right, or at least of the form that was asked for. Pure."""

from __future__ import annotations

import re
from typing import Final

from serve_app.training.tasks import Task, grade

FORM_REWARD: Final = 0.1
"""Small, so that no number of well-formed wrong answers is worth a right one."""


def reward(task: Task, text: str, *, ended: bool) -> float:
    """1 for a right answer that ended by itself, `FORM_REWARD` for its form alone, else 0."""
    if not ended:
        return 0.0
    if grade(task, text):
        return 1.0
    return FORM_REWARD if has_form(task, text) else 0.0


def has_form(task: Task, text: str) -> bool:
    """Whether `text` is written as a right answer would be: digits, small letters or capitals, about as many."""
    alphabet = r"\d" if task.answer.isdigit() else "[A-Z]" if task.answer.isupper() else "[a-z]"
    given = text.strip()
    return re.fullmatch(f"{alphabet}+", given) is not None and abs(len(given) - len(task.answer)) <= 1
