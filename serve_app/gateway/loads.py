"""Every engine replica as this gateway sees it: how busy, how fast, whether to be trusted; and the retry budget.

Puts together what `breakers`, `hangs` and `choose` know each for itself. One owner: the gateway's event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from serve_app.gateway.breakers import Breakers, BreakerState, Verdict
from serve_app.gateway.choose import Choice, Sight, choose, warm_replica
from serve_app.gateway.hangs import HangWatch, Pulse
from serve_app.gateway.routing_table import Backend

SUSPECT_S: Final = 2.0
"""How long a replica that refused or dropped a connection is asked last."""

RETRY_RATIO: Final = 0.2
"""Retries may be at most this fraction of requests. Source: threats.md, fault 1."""

RETRY_RESERVE: Final = 10.0
MAX_REST_S: Final = 60.0
HANG_AFTER_S: Final = 10.0
_SMOOTHING: Final = 0.2
_PER_SILENCE: Final = 50


class Loads:
    """`clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], *, hang_after_s: float = HANG_AFTER_S) -> None:
        self.in_flight: dict[str, int] = {}
        self.num_in_flight = 0
        self.breakers = Breakers()
        self._hangs = HangWatch(silence_s=hang_after_s)
        self.hear_every_s = hang_after_s / _PER_SILENCE
        """Bytes that follow others sooner tell nothing new of whether a replica hangs."""
        self._clock = clock
        self._rests: dict[str, tuple[float, Pulse | None]] = {}
        self._latency_s: dict[str, float] = {}
        self._turn = 0

    def keep(self, backends: Iterable[Backend]) -> None:
        """Forget replicas that are gone. The last of one model and weights version is never ejected."""
        groups = {one.replica: f"{one.model}@{one.weights_version}" for one in backends}
        self.breakers.keep(groups)
        self._hangs.keep_only(frozenset(groups))
        self._latency_s = {replica: known for replica, known in self._latency_s.items() if replica in groups}
        self._rests = {replica: known for replica, known in self._rests.items() if replica in groups}

    def order(
        self, backends: tuple[Backend, ...], *, prefix: bytes | None = None, target_s: float | None = None
    ) -> tuple[Backend, ...]:
        """Backends to try for one request, the best first; none that has all it may take."""
        if len(backends) == 1:
            return () if self._is_full(backends[0]) else backends
        self._turn += 1
        by_name = {backend.replica: backend for backend in backends}
        return tuple(by_name[replica] for replica in self.choice(backends, prefix=prefix, target_s=target_s).order)

    def choice(
        self, backends: tuple[Backend, ...], *, prefix: bytes | None = None, target_s: float | None = None
    ) -> Choice:
        now_s = self._clock()
        warm = None if prefix is None else warm_replica(prefix, [backend.replica for backend in backends])
        return choose([self._sight(one, now_s) for one in backends], turn=self._turn, warm=warm, target_s=target_s)

    def takes_none(self, backends: tuple[Backend, ...]) -> bool:
        return all(self._is_full(backend) for backend in backends)

    def fails(self, backends: tuple[Backend, ...]) -> bool:
        """True when none of them can be trusted to answer."""
        return all(self.breakers.fails(one.replica) or self._hangs.pulse(one.replica) is Pulse.HUNG for one in backends)

    def state(self, replica: str) -> BreakerState:
        """Of its breaker; a replica that has hung counts as open."""
        hung = self._hangs.pulse(replica) is Pulse.HUNG
        return BreakerState.OPEN if hung else self.breakers.state(replica, self._clock())

    def begin(self, replica: str) -> bool:
        """True when this request is the one probe of its breaker; `end` must be told so."""
        now_s = self._clock()
        before = self.in_flight.get(replica, 0)
        self._hangs.began(replica, now_s, is_first=before == 0)
        self.in_flight[replica] = before + 1
        self.num_in_flight += 1
        return self.breakers.began(replica, now_s)

    def heard(self, replica: str) -> None:
        self._hangs.heard(replica, self._clock())

    def end(
        self, replica: str, verdict: Verdict = Verdict.UNKNOWN, *, probe: bool = False, took_s: float | None = None
    ) -> None:
        """`took_s` is the time of a whole answer."""
        self.breakers.ended(replica, verdict, self._clock(), probe=probe)
        if took_s is not None:
            known = self._latency_s.get(replica, took_s)
            self._latency_s[replica] = known + _SMOOTHING * (took_s - known)
        left = self.in_flight[replica] - 1
        self.num_in_flight -= 1
        if left:
            self.in_flight[replica] = left
        else:
            del self.in_flight[replica]

    def suspect(self, replica: str) -> None:
        self._rests[replica] = (self._clock() + SUSPECT_S, Pulse.SUSPECT)

    def rest(self, replica: str, for_s: float) -> None:
        """It asked to be left alone for a while."""
        self._rests[replica] = (self._clock() + min(for_s, MAX_REST_S), None)

    def look(self) -> list[str]:
        """Replicas to be asked now whether they still answer."""
        return self._hangs.look(self.in_flight, self._clock())

    def answered(self, replica: str) -> None:
        """It answered that question."""
        self._hangs.answered(replica, self._clock())

    def _is_full(self, backend: Backend) -> bool:
        limit = backend.max_in_flight
        return limit is not None and self.in_flight.get(backend.replica, 0) >= limit

    def _sight(self, backend: Backend, now_s: float) -> Sight:
        replica = backend.replica
        until_s, kind = self._rests.get(replica, (0.0, None))
        rests = now_s < until_s
        pulse = self._hangs.pulse(replica)
        return Sight(
            replica=replica,
            num_in_flight=self.in_flight.get(replica, 0),
            max_num_seqs=backend.max_num_seqs,
            is_full=self._is_full(backend),
            breaker=self.breakers.state(replica, now_s),
            admits=self.breakers.admits(replica, now_s),
            pulse=max(pulse, kind) if rests and kind is not None else pulse,
            rests=rests and kind is None,
            latency_s=self._latency_s.get(replica),
        )


class RetryBudget:
    """A bucket that every request fills by a fifth and every retry empties by one."""

    def __init__(self) -> None:
        self._tokens = RETRY_RESERVE

    def earn(self) -> None:
        self._tokens = min(RETRY_RESERVE, self._tokens + RETRY_RATIO)

    def spend(self) -> bool:
        """True when a retry is allowed; it is then counted."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
