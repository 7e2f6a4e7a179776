"""What the program of a job tells the one that started it: lines of stdout that begin with `@headroom `.

Any other line is the program's own log. So every script can be a job, and one that wants to can say how far it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

MARK: Final = "@headroom "
LONGEST_LINE: Final = 1 << 20

JOB_VARIABLE: Final = "HEADROOM_JOB"
"""Environment of the program: the job's id."""
FOLDER_VARIABLE: Final = "HEADROOM_JOB_FOLDER"
"""A folder of the job's own, where it was started; it is there again after a preemption on the same node."""
RESUME_VARIABLE: Final = "HEADROOM_RESUME_FROM"
"""The checkpoint directory to go on from; unset when there is none."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Progress(_Message):
    """`num_steps` 0 means that nobody knows. `metrics` are live figures such as loss, reward or entropy."""

    kind: Literal["progress"] = "progress"
    step: Annotated[int, Field(ge=0)]
    num_steps: Annotated[int, Field(ge=0)]
    metrics: dict[str, FiniteFloat] = {}


class Saved(_Message):
    """A whole checkpoint is in its place; the job resumes from it."""

    kind: Literal["saved"] = "saved"
    path: str
    step: Annotated[int, Field(ge=0)]
    weights_version: str
    metrics: dict[str, FiniteFloat] = {}


class Result(_Message):
    """What the job was for, when that is a value and no file."""

    kind: Literal["result"] = "result"
    value: dict[str, Any]


class Failed(_Message):
    """Why it cannot be done: what happened, what was expected, what to do. The program ends after it."""

    kind: Literal["failed"] = "failed"
    what: str
    expected: str = ""
    advice: str = ""


Said = Progress | Saved | Result | Failed
_READER: Final[TypeAdapter[Said]] = TypeAdapter(Annotated[Said, Field(discriminator="kind")])


def line_of(message: Said) -> str:
    """One line, without its end."""
    return MARK + message.model_dump_json()


def read_line(line: str) -> Said | None:
    """None for a line of the program's own log.

    Raises: ValueError if it begins as a message and is none.
    """
    if not line.startswith(MARK):
        return None
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a message of {len(line)} characters; at most {LONGEST_LINE} are read")
    return _READER.validate_json(line[len(MARK) :])
