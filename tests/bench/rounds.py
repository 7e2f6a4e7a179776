"""Ways to ask held against each other in turns, A B A B, so that what else the machine does is shared by all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.http_load import Load, load


class WrongAnswers(Exception):
    """A server answered with something else than 200: its figures would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to ask. `cpu_s` reads the CPU time of the server asked."""

    name: str
    url: str
    body: bytes
    cpu_s: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Medians over the rounds, and what each round gave. `cpu_us` is the server's CPU per request."""

    name: str
    num_clients: int
    per_s: float
    median_ms: float
    p99_ms: float
    cpu_us: float
    num_requests: int
    rounds_per_s: tuple[float, ...]
    rounds_median_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """`warm_up_s` of load per way comes first and does not count."""

    num_rounds: int
    duration_s: int
    warm_up_s: int = 1


def measure(ways: Sequence[Way], *, num_clients: int, rounds: Rounds) -> list[Row]:
    """One row per way. Raises WrongAnswers."""
    taken: dict[str, list[tuple[Load, float]]] = {way.name: [] for way in ways}
    for way in ways:
        _checked(way, num_clients, rounds.warm_up_s)
    for number in range(rounds.num_rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            before_s = way.cpu_s()
            done = _checked(way, num_clients, rounds.duration_s)
            taken[way.name].append((done, 1e6 * (way.cpu_s() - before_s) / max(1, done.num_requests)))
    return [_row(name, num_clients, done) for name, done in taken.items()]


def _checked(way: Way, num_clients: int, duration_s: int) -> Load:
    done = load(way.url, way.body, num_clients=num_clients, duration_s=duration_s)
    if done.num_errors or not done.num_requests:
        text = f"{way.name}, {num_clients} clients: {done.num_errors} of {done.num_requests} answers were no 200"
        raise WrongAnswers(text)
    return done


def _row(name: str, num_clients: int, done: list[tuple[Load, float]]) -> Row:
    return Row(
        name=name,
        num_clients=num_clients,
        per_s=statistics.median(one.per_s for one, _ in done),
        median_ms=statistics.median(one.median_ms for one, _ in done),
        p99_ms=statistics.median(one.p99_ms for one, _ in done),
        cpu_us=statistics.median(cpu_us for _, cpu_us in done),
        num_requests=sum(one.num_requests for one, _ in done),
        rounds_per_s=tuple(one.per_s for one, _ in done),
        rounds_median_ms=tuple(one.median_ms for one, _ in done),
    )
