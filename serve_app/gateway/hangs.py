"""Which replicas hold requests and deliver nothing: told from busy ones by a probe.

A replica from which nothing came for `silence_s` while requests were with it is under suspicion and is asked a tiny
question; without an answer for `silence_s` more it has hung, and stays so until a later question is answered. So a
hang is known after twice that time at most, beside one look. Pure state; time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Pulse(IntEnum):
    FINE = 0
    SUSPECT = 1
    HUNG = 2


@dataclass(slots=True, kw_only=True)
class _Watched:
    heard_s: float
    asked_s: float | None = None
    pulse: Pulse = Pulse.FINE


class HangWatch:
    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._watched: dict[str, _Watched] = {}

    def began(self, replica: str, now_s: float, *, is_first: bool) -> None:
        """`is_first`: nothing was with the replica, so its silence so far means nothing."""
        watched = self._watched.get(replica)
        if watched is None:
            self._watched[replica] = _Watched(heard_s=now_s)
        elif is_first and watched.pulse is Pulse.FINE:
            watched.heard_s = now_s

    def heard(self, replica: str, now_s: float) -> None:
        """Bytes of an answer came. They clear a suspicion; a replica that has hung must answer a question."""
        watched = self._watched.get(replica)
        if watched is not None:
            watched.heard_s = now_s
            if watched.pulse is Pulse.SUSPECT:
                watched.pulse = Pulse.FINE

    def pulse(self, replica: str) -> Pulse:
        watched = self._watched.get(replica)
        return Pulse.FINE if watched is None else watched.pulse

    def look(self, in_flight: Mapping[str, int], now_s: float) -> list[str]:
        """Judge all; the replicas to ask now. Whoever asks must call `answered` or let the next look find it late."""
        return [replica for replica, one in self._watched.items() if self._look(one, in_flight.get(replica, 0), now_s)]

    def answered(self, replica: str, now_s: float) -> None:
        watched = self._watched.get(replica)
        if watched is not None:
            watched.heard_s, watched.asked_s, watched.pulse = now_s, None, Pulse.FINE

    def keep_only(self, replicas: frozenset[str]) -> None:
        self._watched = {replica: one for replica, one in self._watched.items() if replica in replicas}

    def _look(self, one: _Watched, num_in_flight: int, now_s: float) -> bool:
        """True when it is to be asked."""
        if one.asked_s is not None:
            if now_s - one.asked_s < self._silence_s:
                return False
            one.asked_s = None
            if one.pulse is not Pulse.FINE:
                one.pulse = Pulse.HUNG
        silent = num_in_flight > 0 and now_s - one.heard_s >= self._silence_s
        if one.pulse is Pulse.FINE and silent:
            one.pulse = Pulse.SUSPECT
        if one.pulse is Pulse.FINE:
            return False
        one.asked_s = now_s
        return True
