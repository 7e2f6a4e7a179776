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


class Engine(Protocol):
    async def start(self) -> None:
        """Load weights and reserve the KV cache. Raises EngineStartError."""

    async def warm_up(self) -> None:
        """Answer a few requests so that the first caller does not pay for lazy initialisation."""

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        """Run one request. Cancelling the call, or closing the stream, aborts it in the engine."""

    async def held_bytes(self) -> HeldBytes | None:
        """Weights and KV cache that the started engine finds in its hands; None where it cannot look."""

    def alive(self) -> bool: ...

    def process_ids(self) -> tuple[int, ...]:
        """Every process that holds device memory for this engine, its own first."""

    async def stop(self) -> None:
        """End all processes of the engine; returns when they are gone."""
