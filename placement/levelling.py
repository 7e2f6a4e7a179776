"""Devices filled more evenly: two of them at a time share out anew what may move between them, in every way there is.

Nothing that comes before evenness gets worse, and what of it has been left gets better: siblings on one device, ailing
devices, siblings on one node. Replicas over several devices, offloaded ones and those that stay where they run lie
still. Limited by counted work; the order of the pairs follows from the policy's seed alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from zlib import crc32

from placement.columns import Work
from placement.evenness import cost_of_peak, unevenness
from placement.exact_model import FULL
from placement.feasible import sum_loads
from placement.problem import Answer, Problem, loads_of, set_cost, uses_of
from placement.table import Seat

SOLVER = "pairs"

MAX_FREE = 10
"""Replicas of a pair that are shared out anew; where there are more, some lie still this time."""
WORK_PER_PAIR = 100
"""Beside one unit for every way to share out."""
LEAST_GAIN = 1 / 2000
"""A tournament that gained less than this part of all unevenness is the last."""

SQUARES = 1 << 21
"""Of equally even fills the one with the lower squares, so that what a tangent does not tell apart still improves."""
SAME_NODE = SQUARES << 22
AILING = SAME_NODE << 12
TOGETHER = AILING << 16
NEVER = TOGETHER << 12

VALUES = tuple(cost_of_peak(fill, FULL) * SQUARES + fill * fill for fill in range(FULL + 1))
"""By fill in thousandths."""


def levelled(problem: Problem, answer: Answer, work: Work) -> Answer:
    """The answer after as many tournaments, in which every pair meets once, as are worth it, or till work is spent."""
    board = Board(problem, answer)
    usable = (number for of_node in problem.usable for number in of_node)
    numbers = sorted(usable, key=lambda number: _lot(problem.policy.seed, number))
    changed_in, num_rounds = dict.fromkeys(numbers, -1), len(numbers) - 1 + len(numbers) % 2
    gained, enough = 0, unevenness(problem, answer) * SQUARES * LEAST_GAIN
    for now, pairs in enumerate(_rounds(numbers)):
        if work.is_done or (now and now % num_rounds == 0 and gained <= enough):
            break
        gained *= now % num_rounds != 0
        for first, second in pairs:
            if max(changed_in[first], changed_in[second]) >= now - num_rounds and not work.is_done:
                work.spend(WORK_PER_PAIR + (1 << min(MAX_FREE, board.num_free(first, second))))
                gain = board.level(first, second)
                gained += gain
                if gain:
                    changed_in[first] = changed_in[second] = now
    return board.answer() if max(changed_in.values(), default=-1) >= 0 else answer


def _lot(*drawn: int) -> tuple[int, tuple[int, ...]]:
    """The order in which these are drawn, as good as by chance."""
    return crc32(repr(drawn).encode()), drawn


def _rounds(numbers: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Rounds of a tournament without end: everybody meets everybody once before anybody meets again."""
    ring = list[int | None](numbers)
    ring += [None] * (len(ring) % 2)
    while len(ring) > 1:
        half = len(ring) // 2
        both = zip(ring[:half], reversed(ring[half:]), strict=True)
        yield [(a, b) for a, b in both if a is not None and b is not None]
        ring.insert(1, ring.pop())


