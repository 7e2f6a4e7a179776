"""What is left of the service under more load than it can take: `python -m tests.bench.overload [--json]`.

An open loop: requests start at fixed times whatever became of those before, and are timed from when they should have
started. A scripted engine works on 64 requests at a time, 0.8 s each, so its capacity is known: 80 a second. Load
is 1x, 2x, 5x and 10x of that, each followed by a pause and a look at how soon a lone request is answered as before.
Good is a whole answer within the mode's target, from the model it says. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson

from tests.bench.growth_plot import Series, growth_plot
from tests.bench.server_process import python_server
from tests.bench.servers import RESULTS

NUM_SEQS = 64
"""Of one replica of the gateway that stands alone."""
WORDS, TOKEN_S = 8, 0.1
CAPACITY_PER_S = NUM_SEQS / (WORDS * TOKEN_S)
TARGET_S = 2.5
TIMES = (1, 2, 5, 10)
_SECRET = "local-secret"
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
_RECOVERED_S = 1.5 * WORDS * TOKEN_S
_RECOVERY_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `took_s` counts from the intended start; status 0: the connection failed."""

    status: int
    took_s: float
    has_retry_after: bool
    is_openai_error: bool
    is_honest: bool
    model: str = ""
    """Who answered, as the body has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    times: int
    offered_per_s: float
    good_per_s: float
    answered_per_s: float
    p50_accepted_s: float
    p99_accepted_s: float
    p50_rejected_ms: float
    p99_rejected_ms: float
    statuses: dict[str, int]
    honest_ratio: float
    """Answers whose header and body name the model that gave them, and refusals in OpenAI's form with `Retry-After`."""
    recovery_s: float | None
    """From the end of the load until a lone request is answered as fast as before; None: not within 30 s."""


class Connections:
    """Idle keep-alive connections to one address; a new one where none is idle."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._address = (host, int(port))
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer. Raises OSError or EOFError when it fails, ValueError without length."""
        reader, writer = self._take() or await asyncio.open_connection(*self._address)
        writer.write(_HEAD % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        answer = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return head, answer

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One that the server has not closed meanwhile."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
        return None


async def _ask(to: Connections, number: int, intended_s: float) -> Asked:
    text = f"question {number}"
    body = orjson.dumps({"model": "fast", "messages": [{"role": "user", "content": text}], "max_tokens": WORDS})
    try:
        head, answer = await to.post(body)
    except (OSError, EOFError, ValueError):
        return Asked(0, time.perf_counter() - intended_s, False, False, False)
    return _read(head, answer, time.perf_counter() - intended_s)


def _read(raw_head: bytes, raw_body: bytes, took_s: float) -> Asked:
    first, *lines = raw_head.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines if b": " in line)
    try:
        status, document = int(first.split(b" ")[1]), orjson.loads(raw_body)
    except (IndexError, ValueError):
        return Asked(0, took_s, False, False, False)
    if status == 200:
        model = document["model"]
        return Asked(status, took_s, False, False, headers.get(b"x-headroom-model", b"").decode() == model, model)
    is_error = isinstance(document.get("error"), dict) and {"message", "type", "code"} <= document["error"].keys()
    return Asked(status, took_s, b"retry-after" in headers, is_error, is_error and b"retry-after" in headers)


async def load(to: Connections, *, per_s: float, duration_s: float, first: int) -> list[Asked]:
    began_s = time.perf_counter()
    tasks = []
    for number in range(int(per_s * duration_s)):
        intended_s = began_s + number / per_s
        await asyncio.sleep(max(0.0, intended_s - time.perf_counter()))
        tasks.append(asyncio.create_task(_ask(to, first + number, intended_s)))
    return await asyncio.gather(*tasks)


async def _recovery_s(to: Connections) -> float | None:
    ended_s = time.perf_counter()
    number = 0
    while time.perf_counter() - ended_s < _RECOVERY_LIMIT_S:
        number -= 1
        one = await _ask(to, number - int(ended_s), time.perf_counter())
        if one.status == 200 and one.took_s <= _RECOVERED_S:
            return time.perf_counter() - ended_s - one.took_s
        await asyncio.sleep(0.05)
    return None


