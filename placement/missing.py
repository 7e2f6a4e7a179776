"""A demand with replicas missing from an answer: what refusal and advice both look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from placement.demand import Demand
from placement.feasible import Load, fits, limit_bytes, room_bytes, slots
from placement.problem import DeviceSet, Problem


@dataclass(frozen=True, slots=True)
class Missing:
    """`problem.demands[index]` has fewer replicas in `sets` than it asks for; `loads` are those of `sets`."""

    problem: Problem
    sets: tuple[tuple[DeviceSet, ...], ...]
    loads: Sequence[Load]
    index: int

    @property
    def demand(self) -> Demand:
        return self.problem.demands[self.index]

    @property
    def need(self) -> Load:
        return self.problem.needs[self.index]

    @property
    def num_placed(self) -> int:
        return len(self.sets[self.index])

    def fits_on(self, number: int) -> bool:
        return fits(self.problem.budgets[number], self.loads[number], self.need)

    def room_on(self, number: int) -> int:
        """The largest peak that would still fit on the device, for a replica that starts like this one."""
        return room_bytes(self.problem.budgets[number], self.loads[number], self.need)

    def limit_of(self, number: int) -> int:
        return limit_bytes(self.problem.devices[number].total_bytes, self.problem.policy.headroom)

    def short_bytes(self) -> int | None:
        """Least bytes by which a peak must shrink to fit somewhere as things are; None where no shrinking helps."""
        size = self.demand.tensor_parallel
        nodes = (sorted(map(self.room_on, usable), reverse=True) for usable in self.problem.usable)
        rooms = [rooms[size - 1] for rooms in nodes if len(rooms) >= size]
        return self.need.peak_bytes - max(rooms) if rooms else None

    def num_that_could_run(self) -> int:
        """Replicas of this demand alone on the whole fleet, every device healthy, uncordoned and free of holdings."""
        places: dict[str, list[int]] = {}
        for number, device in enumerate(self.problem.devices):
            many = slots(self.limit_of(number), self.need, at_most=self.demand.num_replicas)
            places.setdefault(device.node, []).append(many)
        return sum(self._num_groups(of_node) for of_node in places.values())

    def _num_groups(self, places: Sequence[int]) -> int:
        """Most replicas on different devices each, when device i can be in `places[i]` of them."""
        size = self.demand.tensor_parallel
        possible = range(self.demand.num_replicas, 0, -1)
        return next((n for n in possible if sum(min(place, n) for place in places) >= n * size), 0)
