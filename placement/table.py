"""The fleet while the heuristic fills it: what lies where, and what lower priorities have running there.

Mutable, owned by one run of `greedy`; knows nothing of goals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub

from placement.feasible import Load, host_bytes_of
from placement.problem import DeviceSet, Problem, set_cost

Seat = tuple[DeviceSet, int]
"""Where a replica lies, and what it offloads per device."""

Seats = Sequence[Sequence[Seat]]
"""By demand number."""


@dataclass(slots=True)
class Share:
    """One placed replica of `problem.demands[index]`; `offload_bytes` per device may still grow."""

    index: int
    devices: DeviceSet
    offload_bytes: int


class Table:
    """`rest` and `start` per device number and `cpu` and `host` per node number: what is placed.

    `spare` is how many bytes the replicas on a device could still offload. `costs`, `sizes` and `singles` (the set of
    the one device) say again what the problem says, to be looked up fast.
    """

    def __init__(self, problem: Problem, pending: Pending) -> None:
        self.problem = problem
        self.rest = [0] * len(problem.devices)
        self.start = [0] * len(problem.devices)
        self.cpu = [0] * len(problem.nodes)
        self.host = [0] * len(problem.nodes)
        self.spare = [0] * len(problem.devices)
        self.costs = [set_cost(problem, (number,)) for number in range(len(problem.devices))]
        self.sizes = [max(1, device.total_bytes) for device in problem.devices]
        self.singles: list[DeviceSet] = [(number,) for number in range(len(problem.devices))]
        self.set_costs: dict[DeviceSet, int] = {}
        self.shares: list[list[Share]] = [[] for _ in problem.demands]
        self.on_device: list[list[Share]] = [[] for _ in problem.devices]
        self._most_left: int | None = None
        self.pending = pending

    def fits(self, number: int, need: Load) -> bool:
        start = max(self.start[number], need.start_bytes)
        return self.rest[number] + need.rest_bytes + start <= self.problem.budgets[number]

    def most_left(self) -> int:
        """Bytes left at rest on the emptiest device: no larger peak fits anywhere."""
        if self._most_left is None:
            self._most_left = max(map(sub, self.problem.budgets, self.rest), default=0)
        return self._most_left

    def takes(self, index: int, devices: DeviceSet, offload_bytes: int = 0) -> bool:
        """Whether one more replica of the demand fits on these devices and beside them."""
        need = self.problem.needs[index].without(offload_bytes)
        return all(self.fits(number, need) for number in devices) and self.node_takes(index, devices, offload_bytes)

    def set_cost(self, devices: DeviceSet) -> int:
        """`set_cost`, reckoned once."""
        if devices not in self.set_costs:
            self.set_costs[devices] = set_cost(self.problem, devices)
        return self.set_costs[devices]

    def node_takes(self, index: int, devices: DeviceSet, offload_bytes: int = 0) -> bool:
        """Whether the node has the cores and the host memory."""
        problem, node = self.problem, self.problem.node_of[devices[0]]
        demand, budget = problem.demands[index], problem.nodes[node]
        if self.cpu[node] + demand.cpu_millis > budget.cpu_millis:
            return False
        host = self.host[node] + host_bytes_of(demand, offload_bytes)
        return host + self._on_host_devices(budget.host_devices, index, devices) <= budget.memory_bytes

    def _on_host_devices(self, hosts: DeviceSet, index: int, devices: DeviceSet) -> int:
        """Bytes at the peak on the devices that are the node's memory, with one more replica."""
        need, total = self.problem.needs[index], 0
        for number in hosts:
            here = number in devices
            start = max(self.start[number], need.start_bytes) if here else self.start[number]
            total += self.rest[number] + need.rest_bytes * here + start
        return total

    def place(self, index: int, devices: DeviceSet, offload_bytes: int = 0) -> None:
        share, self._most_left = Share(index, devices, 0), None
        need, demand, node = self.problem.needs[index], self.problem.demands[index], self.problem.node_of[devices[0]]
        for number in devices:
            self.rest[number] += need.rest_bytes
            self.start[number] = max(self.start[number], need.start_bytes)
            self.spare[number] += self.problem.max_offloads[index]
            self.on_device[number].append(share)
        self.cpu[node] += demand.cpu_millis
        self.host[node] += demand.host_memory_bytes
        self.shares[index].append(share)
        self.offload(share, offload_bytes)

    def offload(self, share: Share, more_bytes: int) -> None:
        """Moves so many more bytes of the share, on each of its devices, to host memory."""
        if not more_bytes:
            return
        self._most_left = None
        share.offload_bytes += more_bytes
        for number in share.devices:
            self.rest[number] -= more_bytes
            self.spare[number] -= more_bytes
        self.host[self.problem.node_of[share.devices[0]]] += more_bytes * len(share.devices)

    def displaces(self, number: int, need: Load) -> bool:
        """True if a running replica of lower priority would have to leave this device."""
        rest, start = self.pending.rest[number], self.pending.start[number]
        if not rest and not start:
            return False
        together = self.rest[number] + rest + need.rest_bytes
        return together + max(self.start[number], start, need.start_bytes) > self.problem.budgets[number]

    def displaces_on_node(self, index: int, node: int) -> bool:
        """True if a running replica of lower priority would lose its cores or its host memory."""
        demand, budget, pending = self.problem.demands[index], self.problem.nodes[node], self.pending
        cpu = self.cpu[node] + pending.cpu[node] + demand.cpu_millis
        host = self.host[node] + pending.host[node] + demand.host_memory_bytes
        return (pending.cpu[node] > 0 and cpu > budget.cpu_millis) or (
            pending.host[node] > 0 and host > budget.memory_bytes
        )


class Pending:
    """What replicas with a seat, of demands not yet turned to, take there; they stay if they can.

    Summed from the last demand to the first, with every step remembered, so that turning to a demand undoes its own.
    """

    def __init__(self, problem: Problem, seats: Seats) -> None:
        self.rest = [0] * len(problem.devices)
        self.start = [0] * len(problem.devices)
        self.cpu = [0] * len(problem.nodes)
        self.host = [0] * len(problem.nodes)
        self._undo: list[list[tuple[list[int], int, int]]] = [[] for _ in problem.demands]
        for index in reversed(range(len(problem.demands))):
            self._add(problem, index, seats[index])

    @property
    def is_empty(self) -> bool:
        return not any(self.rest) and not any(self.start)

    def turn_to(self, index: int) -> None:
        """The demand's own replicas wait no longer; demands are turned to in their order."""
        for values, position, before in reversed(self._undo[index]):
            values[position] = before

    def _add(self, problem: Problem, index: int, seats: Sequence[Seat]) -> None:
        need, demand = problem.needs[index], problem.demands[index]
        for devices, offload in seats[: demand.num_replicas]:
            node = problem.node_of[devices[0]]
            for number in devices:
                self._set(index, self.rest, number, self.rest[number] + need.rest_bytes - offload)
                self._set(index, self.start, number, max(self.start[number], need.start_bytes))
            self._set(index, self.cpu, node, self.cpu[node] + demand.cpu_millis)
            self._set(index, self.host, node, self.host[node] + host_bytes_of(demand, offload))

    def _set(self, index: int, values: list[int], position: int, value: int) -> None:
        self._undo[index].append((values, position, values[position]))
        values[position] = value
