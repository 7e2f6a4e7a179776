"""What the gateway costs: `python -m tests.bench.gateway [--json] [--duration S]`.

Side by side in one run, in turns, so that a busy machine is busy for all: a bare echo route against a cached answer,
and a scripted engine asked directly against the same through the gateway, whole and streamed. CPU time per
request is read from the processes themselves and depends least on what else runs. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from typing import Any

from tests.bench.gateway_parts import NUM_WORDS, PATH, SECRET, chat_body, parts
from tests.bench.http_load import Load, load, tool
from tests.bench.server_process import ServerProcess, python_server

CLIENTS = (1, 16, 64)


@dataclass(frozen=True, slots=True)
class Row:
    """One way to ask, over several rounds. `cpu_us` is that of the server asked, per request."""

    name: str
    num_clients: int
    per_s: float
    median_ms: float
    p99_ms: float
    cpu_us: float
    num_errors: int


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    url: str
    body: bytes
    server: ServerProcess


def _rows(ways: list[Way], num_clients: int, *, duration_s: int, rounds: int) -> list[Row]:
    taken: dict[str, list[tuple[Load, float]]] = {way.name: [] for way in ways}
    for way in ways:
        load(way.url, way.body, num_clients=num_clients, duration_s=1)
    for _ in range(rounds):
        for way in ways:
            before_s = way.server.cpu_s()
            done = load(way.url, way.body, num_clients=num_clients, duration_s=duration_s)
            taken[way.name].append((done, 1e6 * (way.server.cpu_s() - before_s) / max(1, done.num_requests)))
    return [_row(name, num_clients, done) for name, done in taken.items()]


def _row(name: str, num_clients: int, done: list[tuple[Load, float]]) -> Row:
    return Row(
        name=name,
        num_clients=num_clients,
        per_s=statistics.median(one.per_s for one, _ in done),
        median_ms=statistics.median(one.median_ms for one, _ in done),
        p99_ms=statistics.median(one.p99_ms for one, _ in done),
        cpu_us=statistics.median(cpu_us for _, cpu_us in done),
        num_errors=sum(one.num_errors for one, _ in done),
    )


def measure(*, duration_s: int, rounds: int) -> list[Row]:
    """All ways with each number of clients."""
    answer = b"x" * 420
    with (
        python_server("tests.bench.echo_server", "--answer", answer.decode()) as echo,
        python_server("tests.bench.echo_server", "--answer", answer.decode(), "--more-headers", "7") as echo_headers,
        python_server("serve_app.engines.scripted", "--words", str(NUM_WORDS), "--secret", "") as direct,
        python_server("serve_app.engines.scripted", "--words", str(NUM_WORDS), "--secret", SECRET) as engine,
        python_server("serve_app.gateway.standalone", "--backend", f"mini={engine.url}") as gateway,
    ):
        groups = [
            [
                Way("echo", echo.url + PATH, chat_body("fast"), echo),
                Way("echo, 7 more headers", echo_headers.url + PATH, chat_body("fast"), echo_headers),
                Way("cached", gateway.url + PATH, chat_body("fast"), gateway),
                Way("cached stream", gateway.url + PATH, chat_body("fast", stream=True), gateway),
            ],
            [
                Way("engine direct", direct.url + PATH, chat_body("mini"), direct),
                Way("through gateway", gateway.url + PATH, chat_body("mini"), gateway),
            ],
            [
                Way("engine direct, stream", direct.url + PATH, chat_body("mini", stream=True), direct),
                Way("through gateway, stream", gateway.url + PATH, chat_body("mini", stream=True), gateway),
            ],
        ]
        return [
            row
            for num_clients in CLIENTS
            for ways in groups
            for row in _rows(ways, num_clients, duration_s=duration_s, rounds=rounds)
        ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Rate through the gateway to the rate without, for each number of clients."""
    per_s = {(row.name, row.num_clients): row.per_s for row in rows}
    pairs = (
        ("cached", "echo"),
        ("cached", "echo, 7 more headers"),
        ("cached stream", "echo"),
        ("through gateway", "engine direct"),
        ("through gateway, stream", "engine direct, stream"),
    )
    return {f"{ours} / {base} @{n}": per_s[ours, n] / per_s[base, n] for ours, base in pairs for n in CLIENTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--duration", type=int, default=3, help="seconds per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    steps = parts()
    rows = measure(duration_s=args.duration, rounds=args.rounds)
    if args.json:
        page = {"tool": tool(), "cpu_us": steps, "rows": [_as_dict(row) for row in rows], "ratios": ratios(rows)}
        print(json.dumps(page, indent=2))
        return
    print(f"load: {tool()}\n\nCPU µs per step")
    for name, cost_us in steps.items():
        print(f"  {name:36} {cost_us:8.1f}")
    print(f"\n{'way':26} {'clients':>7} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8} {'errors':>7}")
    for row in rows:
        print(
            f"{row.name:26} {row.num_clients:7} {row.per_s:8.0f} {row.median_ms:8.2f} {row.p99_ms:8.2f} "
            f"{row.cpu_us:8.0f} {row.num_errors:7}"
        )
    print()
    for name, ratio in ratios(rows).items():
        print(f"{name:52} {ratio:6.2f}")


def _as_dict(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__slots__}


if __name__ == "__main__":
    main()
