"""What the cache would have done with recorded traffic at other times to live and sizes. Pure.

The same rules as `cache.MemoryStore`: bounded by bytes over all modes, least recently used first, each by its time,
nothing larger than an eighth of the store.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.gateway.cache_log import Lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Part of look-ups that hit, by mode. `ttl_s` None: never too old; `max_bytes` None: room for everything."""

    ttl_s: float | None
    max_bytes: int | None
    by_mode: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """No time and no size gives more than `best_rate`: the first request for each key cannot hit."""

    num_lookups: int
    num_keys: int

    @property
    def best_rate(self) -> float:
        return 1 - self.num_keys / self.num_lookups


def simulate(lookups: Sequence[Lookup], *, ttl_s: float | None, max_bytes: int | None) -> Rates:
    """`lookups` in order of time."""
    stored: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
    hits: Counter[str] = Counter()
    num_bytes = 0
    for one in lookups:
        name = (one.mode, one.key)
        known = stored.get(name)
        if known is not None and (ttl_s is None or one.at_s < known[0] + ttl_s):
            hits[one.mode] += 1
            stored.move_to_end(name)
            continue
        if known is not None:
            num_bytes -= stored.pop(name)[1]
        if ttl_s == 0 or (max_bytes is not None and one.num_bytes > max_bytes // 8):
            continue
        stored[name] = (one.at_s, one.num_bytes)
        num_bytes += one.num_bytes
        while max_bytes is not None and num_bytes > max_bytes:
            num_bytes -= stored.popitem(last=False)[1][1]
    totals = Counter(one.mode for one in lookups)
    return Rates(ttl_s=ttl_s, max_bytes=max_bytes, by_mode={mode: hits[mode] / totals[mode] for mode in totals})


def bounds(lookups: Sequence[Lookup]) -> dict[str, Bound]:
    """By mode."""
    totals = Counter(one.mode for one in lookups)
    keys = Counter(mode for mode, _ in {(one.mode, one.key) for one in lookups})
    return {mode: Bound(num_lookups=totals[mode], num_keys=keys[mode]) for mode in totals}


def verdict(mode: str, bound: Bound, rates: Sequence[Rates], *, target: float) -> str:
    """A sentence: out of reach for any cache, reached and with what at least, or only beyond what was tried."""
    first = f"{bound.num_keys} of {bound.num_lookups} requests were the first of their kind"
    best = f"at most {bound.best_rate:.1%}: {first}"
    if bound.best_rate < target:
        return f"{mode}: {target:.0%} cannot be reached at any time to live; {best}."
    reached = [one for one in rates if one.by_mode.get(mode, 0.0) >= target]
    if not reached:
        return f"{mode}: {target:.0%} is not reached by what was tried; {best}."
    least = min(reached, key=lambda one: (one.ttl_s or float("inf"), one.max_bytes or float("inf")))
    return f"{mode}: {target:.0%} is reached from {least.ttl_s:g} s on, with {least.by_mode[mode]:.1%}."
