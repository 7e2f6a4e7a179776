"""When a count changes: row B10 as a state machine. Time is an argument; what it decides others carry out.

A signal must be beyond its bound in every sample for the whole hold time. Never down while any signal is above its
upper bound, however briefly. One step at a time; after a change all holds start anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from serve_app.scaling.decision import Decision, Outcome
from serve_app.scaling.limits import LimitsNow, limits_at
from serve_app.scaling.rules import MAX_REPLICAS, Band, Direction, Kind, ScalingSettings, Signal, Target

MAX_GAP_S: Final = 60.0
"""Without a sample for longer nobody knows that a signal held, so it did not."""
FORGET_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One target as measured now. A signal that is not in `values` could not be measured: it is beyond no bound.

    `num_replicas` is the count asked for last, `configured` the one the configuration names.
    """

    target: Target
    num_replicas: int
    configured: int
    values: Mapping[Signal, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a target stands, for eyes. `holding` says of each signal beyond a bound for how long, in seconds."""

    sample: Sample
    limits: LimitsNow
    holding: tuple[tuple[Signal, Direction, float], ...]
    cooling_s: float
    """Left of the cooldown; 0 when it is over."""
    is_changing: bool


@dataclass(slots=True)
class _Track:
    sample: Sample
    limits: LimitsNow
    seen_s: float
    since_s: dict[tuple[Signal, Direction], float] = field(default_factory=dict)
    cool_until_s: float = float("-inf")
    retry_at_s: float = float("-inf")
    is_changing: bool = False
    hand: tuple[int, int] | None = None
    """The count the configuration named when a person asked for another, and that other."""

    def base(self, configured: int) -> int:
        """A count asked for by hand holds until the configuration says something new."""
        return self.hand[1] if self.hand is not None and self.hand[0] == configured else configured


@dataclass(frozen=True, slots=True)
class _Wish:
    to_replicas: int
    reason: str


class ScalingPolicy:
    """One owner: the loop that feeds it. Every decision without an outcome must come back through `settled`."""

    def __init__(self, settings: ScalingSettings) -> None:
        self._settings = settings
        self._tracks: dict[Target, _Track] = {}

    def saw(self, samples: Iterable[Sample], *, now_s: float, at: datetime) -> tuple[Decision, ...]:
        """`now_s` is monotonic; `at`, with a time zone, is for schedules alone."""
        decisions = [self._judge(self._noted(sample, now_s, at), now_s) for sample in samples]
        for target in [one for one, track in self._tracks.items() if now_s - track.seen_s > FORGET_S]:
            del self._tracks[target]
        return tuple(decision for decision in decisions if decision is not None)

    def by_hand(self, target: Target, count: int, *, now_s: float, at: datetime) -> Decision | str:
        """A person's wish, or the sentence that refuses it. Signals and cooldown do not bind people; limits do.

        Where no limit is given the count asked for takes the place of the configured one.
        """
        track = self._tracks.get(target)
        if track is None:
            known = ", ".join(sorted(one.name for one in self._tracks)) or "none yet"
            return f"Nothing called '{target.name[:64]}' is scaled. Known: {known}."
        if track.is_changing:
            return f"'{target.name}' is changing its count now. Try again when it is done."
        if count == 0 and target.kind is not Kind.ENGINE:
            return f"'{target.name}' cannot have 0: only models can sleep. Ask for 1 or more."
        limits = limits_at(self._settings, target, configured=count, at=at)
        if not max(0, limits.min_replicas) <= count <= min(limits.max_replicas, MAX_REPLICAS):
            return (
                f"'{target.name}' cannot have {count}: its limits are {limits.min_replicas} to "
                f"{min(limits.max_replicas, MAX_REPLICAS)}{_by(limits)}. Change them below `scaling` in cluster.yaml."
            )
        if count == track.sample.num_replicas:
            return f"'{target.name}' has {count} already."
        track.is_changing = True
        return replace(_decision(track.sample, _Wish(count, "asked for by hand")), by_hand=True)

    def settled(self, decision: Decision, *, now_s: float) -> None:
        """What became of a decision: applied starts the cooldown and all holds anew, anything else a short rest."""
        track = self._tracks.get(decision.target)
        if track is None:
            return
        track.is_changing = False
        if decision.outcome is Outcome.APPLIED:
            if decision.by_hand and decision.to_replicas:  # sleep is no count to hold: a request ends it
                track.hand = (track.sample.configured, decision.to_replicas)
            track.cool_until_s = now_s + self._settings.cooldown_s
            track.since_s.clear()
        else:
            track.retry_at_s = now_s + self._settings.retry_s

    def standings(self, *, now_s: float) -> tuple[Standing, ...]:
        return tuple(
            Standing(
                sample=track.sample,
                limits=track.limits,
                holding=tuple((*key, now_s - since_s) for key, since_s in sorted(track.since_s.items())),
                cooling_s=max(0.0, track.cool_until_s - now_s),
                is_changing=track.is_changing,
            )
            for _, track in sorted(self._tracks.items(), key=lambda item: item[0].name)
        )

    def _bands(self, target: Target) -> tuple[Band, ...]:
        return self._settings.bands[target.kind]

    def _noted(self, sample: Sample, now_s: float, at: datetime) -> _Track:
        """The target's track with this sample in it: since when each signal is beyond which bound."""
        known = self._tracks.get(sample.target)
        base = sample.configured if known is None else known.base(sample.configured)
        limits = limits_at(self._settings, sample.target, configured=base, at=at)
        track = known or self._tracks.setdefault(sample.target, _Track(sample=sample, limits=limits, seen_s=now_s))
        if now_s - track.seen_s > MAX_GAP_S:
            track.since_s.clear()
        track.sample, track.limits, track.seen_s = sample, limits, now_s
        for band in self._bands(sample.target):
            for direction in Direction:
                value = sample.values.get(band.signal)
                if value is not None and band.is_beyond(direction, value):
                    track.since_s.setdefault((band.signal, direction), now_s)
                else:
                    track.since_s.pop((band.signal, direction), None)
        return track

    def _judge(self, track: _Track, now_s: float) -> Decision | None:
        if track.is_changing or track.sample.num_replicas == 0:  # asleep: a request wakes it, no signal does
            return None
        wish = self._wish(track, now_s)
        if wish is None or (now_s < track.retry_at_s and now_s >= track.cool_until_s):
            return None
        decision = _decision(track.sample, wish)
        if wish.to_replicas == track.sample.num_replicas:
            message = f"its limits are {track.limits.min_replicas} to {track.limits.max_replicas}"
            return replace(decision, outcome=Outcome.AT_LIMIT, message=message)
        if now_s < track.cool_until_s:
            message = f"{track.cool_until_s - now_s:.0f} s of the cooldown are left"
            return replace(decision, outcome=Outcome.COOLING_DOWN, message=message)
        track.is_changing = True
        return decision

    def _wish(self, track: _Track, now_s: float) -> _Wish | None:
        """The count that should be, the same count when a limit forbids it, or None when all is well."""
        current, limits = track.sample.num_replicas, track.limits
        if current < limits.min_replicas:
            return _Wish(limits.min_replicas, f"below its minimum of {limits.min_replicas}{_by(limits)}")
        up = next(self._held(track, Direction.UP, now_s), None)
        if up is not None:
            return _Wish(max(current, min(current + 1, limits.max_replicas)), up)
        if any(direction is Direction.UP for _, direction in track.since_s):
            return None
        if current > limits.max_replicas:
            return _Wish(current - 1, f"above its maximum of {limits.max_replicas}{_by(limits)}")
        down = next(self._held(track, Direction.DOWN, now_s), None)
        return _Wish(current - 1, down) if down is not None and current > limits.min_replicas else None

    def _held(self, track: _Track, direction: Direction, now_s: float) -> Iterator[str]:
        """A clause for each signal that has been beyond its bound for the whole hold time."""
        for band in self._bands(track.sample.target):
            since_s = track.since_s.get((band.signal, direction))
            if since_s is None or now_s - since_s < band.hold_s(direction):
                continue
            sign = ">" if direction is Direction.UP else "<"
            value = track.sample.values[band.signal]
            yield f"{band.signal} {value:.4g} {sign} {band.bound(direction):g} for {now_s - since_s:.0f} s"


def _decision(sample: Sample, wish: _Wish) -> Decision:
    goes_down = wish.to_replicas < sample.num_replicas
    return Decision(
        target=sample.target,
        direction=Direction.DOWN if goes_down else Direction.UP,
        from_replicas=sample.num_replicas,
        to_replicas=wish.to_replicas,
        reason=wish.reason,
    )


def _by(limits: LimitsNow) -> str:
    return f" (schedule '{limits.schedule}')" if limits.schedule else ""
