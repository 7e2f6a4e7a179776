"""The figures of the address bench, as a page for people and as one JSON object. Pure but for the machine's load."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.first_request import FirstRequest
from tests.bench.http_load import tool
from tests.bench.pairs import Pairs
from tests.bench.rounds import Row
from tests.bench.servers import Engine

GIB = 1 << 30
OURS = "headroom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """By name of the server: seconds from start to ready, PSS after the load, cores used while idle."""

    start_s: Mapping[str, float]
    pss_bytes: Mapping[str, int]
    idle_cores: Mapping[str, float]
    firsts: Sequence[FirstRequest]
    pairs: Pairs
    uncached: Sequence[Row]
    cached: Sequence[Row]
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What issue and design ask for. `most`: the figure may be no larger than the bound, else no smaller."""

    what: str
    value: float
    bound: float
    most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.most else self.value >= self.bound


def ratios(rows: Sequence[Row], *, ours: str) -> dict[str, float]:
    """Our rate to that of each other way, for each number of clients: the median of the rounds' own ratios.

    What else the machine does changes from round to round, and hits both sides of a round alike.
    """
    by_key = {(row.name, row.num_clients): row for row in rows}
    return {
        f"{ours} / {name} @{num_clients}": statistics.median(
            mine / theirs for mine, theirs in zip(by_key[ours, num_clients].rounds_per_s, row.rounds_per_s, strict=True)
        )
        for (name, num_clients), row in by_key.items()
        if name != ours
    }


def aims(figures: Figures) -> list[Aim]:
    found = []
    to_vllm, to_echo = ratios(figures.uncached, ours=OURS), ratios(figures.cached, ours="cached")
    if (ratio := to_vllm.get(f"{OURS} / vLLM @64")) is not None:
        found.append(Aim(what="uncached, rate to vLLM's, 64 clients", value=ratio, bound=0.85, most=False))
    found.append(Aim(what="added median, 1 client, ms", value=figures.pairs.added_ms, bound=2.0, most=True))
    found += [
        Aim(what=f"cached, rate to the echo's, {name.rpartition('@')[2]} clients", value=ratio, bound=0.85, most=False)
        for name, ratio in to_echo.items()
    ]
    return [
        *found,
        Aim(what="start to ready, s", value=figures.start_s[OURS], bound=120, most=True),
        Aim(
            what="first request to the next ten",
            value=max(first.ratio for first in figures.firsts),
            bound=2,
            most=True,
        ),
        Aim(what="memory of all processes, GiB", value=figures.pss_bytes[OURS] / GIB, bound=16, most=True),
    ]


def table(rows: Sequence[Row]) -> str:
    head = f"{'':22} {'clients':>7} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8} {'requests':>9}"
    lines = [
        f"{row.name:22} {row.num_clients:7} {row.per_s:8.0f} {row.median_ms:8.2f} {row.p99_ms:8.2f} "
        f"{row.cpu_us:8.0f} {row.num_requests:9}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def conditions() -> str:
    return (
        f"load generator: {tool()}; {len(os.sched_getaffinity(0))} cores shared with it; "
        f"load average now {os.getloadavg()[0]:.1f}"
    )


def as_text(figures: Figures) -> str:
    engine = figures.engine
    parts = [
        conditions(),
        f"model {engine.checkpoint.parent.name}, {engine.dtype}, {engine.max_model_len} tokens, "
        f"{engine.max_num_seqs} sequences, KV cache {engine.kv_cache_bytes / 2**20:.0f} MiB, eager, one OpenMP thread, "
        "no binding; 'vLLM' has the product's engine variables (VLLM_ENABLE_V1_MULTIPROCESSING=0 too) "
        "and no statistics and access log, "
        "'vLLM, its defaults' has neither",
        f"\nuncached, every prompt new, 16 tokens\n{table(figures.uncached)}",
        _ratio_lines(ratios(figures.uncached, ours=OURS)),
        _pairs_line(figures.pairs),
        f"\ncached, and a bare echo route on the same ingress\n{table(figures.cached)}",
        _ratio_lines(ratios(figures.cached, ours="cached")),
        "\nper server",
        *(
            f"  {name:22} ready after {figures.start_s[name]:6.1f} s   {figures.pss_bytes[name] / GIB:5.2f} GiB   "
            f"idle {100 * figures.idle_cores[name]:4.1f} % of a core"
            for name in figures.start_s
        ),
        "\nfirst request after ready, and the median of the next ten",
        *(
            f"  {one.model:22} {one.first_ms:7.1f} ms {one.next_ms:7.1f} ms   {one.ratio:5.2f}×"
            for one in figures.firsts
        ),
        "\naims",
        *(_aim_line(aim) for aim in aims(figures)),
    ]
    return "\n".join(parts)


def as_document(figures: Figures) -> dict[str, Any]:
    return {
        "conditions": conditions(),
        "start_s": dict(figures.start_s),
        "pss_bytes": dict(figures.pss_bytes),
        "idle_cores": dict(figures.idle_cores),
        "first_requests": [{**asdict(first), "ratio": first.ratio} for first in figures.firsts],
        "uncached": [asdict(row) for row in figures.uncached],
        "cached": [asdict(row) for row in figures.cached],
        "ratios": {**ratios(figures.uncached, ours=OURS), **ratios(figures.cached, ours="cached")},
        "pairs": asdict(figures.pairs),
        "aims": [{**asdict(aim), "met": aim.met} for aim in aims(figures)],
    }


def _pairs_line(pairs: Pairs) -> str:
    return (
        f"\none client, {pairs.num_pairs} pairs of requests in turns: vLLM {pairs.base_median_ms:.2f} ms, "
        f"{OURS} {pairs.ours_median_ms:.2f} ms, added {pairs.added_ms:.2f} ms "
        f"(95 % sure: {pairs.low_ms:.2f} to {pairs.high_ms:.2f})"
    )


def _ratio_lines(found: Mapping[str, float]) -> str:
    return "\n".join(f"  {name:44} {ratio:5.2f}" for name, ratio in found.items())


def _aim_line(aim: Aim) -> str:
    sign = "≤" if aim.most else "≥"
    return f"  {'met   ' if aim.met else 'MISSED'} {aim.what:42} {aim.value:7.2f}  ({sign} {aim.bound:g})"
