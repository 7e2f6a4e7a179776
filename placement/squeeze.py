"""Room for one more replica by moving weights to host memory, where nothing else makes it fit.

Its own weights go first, then those of replicas on the same devices, the least important first: the more important
a replica, the less it pays. Only as many bytes go as are short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from placement.feasible import host_bytes_of
from placement.problem import DeviceSet, may_offload
from placement.table import Share, Table


@dataclass(frozen=True, slots=True)
class _Squeeze:
    """`own_bytes` of the new replica and `others`, each with how much more it offloads per device."""

    devices: DeviceSet
    own_bytes: int
    others: tuple[tuple[Share, int], ...]

    @property
    def cost(self) -> tuple[int, DeviceSet]:
        of_others = sum(more * len(share.devices) for share, more in self.others)
        return self.own_bytes * len(self.devices) + of_others, self.devices


def squeeze_in(table: Table, index: int, sets: Iterable[DeviceSet]) -> bool:
    """Places one replica on the set where the fewest bytes have to go; False if it fits nowhere even so."""
    hopeful = (devices for devices in sets if _is_hopeful(table, index, devices))
    found = (squeeze for devices in hopeful if (squeeze := _squeeze_on(table, index, devices)))
    best = min(found, key=lambda squeeze: squeeze.cost, default=None)
    if best is None:
        return False
    for share, more in best.others:
        table.offload(share, more)
    table.place(index, best.devices, best.own_bytes)
    return True


def _is_hopeful(table: Table, index: int, devices: DeviceSet) -> bool:
    """False where it is plain at a glance that it cannot work."""
    most_own = table.problem.max_offloads[index]
    return all(_short_bytes(table, index, number) <= most_own + table.spare[number] for number in devices)


def _squeeze_on(table: Table, index: int, devices: DeviceSet) -> _Squeeze | None:
    problem, node = table.problem, table.problem.node_of[devices[0]]
    demand, budget = problem.demands[index], problem.nodes[node]
    if budget.host_devices or table.cpu[node] + demand.cpu_millis > budget.cpu_millis:
        return None
    short = {number: _short_bytes(table, index, number) for number in devices}
    most_own = problem.max_offloads[index] if may_offload(problem, index, node) else 0
    own = min(most_own, max(0, *short.values()))
    gifts = _gifts(table, {number: by - own for number, by in short.items()})
    if gifts is None:
        return None
    host = host_bytes_of(demand, own) + sum(more * len(share.devices) for share, more in gifts)
    return _Squeeze(devices, own, tuple(gifts)) if table.host[node] + host <= budget.memory_bytes else None


def _short_bytes(table: Table, index: int, number: int) -> int:
    """Bytes by which one more replica is too large for the device; negative where it fits."""
    need = table.problem.needs[index]
    start = max(table.start[number], need.start_bytes)
    return table.rest[number] + need.rest_bytes + start - table.problem.budgets[number]


def _gifts(table: Table, short: dict[int, int]) -> list[tuple[Share, int]] | None:
    """What replicas on these devices offload to free so much on each; None if they cannot."""
    given: dict[int, tuple[Share, int]] = {}
    for number in short:
        for share in _givers(table, number):
            before = given[id(share)][1] if id(share) in given else 0
            more = min(short[number], table.problem.max_offloads[share.index] - share.offload_bytes - before)
            if more > 0:
                given[id(share)] = share, before + more
                short = {n: by - more * (n in share.devices) for n, by in short.items()}
        if short[number] > 0:
            return None
    return list(given.values())


def _givers(table: Table, number: int) -> Iterator[Share]:
    """Replicas on the device from the least important up."""
    return reversed(table.on_device[number])
