"""Faults of what callers hand to this package. "No room" is never one of them: that is a `Refusal`, a value.

PlacementError
├── InvalidProblem        demands, inventory or policy contradict themselves
├── UnsupportedModel      a config.json that the estimator does not know how to count yet
├── BadHeader             a safetensors header that lies or is cut
├── BadEngineArguments    a model length, batch or KV budget that no engine would start with
├── UnknownDevice         a device that the fleet does not have
└── DecodeError           JSON that is not the value it claims to be
"""

from __future__ import annotations


class PlacementError(ValueError):
    """Root of this package's faults; `str()` is a sentence for people."""


class InvalidProblem(PlacementError):
    """The question itself is wrong, e.g. two demands for one model or negative bytes."""


class UnsupportedModel(PlacementError):
    """`key` is the entry of config.json that stands in the way."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class BadHeader(PlacementError):
    """Not a whole, truthful safetensors header."""


class BadEngineArguments(PlacementError):
    """`key` is the argument as it is named in cluster.yaml, without the model's path."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class UnknownDevice(PlacementError):
    """`known` are the devices there are."""

    def __init__(self, device: str, known: tuple[str, ...]) -> None:
        shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        super().__init__(f"'{device}' is no device of this fleet. It has {shown or 'none yet'}.")
        self.device = device
        self.known = known


class DecodeError(PlacementError):
    """`path` says where in the JSON, e.g. `placements[2].estimate.parts[0].num_bytes`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path or 'value'}: {message}")
        self.path = path
