"""The test set of a model: a file beside its checkpoints, or the tasks our own trainer holds out.

Knows no engine. `test_set.jsonl` has one object per line: `prompt`, `answer` and, where sixteen tokens do not hold
the answer, `max_tokens`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import CheckpointRefused
from serve_app.training.live import ANSWER_TOKENS
from serve_app.training.tasks import held_out_tasks

TEST_SET_NAME: Final = "test_set.jsonl"
MAX_QUESTIONS: Final = 2000
MAX_FILE_BYTES: Final = 16 << 20
DIGEST_DIGITS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`kind` groups questions of one sort; empty where nobody says."""

    prompt: str
    answer: str
    kind: str = ""
    max_tokens: int = ANSWER_TOKENS


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[str, Field(min_length=1, max_length=32_768)]
    answer: Annotated[str, Field(min_length=1, max_length=32_768)]
    kind: Annotated[str, Field(max_length=64)] = ""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = ANSWER_TOKENS


def questions_of(folder: Path, *, is_ours: bool, limit: int | None = None) -> tuple[Question, ...]:
    """The first `limit` questions for checkpoints in the model's `folder`; all of them for None.

    `is_ours`: the checkpoint has a manifest, so our own trainer's tasks are meant where there is no file.
    Raises: CheckpointRefused when there is no test set, or its file cannot be used.
    """
    path = folder / TEST_SET_NAME
    if path.exists():
        return read_test_set(path)[:limit]
    if is_ours:
        tasks = held_out_tasks()[:limit]
        return tuple(Question(prompt=task.prompt, answer=task.answer, kind=str(task.kind)) for task in tasks)
    raise CheckpointRefused(
        f"Nobody knows a test set for checkpoints in {folder}: another program made this one.",
        expected=f"Expected questions and answers in {path}.",
        advice='Write one line per question: {"prompt": "…", "answer": "…"}.',
    )


def read_test_set(path: Path) -> tuple[Question, ...]:
    """Raises: CheckpointRefused naming the first line that is no question."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _unusable(path, f"it has more than {MAX_FILE_BYTES} bytes")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, str(error)) from error
    if not 1 <= len(lines) <= MAX_QUESTIONS:
        raise _unusable(path, f"it has {len(lines)} lines")
    return tuple(_question(path, number, line) for number, line in enumerate(lines, start=1))


def questions_digest(questions: Sequence[Question]) -> str:
    """First 12 hex digits of the SHA-256 over all questions in their order."""
    text = json.dumps([[one.prompt, one.answer, one.max_tokens] for one in questions])
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


def is_right(question: Question, text: str) -> bool:
    """Nothing but white space around the answer is forgiven."""
    return text.strip() == question.answer.strip()


def has_form(question: Question, text: str) -> bool:
    """Whether `text` looks as an answer should, right or not: as the right one does.

    A number, one letter, a word in small or in capital letters; for any other answer one line that is not empty.
    """
    said, wanted = text.strip(), question.answer.strip()
    form = next((form for form in _FORMS if form.fullmatch(wanted)), None)
    if form is not None:
        return form.fullmatch(said) is not None
    return bool(said) and ("\n" in wanted or "\n" not in said)


_FORMS: Final = (re.compile(r"[a-z]"), re.compile(r"\d+"), re.compile(r"[a-z]+"), re.compile(r"[A-Z]+"))


def _question(path: Path, number: int, line: str) -> Question:
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _unusable(path, f"line {number}: {place + ': ' if place else ''}{first['msg']}") from error
    return Question(prompt=read.prompt, answer=read.answer, kind=read.kind, max_tokens=read.max_tokens)


def _unusable(path: Path, reason: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"The test set {path} cannot be used: {reason}.",
        expected=f"Expected 1 to {MAX_QUESTIONS} lines with `prompt` and `answer`.",
        advice="Correct the file, or take it away to use the tasks our trainer holds out.",
    )