class Board:
    """Which replicas lie where: `still` by demand, `free` by device the demand numbers of those that may move.

    `on_device` and `on_node` count the replicas of each demand, whether they may move or not; `still_loads` are the
    loads of those that may not. `cpus` and `hosts` are what replicas take of every node beside its devices.
    """

    def __init__(self, problem: Problem, answer: Answer) -> None:
        self.problem, self._num_draws = problem, 0
        self.still = [list(_lying_still(problem, answer, index)) for index in range(len(problem.demands))]
        self.free: list[list[int]] = [[] for _ in problem.devices]
        self.on_device = [Counter[int]() for _ in problem.devices]
        self.on_node = [Counter[int]() for _ in problem.nodes]
        for index, sets in enumerate(answer.sets):
            seats = Counter(zip(sets, answer.offloads_of(index), strict=True)) - Counter(self.still[index])
            for (number, *_), _ in seats.elements():
                self.free[number].append(index)
            for devices in sets:
                self.on_node[problem.node_of[devices[0]]][index] += 1
                for number in devices:
                    self.on_device[number][index] += 1
        sets_of = [[devices for devices, _ in seats] for seats in self.still]
        self.still_loads = loads_of(problem, sets_of, [[offload for _, offload in seats] for seats in self.still])
        self.allowed = [frozenset(n for of_node in nodes for n in of_node) for nodes in problem.allowed]
        self.costs = [set_cost(problem, (number,)) * AILING for number in range(len(problem.devices))]
        uses = uses_of(problem, answer.sets, answer.offloads)
        self.cpus, self.hosts = [use.cpu_millis for use in uses], [use.host_bytes for use in uses]
        self.asks_beside = any(d.cpu_millis or d.host_memory_bytes for d in problem.demands)

    def num_free(self, first: int, second: int) -> int:
        return len(self.free[first]) + len(self.free[second])

    def level(self, first: int, second: int) -> int:
        """What the pair has gained by sharing out its replicas anew."""
        node_of, nodes = self.problem.node_of, self.problem.nodes
        is_one_node = node_of[first] == node_of[second]
        if is_one_node and self.asks_beside and nodes[node_of[first]].host_devices:
            return 0
        here, there = self._chosen(first, second)
        if not here and not there:
            return 0
        items, now = [*here, *there], (1 << len(here)) - 1
        away = (1 << len(items)) - 1 - now
        ours = self._values(first, items, now, crosses=not is_one_node)
        theirs = self._values(second, items, away, crosses=not is_one_node)
        totals = [mine + yours for mine, yours in zip(ours, reversed(theirs), strict=True)]
        best = min(totals)
        if best >= min(NEVER, totals[now]):
            return 0
        chosen = totals.index(best)
        self._swap(first, here, _members(items, chosen))
        self._swap(second, there, _members(items, now + away - chosen))
        return totals[now] - best

    def _chosen(self, first: int, second: int) -> tuple[list[int], list[int]]:
        """Replicas of both that are shared out anew: all, or so many by lot."""
        here, there = self.free[first], self.free[second]
        if len(here) + len(there) <= MAX_FREE:
            return list(here), list(there)
        self._num_draws += 1
        seed, positions = self.problem.policy.seed, range(len(here) + len(there))
        drawn = sorted(positions, key=lambda at: _lot(seed, self._num_draws, at))[:MAX_FREE]
        return (
            [index for at, index in enumerate(here) if at in drawn],
            [index for at, index in enumerate(there, len(here)) if at in drawn],
        )

    def _swap(self, number: int, out: Sequence[int], new: Sequence[int]) -> None:
        for index in out:
            self.free[number].remove(index)
            self._count(number, index, -1)
        for index in new:
            self.free[number].append(index)
            self._count(number, index, 1)

    def _count(self, number: int, index: int, num: int) -> None:
        node, demand = self.problem.node_of[number], self.problem.demands[index]
        self.on_device[number][index] += num
        self.on_node[node][index] += num
        self.cpus[node] += demand.cpu_millis * num
        self.hosts[node] += demand.host_memory_bytes * num

    def _values(self, number: int, items: Sequence[int], now: int, *, crosses: bool) -> list[int]:
        """By subset of the items, as a bit mask: what it is to have these on the device, smaller is better.

        `now` is the subset that lies there; `crosses`: the other device is on another node.
        """
        out = Counter(_members(items, now))
        needs, beside = self.problem.needs, Counter(self.free[number]) - out
        still = self.still_loads[number]
        rests = [still.rest_bytes + sum(needs[i].rest_bytes * num for i, num in beside.items())]
        starts = [max([still.start_bytes, *(needs[i].start_bytes for i in beside)])]
        penalties = [0]
        for at, index in enumerate(items):
            rest, start = needs[index].rest_bytes, needs[index].start_bytes
            rests += [before + rest for before in rests]
            starts += [before if before > start else start for before in starts]  # twice as fast
            first, more = self._penalties(number, index, out[index], crosses=crosses)
            same = sum(1 << other for other in range(at) if items[other] == index)
            if same:
                penalties += [before + (more if mask & same else first) for mask, before in enumerate(penalties)]
            else:
                penalties += [before + first for before in penalties]
        peaks = [rest + start for rest, start in zip(rests, starts, strict=True)]
        if crosses and self.asks_beside:
            self._bar(number, items, now, peaks, penalties)
        budget, total = max(0, self.problem.budgets[number]), self.problem.devices[number].total_bytes
        return [
            penalty + VALUES[-(-FULL * peak // total)] if peak <= budget else NEVER
            for peak, penalty in zip(peaks, penalties, strict=True)
        ]

    def _penalties(self, number: int, index: int, num_out: int, *, crosses: bool) -> tuple[int, int]:
        """For the first of a demand's replicas on the device, beside those that stay there, and for each more."""
        if number not in self.allowed[index]:
            return NEVER, NEVER
        cost, on_node = self.costs[number], self.on_node[self.problem.node_of[number]][index] - num_out
        more = cost + TOGETHER + SAME_NODE * crosses
        first = cost + SAME_NODE * (crosses and on_node > 0)
        return (more if self.on_device[number][index] > num_out else first), more

    def _bar(self, number: int, items: Sequence[int], now: int, peaks: Sequence[int], penalties: list[int]) -> None:
        """Never what takes more of the node's cores or host memory than there is, unless no more than now."""
        node, demands = self.problem.node_of[number], self.problem.demands
        budget, out = self.problem.nodes[node], _members(items, now)
        cpus = [self.cpus[node] - sum(demands[index].cpu_millis for index in out)]
        hosts = [self.hosts[node] - sum(demands[index].host_memory_bytes for index in out)]
        hosts[0] += sum(self._peak(host) for host in budget.host_devices if host != number)
        for index in items:
            cpus += [before + demands[index].cpu_millis for before in cpus]
            hosts += [before + demands[index].host_memory_bytes for before in hosts]
        if number in budget.host_devices:
            hosts = [beside + peak for beside, peak in zip(hosts, peaks, strict=True)]
        most_cpu, most_host = max(budget.cpu_millis, cpus[now]), max(budget.memory_bytes, hosts[now])
        for mask, (cpu, host) in enumerate(zip(cpus, hosts, strict=True)):
            if cpu > most_cpu or host > most_host:
                penalties[mask] = NEVER

    def _peak(self, number: int) -> int:
        loads = (self.problem.needs[index] for index in self.free[number])
        return sum_loads([self.still_loads[number], *loads]).peak_bytes

    def answer(self) -> Answer:
        seats: list[list[Seat]] = [list(of_demand) for of_demand in self.still]
        for number, here in enumerate(self.free):
            for index in here:
                seats[index].append(((number,), 0))
        sets = tuple(tuple(devices for devices, _ in of_demand) for of_demand in seats)
        offloads = tuple(tuple(offload for _, offload in of_demand) for of_demand in seats)
        return Answer(sets, SOLVER, None, offloads if any(map(any, offloads)) else ())


def _lying_still(problem: Problem, answer: Answer, index: int) -> Iterator[Seat]:
    """Seats of the demand that no pair shares out."""
    runs = Counter(zip(problem.running[index], problem.running_offloads[index], strict=True))
    for seat in zip(answer.sets[index], answer.offloads_of(index), strict=True):
        devices, offload = seat
        runs[seat] -= 1
        if len(devices) > 1 or offload or runs[seat] >= 0:
            yield seat


def _members(items: Sequence[int], mask: int) -> list[int]:
    return [index for at, index in enumerate(items) if mask >> at & 1]
