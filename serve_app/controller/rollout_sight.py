"""What a rollout is judged by: how each version answers lately, and how well what it runs on is.

Implements `rollout.world.Judge` and `Watch`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from placement.inventory import DeviceHealth
from serve_app.controller.bringup import Bringup
from serve_app.controller.conditions import USABLE, Conditions
from serve_app.controller.ledger import Ledger
from serve_app.fleet.actors import DeviceReading
from serve_app.rollout.triggers import Signals, Traffic
from serve_app.rollout.world import Replica
from serve_app.training.evaluate import evaluate
from serve_app.training.live import ANSWER_TOKENS
from serve_app.training.tasks import Task, held_out_tasks
from tracing import names
from tracing.metrics import Delta

LATELY_S: Final = 600.0
_MAX_PARTS: Final = 20_000
_DEAD_S: Final = 20.0
"""A replica that served and does not for so long is dead."""
_TOGETHER: Final = 8
_ANSWER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Part:
    """Answers of one version in one report of one gateway. `buckets` are counts, the last one beyond all bounds."""

    at_s: float
    model: str
    version: str
    num_requests: int
    num_errors: int
    buckets: tuple[int, ...]


class AnswersSeen:
    """Made of the running totals that gateways report, each of which is counted once."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, object], tuple[float, ...]] = {}
        self._parts: deque[_Part] = deque(maxlen=_MAX_PARTS)

    def saw(self, deltas: Iterable[Delta], *, now_s: float) -> None:
        for delta in deltas:
            for (metric, labels), total in delta.counters.items():
                if metric == names.ANSWERS.name:
                    self._counted(delta.source, labels, total, now_s)
            for (metric, labels), histogram in delta.histograms.items():
                if metric == names.ANSWER_DURATION.name:
                    self._timed(delta.source, labels, tuple(histogram.counts), now_s)

    def traffic(self, model: str, version: str, *, now_s: float) -> Traffic:
        parts = [
            part
            for part in self._parts
            if (part.model, part.version) == (model, version) and now_s - part.at_s <= LATELY_S
        ]
        buckets = [sum(column) for column in zip(*(part.buckets for part in parts if part.buckets), strict=True)]
        return Traffic(
            num_requests=sum(part.num_requests for part in parts),
            num_errors=sum(part.num_errors for part in parts),
            latency_s=_percentile_s(buckets, 0.95),
        )

    def _counted(self, source: str, labels: tuple[str, ...], total: float, now_s: float) -> None:
        model, version, outcome = labels
        (more,) = self._more(source, (names.ANSWERS.name, labels), (total,))
        if more:
            errors = int(more) if outcome != "success" else 0
            self._parts.append(_Part(now_s, model, version, int(more), errors, ()))

    def _timed(self, source: str, labels: tuple[str, ...], totals: tuple[float, ...], now_s: float) -> None:
        model, version = labels
        more = self._more(source, (names.ANSWER_DURATION.name, labels), totals)
        if any(more):
            self._parts.append(_Part(now_s, model, version, 0, 0, tuple(int(count) for count in more)))

    def _more(self, source: str, key: object, totals: tuple[float, ...]) -> tuple[float, ...]:
        before = self._totals.get((source, key), (0.0,) * len(totals))
        self._totals[source, key] = totals
        return tuple(max(0.0, now - then) for now, then in zip(totals, before, strict=True))


def _percentile_s(buckets: list[int], part: float) -> float | None:
    """Between the bounds of the bucket in which that part of all is reached; the last bound for what is beyond it.

    As Prometheus' `histogram_quantile`: a bound alone would take a step from one bucket to the next for a doubling.
    """
    wanted = part * sum(buckets)
    if not wanted:
        return None
    bounds, reached, lower = names.ANSWER_DURATION.buckets, 0.0, 0.0
    for bound, count in zip((*bounds, bounds[-1]), buckets, strict=True):
        if count and reached + count >= wanted:
            return lower + (bound - lower) * (wanted - reached) / count
        reached, lower = reached + count, bound
    return bounds[-1]


class LiveJudge:
    """Asks a replica its model's test set at its own address: a candidate has no share of the traffic yet."""

    def __init__(self, answers: AnswersSeen, *, secret: str) -> None:
        self._answers = answers
        self._secret = secret

    async def traffic(self, model: str, version: str) -> Traffic:
        return self._answers.traffic(model, version, now_s=time.monotonic())

    async def test_set(self, model: str, replica: Replica, *, traceparent: str | None) -> float | None:
        """None where there is no test set of ours that the model answers anything of."""
        tasks = held_out_tasks()
        room = asyncio.Semaphore(_TOGETHER)
        headers = {"x-headroom-internal": self._secret}
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

            async def ask(task: Task) -> str:
                async with room:
                    return await _asked(session, replica.url, model, task)

            texts = await asyncio.gather(*(ask(task) for task in tasks))
        total = evaluate(zip(tasks, texts, strict=True)).total
        return total.accuracy


async def _asked(session: aiohttp.ClientSession, url: str, model: str, task: Task) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": task.prompt}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
    }
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        told = await answer.json()
    return told["choices"][0]["message"]["content"] or ""


class LiveWatch:
    def __init__(
        self,
        *,
        bringup: Bringup,
        ledger: Ledger,
        conditions: Callable[[], Conditions],
        readings: Callable[[], Mapping[str, DeviceReading]],
        temperature_c: Callable[[str], float | None],
        live: Callable[[], frozenset[str]],
    ) -> None:
        """`live` names the nodes of now, `temperature_c` asks the last poll of a device."""
        self._bringup = bringup
        self._ledger = ledger
        self._conditions = conditions
        self._readings = readings
        self._temperature_c = temperature_c
        self._live = live
        self._well_s: dict[str, float] = {}

    async def signals(self, model: str) -> Signals:
        slots = [slot for slot in self._ledger.slots.values() if slot.model == model]
        devices = {seat.device for slot in slots for seat in slot.seats}
        self._well_s = {name: well_s for name, well_s in self._well_s.items() if name in self._ledger.slots}
        health, live = self._conditions().health, self._live()
        problem = self._bringup.state.problems.get(model)
        temperatures = {device: self._temperature_c(device) for device in devices}
        readings = self._readings()
        return Signals(
            failed_devices=tuple(sorted(one for one in devices if health.get(one, DeviceHealth.HEALTHY) not in USABLE)),
            failed_loads=(model,) if problem else (),
            unreachable_nodes=tuple(sorted({slot.node for slot in slots} - live)) if live else (),
            dead_workers=tuple(name for name in (slot.name for slot in slots) if self._is_dead(name)),
            memory_ratio={
                one: readings[one].used_bytes / readings[one].total_bytes for one in devices if one in readings
            },
            temperature_c={one: value for one, value in temperatures.items() if value is not None},
        )

    def _is_dead(self, slot: str) -> bool:
        """Only who was well can be dead: one that starts takes its time, and says when it cannot."""
        now_s = time.monotonic()
        tenure = self._ledger.tenures.get(slot)
        if tenure is not None and tenure.serves:
            self._well_s[slot] = now_s
        return slot in self._well_s and now_s - self._well_s[slot] > _DEAD_S
