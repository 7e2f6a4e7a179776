"""What a replica says about a change of its weights, and why it refuses one. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from serve_app.engines.fingerprint import Fingerprint


class Refusal(StrEnum):
    """Why a replica did not do what it was asked; the value is the `code` on the wire."""

    INVALID = "invalid_request"
    CHECKPOINT = "checkpoint_refused"
    BUSY = "weights_changing"
    """Another change is under way here."""
    NOT_PREPARED = "not_prepared"
    NOT_CLOSED = "gate_open"
    OTHER_WEIGHTS = "other_weights"
    """It was to open with weights that it does not have."""
    NOT_DRAINED = "not_drained"
    """Requests ran on past the deadline; nothing was changed."""
    NOT_LOADED = "reload_failed"
    """The old weights were loaded again and proved."""
    WRONG_ANSWERS = "wrong_answers"
    """The new weights loaded, but say other things than expected; the old ones were loaded again and proved."""
    LOST = "weights_lost"
    """Neither new nor old could be proved. The replica serves nothing and restarts."""


class SwitchRefused(Exception):
    """`serves` is the version that answers when the gate opens; None when nobody knows."""

    def __init__(self, code: Refusal, message: str, *, serves: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.serves = serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checkpoint that may be switched to; `num_bytes` is the sum of its tensors."""

    version: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """What now answers behind the closed gate, and what it took.

    `pause_s` is from the order until nothing ran, `fingerprint_s` the time of the prompts. `measured_bytes` is what the
    replica's processes hold after it, per device; None where it is not measured.
    """

    version: str
    pause_s: float
    reload_s: float
    resume_s: float
    fingerprint_s: float
    measured_bytes: int | None
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    version: str
    num_waited: int
    """Requests that waited and now run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """`version` None: nobody knows which weights it holds. `before` and `prepared` can be switched to."""

    model: str
    version: str | None
    before: str | None
    prepared: str | None
    is_open: bool
    is_changing: bool
    num_running: int
    num_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The fingerprint of what answers now."""

    version: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Weights this replica has or may have. `fingerprint` is what they must say; None until somebody knows."""

    path: Path
    version: str
    fingerprint: Fingerprint | None = None


class Unproved(Exception):
    """Weights that did not load, or do not say what they should."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(message)
        self.code = code
