"""What is usually asked: counts of asks seen so far, and what follows from them alone.

A mix may be given (the workload is known) or learnt from arrivals. It holds the past and never the future.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from placement.ask import Ask

Futures = tuple[tuple[Ask, ...], ...]


class Mix:
    """Counts by ask. Host memory does not tell two asks apart: it is held to, but not planned for."""

    def __init__(self, seen: Iterable[Ask] = ()) -> None:
        self.counts: Counter[Ask] = Counter()
        for ask in seen:
            self.add(ask)

    def add(self, ask: Ask) -> None:
        self.counts[_without_memory(ask)] += 1

    @property
    def num_seen(self) -> int:
        return self.counts.total()

    def shares_of_demand(self) -> dict[Ask, float]:
        """Each ask's part of all device millis asked for; empty when none were."""
        total = sum(count * ask.total_device_millis for ask, count in self.counts.items())
        weights = {ask: count * ask.total_device_millis for ask, count in self.counts.items()}
        return {ask: weight / total for ask, weight in weights.items() if weight} if total else {}

    def futures(self, *, num_futures: int, length: int, seed: int) -> Futures:
        """Sampled arrivals in which each ask has its exact share over all futures together, in a shuffled order.

        Shares are kept exact, not drawn: with few futures the luck of a draw would be planned for. None before the
        first arrival.
        """
        size, cumulated, pool = num_futures * length, 0, list[Ask]()
        for ask, count in sorted(self.counts.items(), key=lambda item: (-item[1], _order(item[0]))):
            cumulated += count
            pool += [ask] * (round(cumulated * size / self.num_seen) - len(pool))
        _shuffle(pool, seed)
        return tuple(tuple(pool[start : start + length]) for start in range(0, len(pool), length))


def pressure_by_type(mix: Mix, devices_by_type: Mapping[str, int]) -> dict[str, float]:
    """How much of the demand would lie on each device type, per device, if all of it were spread evenly.

    1.0 on average, and everywhere when no ask names a type. Above that, asks that name the type need it more than
    others have to. Asks for types that are not here press on nothing.
    """
    pressure = dict.fromkeys(devices_by_type, 0.0)
    total = sum(devices_by_type.values())
    for ask, share in mix.shares_of_demand().items():
        allowed = [name for name in devices_by_type if not ask.device_types or name in ask.device_types]
        room = sum(devices_by_type[name] for name in allowed)
        for name in allowed:
            pressure[name] += share * total / room if room else 0.0
    return pressure


def _without_memory(ask: Ask) -> Ask:
    if ask.host_memory_bytes == 0:
        return ask
    return Ask(
        cpu_millis=ask.cpu_millis,
        num_devices=ask.num_devices,
        device_millis=ask.device_millis,
        device_types=ask.device_types,
    )


def _order(ask: Ask) -> tuple[int, int, int, tuple[str, ...]]:
    return ask.cpu_millis, ask.num_devices, ask.device_millis, ask.device_types


def _shuffle(pool: list[Ask], seed: int) -> None:
    """Fisher and Yates, with a generator of our own: the same futures on any version of Python.

    Source: multiplier and increment of the 64-bit linear congruential generator in Knuth, TAOCP 2, 3.3.4.
    """
    state = seed
    for last in range(len(pool) - 1, 0, -1):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        chosen = (state >> 33) * (last + 1) >> 31
        pool[last], pool[chosen] = pool[chosen], pool[last]
