"""What a process that makes a model tells the one that started it: one JSON object per line, one of three kinds."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serve_app.training.defaults import Stage


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Moved(_Message):
    kind: Literal["moved"] = "moved"
    stage: Stage
    step: int
    num_steps: int
    loss: float | None


class Made(_Message):
    kind: Literal["made"] = "made"
    path: str


class Failed(_Message):
    """The three sentences of a `ModelNotMade`."""

    kind: Literal["failed"] = "failed"
    what: str
    expected: str
    advice: str


Message = Annotated[Moved | Made | Failed, Field(discriminator="kind")]
_READER: Final[TypeAdapter[Moved | Made | Failed]] = TypeAdapter(Message)


def write(message: Moved | Made | Failed) -> str:
    return message.model_dump_json()


def read(line: str) -> Moved | Made | Failed:
    """Raises: ValueError for anything but one of the messages."""
    return _READER.validate_json(line)
