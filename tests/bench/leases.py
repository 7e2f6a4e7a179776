"""What a lease costs over gRPC: `python -m tests.bench.leases [--json] [--quick]`.

A standalone lease server in a process of its own, its ledger durable (SQLite, WAL, synchronous FULL) in a temporary
folder; acquire + release by 1 and by 50 clients, with 0, 1,000 and 10,000 other leases held. Beside it, in turns, so
that a busy machine is busy for all: a bare `grpc.aio` echo, and a commit of such a row to SQLite. Asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc

from serve_app.leases.rpcs import messages_and_services
from tests.bench.grpc_echo import METHOD
from tests.bench.server_process import python_server

HELD: Final = (0, 1_000, 10_000)
NUM_CLIENTS: Final = 50
_ROW: Final = "x" * 200
_FILLERS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Medians over the rounds, each a median over its calls. `pairs_per_s`: acquire + release."""

    num_held: int
    acquire_ms: float
    release_ms: float
    call_ms: float
    call_p99_ms: float
    pairs_per_s: float
    pairs_per_s_50: float
    call_ms_50: float
    echo_ms: float
    echo_p99_ms: float
    commit_ms: float

    @property
    def over_echo(self) -> float:
        return self.call_ms / self.echo_ms

    @property
    def over_base(self) -> float:
        """Against an echo and a commit, the least that a durable answer over gRPC can cost."""
        return self.call_ms / (self.echo_ms + self.commit_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    num_rounds: int
    num_pairs: int
    num_pairs_50: int


@dataclass(frozen=True, slots=True)
class Addresses:
    leases: str
    echo: str


def _timed(call: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began_s)


class OneClient:
    """Synchronous calls, one after the other."""

    def __init__(self, at: Addresses) -> None:
        self._pb, services = messages_and_services()
        self._channels = [grpc.insecure_channel(at.leases), grpc.insecure_channel(at.echo)]
        self._stub = services.ModelOpsStub(self._channels[0])
        self._echo: Any = self._channels[1].unary_unary(METHOD)
        self._request = self._pb.AcquireGpuLeaseRequest(client="bench", model_name="m", vram_estimate_mb=1)

    def pair_ms(self) -> tuple[float, float]:
        began_s = time.perf_counter()
        lease = self._stub.AcquireGpuLease(self._request)
        acquired_ms = 1e3 * (time.perf_counter() - began_s)
        if not lease.granted:
            raise RuntimeError(f"refused: {lease.message}")
        release = self._pb.ReleaseGpuLeaseRequest(client="bench", lease_id=lease.lease_id, epoch=lease.epoch)
        return acquired_ms, _timed(lambda: self._stub.ReleaseGpuLease(release))

    def echo_ms(self) -> float:
        message = self._request.SerializeToString()
        return _timed(lambda: self._echo(message))

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


async def many(address: str, *, num_clients: int, num_pairs: int) -> tuple[float, list[float]]:
    """Pairs a second, and the time of each call in ms."""
    pb, services = messages_and_services()
    calls_ms: list[float] = []

    async def client(number: int) -> None:
        async def call(method: Any, request: Any) -> Any:
            began_s = time.perf_counter()
            answer = await method(request)
            calls_ms.append(1e3 * (time.perf_counter() - began_s))
            return answer

        name = f"c{number}"
        for _ in range(num_pairs // num_clients):
            asked = pb.AcquireGpuLeaseRequest(client=name, model_name="m", vram_estimate_mb=1)
            lease = await call(stub.AcquireGpuLease, asked)
            if not lease.granted:
                raise RuntimeError(f"refused: {lease.message}")
            done = pb.ReleaseGpuLeaseRequest(client=name, lease_id=lease.lease_id, epoch=lease.epoch)
            await call(stub.ReleaseGpuLease, done)

    async with grpc.aio.insecure_channel(address) as channel:
        stub = services.ModelOpsStub(channel)
        began_s = time.perf_counter()
        await asyncio.gather(*(client(number) for number in range(num_clients)))
        return len(calls_ms) / 2 / (time.perf_counter() - began_s), calls_ms


async def fill(address: str, count: int) -> None:
    """Leases that stay for a day."""
    pb, services = messages_and_services()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = services.ModelOpsStub(channel)

        async def some(number: int) -> None:
            for _ in range(number, count, _FILLERS):
                asked = pb.AcquireGpuLeaseRequest(
                    client=f"f{number}", model_name="m", vram_estimate_mb=1, ttl_seconds=86_400
                )
                await stub.AcquireGpuLease(asked)

        await asyncio.gather(*(some(number) for number in range(_FILLERS)))


class Commits:
    """One row and one commit at a time, as the ledger makes them, on the same disk."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
        self._next = 0

    def commit_ms(self) -> float:
        self._next += 1
        return _timed(self._one)

    def _one(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT INTO rows VALUES (?, ?)", (self._next, _ROW))
        self._db.execute("COMMIT")


def measure(at: Addresses, commits: Commits, size: Size, *, num_held: int) -> Row:
    rounds = [_round(at, commits, size) for _ in range(size.num_rounds)]
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return Row(num_held=num_held, **middle)


def _round(at: Addresses, commits: Commits, size: Size) -> dict[str, float]:
    """Everything by turns: a pair, an echo, a commit, and again; then the fifty."""
    client = OneClient(at)
    pairs, echoes, written = [], [], []
    for _ in range(size.num_pairs):
        pairs.append(client.pair_ms())
        echoes.append(client.echo_ms())
        written.append(commits.commit_ms())
    client.close()
    calls = [ms for pair in pairs for ms in pair]
    per_s_50, calls_50 = asyncio.run(many(at.leases, num_clients=NUM_CLIENTS, num_pairs=size.num_pairs_50))
    return {
        "acquire_ms": statistics.median(pair[0] for pair in pairs),
        "release_ms": statistics.median(pair[1] for pair in pairs),
        "call_ms": statistics.median(calls),
        "call_p99_ms": statistics.quantiles(calls, n=100)[-1],
        "pairs_per_s": 1e3 / statistics.mean(sum(pair) for pair in pairs),
        "pairs_per_s_50": per_s_50,
        "call_ms_50": statistics.median(calls_50),
        "echo_ms": statistics.median(echoes),
        "echo_p99_ms": statistics.quantiles(echoes, n=100)[-1],
        "commit_ms": statistics.median(written),
    }


def show(rows: Sequence[Row]) -> None:
    heads = (
        "held",
        "acquire",
        "release",
        "call",
        "p99",
        "pairs/s",
        "50: call",
        "50: pairs/s",
        "echo",
        "echo p99",
        "commit",
    )
    print("".join(f"{head:>12}" for head in (*heads, "call/echo", "/(echo+commit)")), " (times in ms)")
    for row in rows:
        cells = [f"{row.num_held:,}"]
        cells += [f"{ms:.2f}" for ms in (row.acquire_ms, row.release_ms, row.call_ms, row.call_p99_ms)]
        cells += [f"{row.pairs_per_s:,.0f}", f"{row.call_ms_50:.2f}", f"{row.pairs_per_s_50:,.0f}"]
        cells += [f"{value:.2f}" for value in _bases(row)]
        print("".join(f"{cell:>12}" for cell in cells))


def _bases(row: Row) -> tuple[float, ...]:
    return row.echo_ms, row.echo_p99_ms, row.commit_ms, row.over_echo, row.over_base


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    asked = parser.parse_args()
    size = (
        Size(num_rounds=1, num_pairs=200, num_pairs_50=500)
        if asked.quick
        else Size(num_rounds=5, num_pairs=400, num_pairs_50=2000)
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="headroom-leases-") as folder:
        options = ["--simulated-device", "GPU-0=80GB", "--ledger", f"{folder}/leases.db", "--zeromq-port", "0"]
        commits = Commits(Path(folder) / "base.db")
        with (
            python_server("serve_app.leases.standalone", *options) as leases,
            python_server("tests.bench.grpc_echo") as echo,
        ):
            at = Addresses(urlsplit(leases.url).netloc, urlsplit(echo.url).netloc)
            measure(at, commits, Size(num_rounds=1, num_pairs=100, num_pairs_50=200), num_held=0)  # warms up
            filled = 0
            for num_held in HELD:
                asyncio.run(fill(at.leases, num_held - filled))
                filled = num_held
                rows.append(measure(at, commits, size, num_held=num_held))
    show(rows)
    if asked.json:
        told = [{**asdict(row), "over_echo": row.over_echo, "over_base": row.over_base} for row in rows]
        print(json.dumps({"bench": "leases", "rows": told, "growth": rows[-1].call_ms / rows[0].call_ms}))


if __name__ == "__main__":
    main()
