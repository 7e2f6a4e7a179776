"""One breaker per engine replica, by Envoy's rules of outlier ejection and with one probe when its time is up.

Pure state: time comes in as an argument, in seconds of a monotonic clock. Knows no HTTP and no load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final


class BreakerState(IntEnum):
    """The numbers are those of `headroom_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    """Its time is up: one request may try."""
    OPEN = 2


class Verdict(Enum):
    """What the end of a request says of its replica."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    """The client left, or read too slowly: the replica did nothing wrong and proved nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Source: row B8 for `num_consecutive` and `open_s`; Envoy's outlier detection for the other rules.

    Envoy judges percentages of whole clusters (85 % of at least 50 requests); replicas of one model are few and
    slow, so fewer requests and a smaller part are enough here.
    """

    num_consecutive: int = 5
    interval_s: float = 10.0
    num_judged: int = 20
    """Requests within one interval before their percentage counts."""
    bad_ratio: float = 0.5
    open_s: float = 30.0
    max_open_s: float = 300.0
    max_open_ratio: float = 0.5
    """Part of a model's replicas that may be open; one always may, the last one never."""


@dataclass(slots=True, kw_only=True)
class _Breaker:
    group: str
    num_in_a_row: int = 0
    num_good: int = 0
    num_bad: int = 0
    window_from_s: float = 0.0
    num_ejections: int = 0
    open_until_s: float | None = None
    probe_under_way: bool = False


DEFAULT_POLICY: Final = BreakerPolicy()


class Breakers:
    """`keep` names the replicas there are; others are unknown and always closed."""

    def __init__(self, policy: BreakerPolicy = DEFAULT_POLICY) -> None:
        self._policy = policy
        self._breakers: dict[str, _Breaker] = {}

    def keep(self, groups: Mapping[str, str]) -> None:
        """Replicas and the group whose last one is never ejected; what is not named is forgotten."""
        known = self._breakers
        self._breakers = {replica: known.get(replica) or _Breaker(group=group) for replica, group in groups.items()}
        for replica, group in groups.items():
            self._breakers[replica].group = group

    def state(self, replica: str, now_s: float) -> BreakerState:
        breaker = self._breakers.get(replica)
        if breaker is None or breaker.open_until_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < breaker.open_until_s else BreakerState.HALF_OPEN

    def admits(self, replica: str, now_s: float) -> bool:
        """False while it is open, or while its one probe is under way."""
        state = self.state(replica, now_s)
        if state is BreakerState.CLOSED:
            return True
        return state is BreakerState.HALF_OPEN and not self._breakers[replica].probe_under_way

    def fails(self, replica: str) -> bool:
        """True from the failure on that would open it, also where it may not open, being the last one."""
        breaker = self._breakers.get(replica)
        if breaker is None:
            return False
        return breaker.open_until_s is not None or breaker.num_in_a_row >= self._policy.num_consecutive

    def began(self, replica: str, now_s: float) -> bool:
        """A request goes there; True when it is the probe, which `ended` must be told."""
        if self.state(replica, now_s) is not BreakerState.HALF_OPEN or not self.admits(replica, now_s):
            return False
        self._breakers[replica].probe_under_way = True
        return True

    def ended(self, replica: str, verdict: Verdict, now_s: float, *, probe: bool = False) -> None:
        breaker = self._breakers.get(replica)
        if breaker is None:
            return
        if probe:
            self._probed(breaker, verdict, now_s)
        elif breaker.open_until_s is None and verdict is not Verdict.UNKNOWN:
            self._count(breaker, verdict, now_s)

    def _probed(self, breaker: _Breaker, verdict: Verdict, now_s: float) -> None:
        breaker.probe_under_way = False
        if verdict is Verdict.BAD:
            self._open(breaker, now_s)
        elif verdict is Verdict.GOOD:
            breaker.open_until_s = None
            self._clear(breaker, now_s)

    def _count(self, breaker: _Breaker, verdict: Verdict, now_s: float) -> None:
        self._roll(breaker, now_s)
        if verdict is Verdict.GOOD:
            breaker.num_good += 1
            breaker.num_in_a_row = 0
            return
        breaker.num_bad += 1
        breaker.num_in_a_row += 1
        if self._is_outlier(breaker) and self._may_open(breaker):
            self._open(breaker, now_s)

    def _is_outlier(self, breaker: _Breaker) -> bool:
        policy = self._policy
        num_all = breaker.num_good + breaker.num_bad
        by_part = num_all >= policy.num_judged and breaker.num_bad >= policy.bad_ratio * num_all
        return by_part or breaker.num_in_a_row >= policy.num_consecutive

    def _may_open(self, breaker: _Breaker) -> bool:
        group = [one for one in self._breakers.values() if one.group == breaker.group]
        num_open = 1 + sum(one.open_until_s is not None for one in group)
        return num_open < len(group) and num_open <= max(1, int(self._policy.max_open_ratio * len(group)))

    def _open(self, breaker: _Breaker, now_s: float) -> None:
        """Each time for longer, up to the cap."""
        breaker.num_ejections += 1
        breaker.open_until_s = now_s + min(self._policy.max_open_s, self._policy.open_s * breaker.num_ejections)

    def _roll(self, breaker: _Breaker, now_s: float) -> None:
        """A new interval begins; each one spent closed forgives one ejection."""
        num_intervals = int((now_s - breaker.window_from_s) // self._policy.interval_s)
        if num_intervals > 0:
            breaker.num_ejections = max(0, breaker.num_ejections - num_intervals)
            breaker.num_good = breaker.num_bad = 0
            breaker.window_from_s = now_s

    def _clear(self, breaker: _Breaker, now_s: float) -> None:
        breaker.num_in_a_row = breaker.num_good = breaker.num_bad = 0
        breaker.window_from_s = now_s
