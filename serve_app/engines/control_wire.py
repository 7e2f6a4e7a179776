"""The control routes of a replica as bodies: what is asked, what is answered, in JSON. Both ends use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serve_app.engines.fingerprint import Fingerprint
from serve_app.engines.switch_values import Refusal

STATE_PATH: Final = "/control/state"
PREPARE_PATH: Final = "/control/prepare"
CLOSE_PATH: Final = "/control/close"
SWITCH_PATH: Final = "/control/switch"
OPEN_PATH: Final = "/control/open"
FINGERPRINT_PATH: Final = "/control/fingerprint"
MOST_BYTES: Final = 1 << 20
"""Of one request's body."""

Version = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrepareAsked(_Asked):
    """`verified`: the node's store has read every byte and found it right."""

    path: Path
    version: Version
    verified: bool = False


class CloseAsked(_Asked):
    deadline_s: Seconds


class SwitchAsked(_Asked):
    """`expected` None: it is enough that the new weights answer."""

    version: Version
    expected: Fingerprint | None = None
    drain_s: Seconds
    limit_s: Seconds


class OpenAsked(_Asked):
    version: Version


class NothingAsked(_Asked): ...


class RefusedBody(BaseModel):
    """OpenAI's error form; `serves` is the version that answers when the gate opens, None when nobody knows."""

    message: str
    type: str
    param: str | None
    code: Refusal
    origin: str
    serves: str | None


class RefusedAnswer(BaseModel):
    error: RefusedBody
