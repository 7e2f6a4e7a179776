"""What a rollout needs of the world, as small protocols. Whoever implements them touches Ray, files and the network.

Every call may be repeated: after a crash the one under way is made again. A call that cannot do its work raises.
`traceparent` is the context of the stage's span, None where nothing is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.engines.fingerprint import Fingerprint
from serve_app.rollout.record import Room, Shipped, Weights
from serve_app.rollout.triggers import CheckFound, Signals, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One running engine. `weights` is the version it holds for certain, empty while it cannot be sure."""

    name: str
    node: str
    url: str
    weights: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a replica says once it holds other weights. `vram_bytes` is what its engine takes now, None: unknown."""

    vram_bytes: int | None


class Ship(Protocol):
    async def ship(self, weights: Weights, nodes: Sequence[str], *, traceparent: str | None) -> Shipped:
        """Whole and verified on every node afterwards; goes on where an earlier call ended."""


class Replicas(Protocol):
    async def serving(self, model: str) -> Sequence[Replica]:
        """All that answer requests for it, the candidate of a canary not among them."""

    async def prepare(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> None:
        """The files are on its node, whole, of the shapes it runs. Changes nothing."""

    async def close(self, replica: Replica, *, deadline_s: float, traceparent: str | None) -> None:
        """New requests wait at its gate, running answers are through. Past the deadline it raises, the gate open.

        A gate that is closed already stays so.
        """

    async def switch(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> Loaded:
        """Behind the closed gate: other weights, old prefixes forgotten, the engine running again."""

    async def fingerprint(self, replica: Replica, *, traceparent: str | None) -> Fingerprint:
        """Asked past the gate, so that it answers while that is closed."""

    async def open(self, replica: Replica, *, traceparent: str | None) -> None:
        """What waits goes in. A gate that is open already stays so."""

    async def die(self, replica: Replica, *, reason: str) -> None:
        """Out of the routing table now; Serve starts it again with the weights that are committed."""

    async def candidate_room(self, model: str) -> Room: ...

    async def stand_beside(self, model: str, weights: Weights, *, traceparent: str | None) -> Replica:
        """One more replica on a port and in a share of its own, ready; it gets no traffic yet."""

    async def end_candidate(self, model: str) -> None:
        """Gone with its share, answers that it had begun finished first. None there: nothing to do."""


class Publish(Protocol):
    async def canary(self, model: str, version: str, *, share: float) -> None:
        """The gateways send the candidate this part of the traffic, the version chosen before the cache is asked."""

    async def clear_canary(self, model: str) -> None: ...

    async def committed(self, model: str) -> str:
        """The version that the store says serves the model: the truth after a crash."""

    async def commit(self, model: str, weights: Weights, *, words: Fingerprint | None) -> None:
        """THE commit point: one store write says which weights serve; then the link `deployed`, the cache epoch and
        the routing table, which lists no replica with other weights, follow it. Repeated, it makes them follow again.
        `words` are what these weights say to the fixed prompts: whoever starts with them later is held against that.
        """


class Judge(Protocol):
    async def traffic(self, model: str, version: str) -> Traffic:
        """How this version answered lately."""

    async def test_set(self, model: str, replica: Replica, *, traceparent: str | None) -> float | None:
        """Accuracy of this replica over the model's test set, 0 to 1; None where the model has none."""


class Watch(Protocol):
    async def signals(self, model: str) -> Signals:
        """What is wrong now where replicas of this model run."""


class Checks(Protocol):
    async def found(self, rollout_id: int, model: str) -> tuple[CheckFound, ...] | None:
        """The service group of row C9 against the running cluster, once for each rollout. Begins it, and does not wait:
        None while it is under way.
        """


class Backup(Protocol):
    async def back_up(self, model: str, *, reason: str) -> str:
        """Name of a backup with configuration, state and weights."""

    async def restore(self, backup: str, weights: Weights) -> None:
        """All three are again as they were; `weights` lie at their path on every node that serves the model."""


class Clock(Protocol):
    def monotonic_s(self) -> float: ...

    def unix_s(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    ship: Ship
    replicas: Replicas
    publish: Publish
    judge: Judge
    watch: Watch
    checks: Checks
    backup: Backup
    clock: Clock
