"""What an engine is to the rest of the product: started, warmed, asked over HTTP, watched, stopped.

Knows nothing of Ray Serve nor of any particular engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from placement.inventory import DeviceKind
from serve_app.engines.spec import EngineArguments
from serve_app.fleet.measurements import HeldBytes


class Endpoint(StrEnum):
    """Routes an engine answers; the value is the HTTP path."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLaunch:
    """Everything an engine is started with; all of it comes from the plan and the checkpoint.

    `device_uuids` are the planned devices in order, empty on host memory.
    `trace_arguments` are extra engine arguments that switch on the engine's own spans.
    """

    model: str
    checkpoint: Path
    arguments: EngineArguments
    kv_cache_bytes: int
    device_kind: DeviceKind
    device_uuids: tuple[str, ...] = ()
    trace_arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unary:
    """A whole answer: `body` is JSON."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events, each chunk one or more whole events. Closing it aborts the run."""

    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a reload took: until nothing ran any more, reading the weights, and going on."""

    pause_s: float
    reload_s: float
    resume_s: float


class ReloadNotBegun(Exception):
    """What ran did not end in time. Nothing was changed; the engine goes on with the weights it has."""


class ReloadFailed(Exception):
    """The engine broke off on the way. Which weights it holds is unknown; it stands still until a reload succeeds."""


class Reloadable(Protocol):
    """The part of an engine that a change of weights needs."""

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        """Run one request. Cancelling the call, or closing the stream, aborts it in the engine."""

    async def held_bytes(self) -> HeldBytes | None:
        """Weights and KV cache that the started engine finds in its hands; None where it cannot look."""

    async def reload(self, checkpoint: Path, *, drain_s: float) -> Reloaded:
        """Wait up to `drain_s` for what runs, read other weights of the same shapes, forget cached prefixes, go on.

        The caller sees to it that no request comes meanwhile. Raises: ReloadNotBegun, ReloadFailed.
        """


class Engine(Reloadable, Protocol):
    async def start(self) -> None:
        """Load weights and reserve the KV cache. Raises EngineStartError."""

    async def warm_up(self) -> None:
        """Answer a few requests so that the first caller does not pay for lazy initialisation."""

    def alive(self) -> bool: ...

    def process_ids(self) -> tuple[int, ...]:
        """Every process that holds device memory for this engine, its own first."""

    async def stop(self) -> None:
        """End all processes of the engine; returns when they are gone."""