def _row(times: int, per_s: float, duration_s: float, asked: list[Asked], recovery_s: float | None) -> Row:
    accepted = [one.took_s for one in asked if one.status == 200]
    rejected = [1e3 * one.took_s for one in asked if one.status in (429, 503)]
    return Row(
        times=times,
        offered_per_s=per_s,
        good_per_s=sum(took_s <= TARGET_S for took_s in accepted) / duration_s,
        answered_per_s=len(accepted) / duration_s,
        p50_accepted_s=_quantile(accepted, 0.5),
        p99_accepted_s=_quantile(accepted, 0.99),
        p50_rejected_ms=_quantile(rejected, 0.5),
        p99_rejected_ms=_quantile(rejected, 0.99),
        statuses={str(status): count for status, count in sorted(Counter(one.status for one in asked).items())},
        honest_ratio=sum(one.is_honest for one in asked) / len(asked),
        recovery_s=recovery_s,
    )


def _quantile(values: Sequence[float], part: float) -> float:
    """NaN of none."""
    return sorted(values)[int(part * (len(values) - 1))] if values else float("nan")


async def _measure(to: Connections, duration_s: float) -> list[Row]:
    rows = []
    for index, times in enumerate(TIMES):
        per_s = times * CAPACITY_PER_S
        asked = await load(to, per_s=per_s, duration_s=duration_s, first=index * 1_000_000)
        rows.append(_row(times, per_s, duration_s, asked, await _recovery_s(to)))
        await asyncio.sleep(6.0)
    return rows


def measure(*, duration_s: float) -> list[Row]:
    """Each load for so long, before one gateway and one engine, each a process of its own."""
    engine_says = ("--words", str(WORDS), "--token-s", str(TOKEN_S), "--secret", _SECRET)
    with (
        python_server("serve_app.engines.scripted", *engine_says) as engine,
        python_server("serve_app.gateway.standalone", "--backend", f"mini={engine.url}") as gateway,
    ):
        return asyncio.run(_measure(Connections(gateway.url), duration_s))


def _plot(rows: list[Row]) -> str:
    series = [
        Series(name="offered", points=tuple((float(row.times), row.offered_per_s) for row in rows)),
        Series(name="good", points=tuple((float(row.times), max(0.1, row.good_per_s)) for row in rows)),
    ]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "overload.png"
    growth_plot(series, title="Goodput under overload", x="load, times capacity", y="per s").save(path)
    return path.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--duration", type=float, default=15.0, help="seconds of each load")
    args = parser.parse_args()
    rows = measure(duration_s=args.duration)
    plot = _plot(rows)
    kept = rows[-1].good_per_s / rows[0].good_per_s if rows[0].good_per_s else 0.0
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "goodput_kept": kept, "plot": plot}, indent=2))
        return
    print(f"{'load':>5} {'offered/s':>9} {'good/s':>7} {'ok p50 s':>8} {'ok p99 s':>8}", end="")
    print(f" {'no p50 ms':>9} {'no p99 ms':>9} {'honest':>7} {'back s':>7}  statuses")
    for row in rows:
        back = "–" if row.recovery_s is None else f"{row.recovery_s:.2f}"
        print(f"{row.times:4}x {row.offered_per_s:9.0f} {row.good_per_s:7.1f} {row.p50_accepted_s:8.2f}", end="")
        print(f" {row.p99_accepted_s:8.2f} {row.p50_rejected_ms:9.1f} {row.p99_rejected_ms:9.1f}", end="")
        print(f" {row.honest_ratio:7.2%} {back:>7}  {row.statuses}")
    print(f"\ngoodput at {rows[-1].times}x / at 1x: {kept:.2f}; plot: bench-results/{plot}")


if __name__ == "__main__":
    main()
