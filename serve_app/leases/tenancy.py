"""What the holder of a lease may believe and must do, as time passes and answers come. Pure: no clock, no calls.

Everything is counted from the moment a request was sent, never from when its answer came, and a little less than told:
so a holder stops before the server can give its share to anybody else, however long answers take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

CLOCK_DRIFT: Final = 0.001
"""By which the server's clock may run faster than ours."""
_RETRY_S: Final = 1.0
_KILL_LEAD_S: Final = 0.5
"""What the kernel has to end the program before its time is over; less for very short leases."""


class Act(StrEnum):
    RENEW = "renew"
    TERMINATE = "terminate"
    KILL = "kill"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an answer said, in seconds from when it was asked for. `deadline_in_s` is None without a notice."""

    expires_in_s: float
    deadline_in_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """Believed in until `until_s` and no longer; from `stop_from_s` the program is asked to end, if nothing changes."""

    ttl_s: float
    until_s: float
    renew_at_s: float
    stop_from_s: float
    deadline_s: float | None = None
    reason: str = ""
    is_lost: bool = False
    """Refused for good: nothing will renew it."""

    @property
    def kill_at_s(self) -> float:
        return self.until_s - min(_KILL_LEAD_S, self.ttl_s / 10)

    @property
    def has_notice(self) -> bool:
        return self.deadline_s is not None or self.is_lost

    def act(self, now_s: float, *, is_terminated: bool) -> Act:
        if now_s >= self.kill_at_s:
            return Act.KILL
        if now_s >= self.stop_from_s and not is_terminated:
            return Act.TERMINATE
        return Act.RENEW if now_s >= self.renew_at_s and not self.is_lost else Act.WAIT

    def next_s(self, *, is_terminated: bool) -> float:
        """When there is something to do, if nothing happens before."""
        dates = [self.kill_at_s]
        dates += [] if is_terminated else [self.stop_from_s]
        dates += [] if self.is_lost else [self.renew_at_s]
        return min(dates)


def begun(terms: Terms, *, ttl_s: float, asked_s: float) -> Tenancy:
    """Renewed at a third of its time, asked to end at the last third if that fails."""
    life_s = terms.expires_in_s * (1 - CLOCK_DRIFT)
    return Tenancy(
        ttl_s=ttl_s,
        until_s=asked_s + life_s,
        renew_at_s=asked_s + life_s / 3,
        stop_from_s=asked_s + life_s * 2 / 3,
    )


def renewed(before: Tenancy, terms: Terms, *, asked_s: float, acknowledged: bool) -> Tenancy:
    """After a renewal that was sent at `asked_s`. With a notice the last word is its deadline.

    The program has a third of the time until then to begin nothing new, and is then asked to end.
    """
    fresh = begun(terms, ttl_s=before.ttl_s, asked_s=asked_s)
    if terms.deadline_in_s is None:
        return fresh
    left_s = terms.deadline_in_s * (1 - CLOCK_DRIFT)
    stop_from_s = before.stop_from_s if before.deadline_s is not None else asked_s + left_s / 3
    return replace(
        fresh,
        until_s=min(fresh.until_s, asked_s + left_s) if acknowledged else fresh.until_s,
        stop_from_s=min(fresh.stop_from_s, stop_from_s),
        deadline_s=asked_s + left_s,
        reason=terms.reason,
    )


def unanswered(before: Tenancy, *, now_s: float) -> Tenancy:
    """After a renewal without an answer: believed in as before, tried again soon."""
    return replace(before, renew_at_s=now_s + _RETRY_S)


def lost(before: Tenancy, reason: str, *, now_s: float) -> Tenancy:
    """After a renewal that was refused for good: the program is asked to end at once, within what is believed."""
    return replace(before, is_lost=True, stop_from_s=min(before.stop_from_s, now_s), reason=reason)
