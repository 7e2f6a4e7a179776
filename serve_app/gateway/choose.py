"""Which replica of a model is asked first, and why the others are not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from serve_app.gateway.breakers import BreakerState
from serve_app.gateway.hangs import Pulse

AFFINITY_LOAD: Final = 0.25
"""How much busier, as a part of what it can take, a replica may be to be preferred for its warm prefix cache."""


class Passed(StrEnum):
    """Why a replica is not the first choice; from the last resort to the smallest reason."""

    FULL = "full"
    BREAKER_OPEN = "breaker_open"
    PROBE_UNDER_WAY = "probe_under_way"
    HUNG = "hung"
    RESTS = "asked_for_rest"
    """It answered 503 with `Retry-After`, and that time is not over."""
    SUSPECT = "suspect"
    SLOW = "over_latency_target"
    BUSIER = "busier"
    PREFIX_ELSEWHERE = "prefix_elsewhere"


_NEVER: Final = frozenset({Passed.FULL})
_EJECTED: Final = frozenset({Passed.BREAKER_OPEN, Passed.PROBE_UNDER_WAY, Passed.HUNG})
_LATE: Final = {Passed.SLOW: 1, Passed.SUSPECT: 2, Passed.RESTS: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One replica as this gateway sees it now. `latency_s` is a smoothed time of whole answers; None: unknown."""

    replica: str
    num_in_flight: int
    max_num_seqs: int
    is_full: bool = False
    breaker: BreakerState = BreakerState.CLOSED
    admits: bool = True
    pulse: Pulse = Pulse.FINE
    rests: bool = False
    latency_s: float | None = None

    @property
    def load(self) -> float:
        return self.num_in_flight / max(1, self.max_num_seqs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`order` are the replicas to try; `passed` says of every other than the first why it is not the first."""

    order: tuple[str, ...]
    passed: tuple[tuple[str, Passed], ...]


def choose(sights: Sequence[Sight], *, turn: int, warm: str | None = None, target_s: float | None = None) -> Choice:
    """Order the replicas of one model. `turn` rotates equals; `warm` holds the request's prefix, if any does.

    Where every replica is ejected they are asked all the same: a last try is worth more than a certain refusal.
    """
    able = [sight for sight in sights if _trouble(sight) not in _NEVER]
    usable = [sight for sight in able if _trouble(sight) not in _EJECTED] or able
    start = turn % len(usable) if usable else 0
    ranked = sorted(usable[start:] + usable[:start], key=lambda sight: _rank(sight, warm, target_s))
    first = ranked[0] if ranked else None
    reasons = [(sight.replica, _reason(sight, first, target_s)) for sight in sights if sight is not first]
    return Choice(order=tuple(sight.replica for sight in ranked), passed=tuple(reasons))


def warm_replica(prefix: bytes, replicas: Sequence[str]) -> str:
    """The replica that requests with this prefix prefer, by rendezvous hashing: few move when replicas come or go."""
    return max(replicas, key=lambda replica: (blake2b(prefix + replica.encode(), digest_size=8).digest(), replica))


def _trouble(sight: Sight) -> Passed | None:
    if sight.is_full:
        return Passed.FULL
    if sight.breaker is BreakerState.OPEN:
        return Passed.BREAKER_OPEN
    if not sight.admits:
        return Passed.PROBE_UNDER_WAY
    if sight.pulse is Pulse.HUNG:
        return Passed.HUNG
    if sight.rests:
        return Passed.RESTS
    return Passed.SUSPECT if sight.pulse is Pulse.SUSPECT else None


def _is_slow(sight: Sight, target_s: float | None) -> bool:
    return target_s is not None and sight.latency_s is not None and sight.latency_s > target_s


def _rank(sight: Sight, warm: str | None, target_s: float | None) -> tuple[int, float]:
    trouble = _trouble(sight) or (Passed.SLOW if _is_slow(sight, target_s) else None)
    return _LATE.get(trouble, 0) if trouble else 0, sight.load - (AFFINITY_LOAD if sight.replica == warm else 0.0)


def _reason(sight: Sight, first: Sight | None, target_s: float | None) -> Passed:
    trouble = _trouble(sight)
    if trouble is not None:
        return trouble
    if _is_slow(sight, target_s) and first is not None and not _is_slow(first, target_s):
        return Passed.SLOW
    return Passed.BUSIER if first is not None and sight.load >= first.load else Passed.PREFIX_ELSEWHERE
