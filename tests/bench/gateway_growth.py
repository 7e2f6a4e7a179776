"""How the gateway's costs grow: `python -m tests.bench.gateway_growth [--quick] [--json]`.

Tenants and cached entries in this process, without sockets; gateway replicas as stand-alone processes that keep one
cache by owners, as under Ray, where memory and addresses are other. All share the machine's cores with the load and
the engine: beyond as many replicas as cores, rates say nothing of replicas, while CPU per request still does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import psutil

from serve_app.access.keys import RANDOM_BYTES, Grant, KeyRecord, KeySnapshot, Role, digest_of, new_key
from serve_app.gateway.cache import MemoryStore
from serve_app.gateway.standalone import standalone_gateway
from tests.bench.gateway_parts import ENTRY, NUM_WORDS, PATH, SECRET, asked_us, chat_body, put_answer
from tests.bench.growth_plot import Series, growth_plot
from tests.bench.http_load import VARIED, load
from tests.bench.played_engine import ENGINE_URL, PlayedClient, play_engine
from tests.bench.server_process import ServerProcess, free_port, python_server
from tests.bench.servers import RESULTS

TENANTS = (1, 10, 100, 1_000, 10_000)
ENTRIES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
REPLICAS = (1, 2, 4, 8)
CACHE_BYTES = 256 * 1024 * 1024
"""`cache.max_bytes` of the repository's own cluster.yaml."""
NUM_PROMPTS = 32
NUM_CLIENTS = 16
PLOT = RESULTS / "gateway-growth.png"
_SAMPLED = 20_000
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantsRow:
    """CPU µs of whole requests, ASGI to ASGI, each of another tenant with a key of its own; all ask in every round."""

    num_tenants: int
    cached_us: float
    forwarded_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesRow:
    """`num_kept` of `num_entries` fit into the bound; CPU µs; `rss_bytes` is what the process grew by."""

    num_entries: int
    num_kept: int
    num_bytes: int
    rss_bytes: int
    put_us: float
    look_up_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasRow:
    """CPU µs of all gateways together per request; PSS per gateway that nobody has asked anything yet."""

    num_replicas: int
    idle_pss_bytes: int
    cached_per_s: float
    cached_us: float
    uncached_per_s: float
    uncached_us: float
    num_errors: int


def tenants(num_tenants: int, *, times: int) -> TenantsRow:
    return asyncio.run(_tenants(num_tenants, times))


async def _tenants(num_tenants: int, times: int) -> TenantsRow:
    randomness = random.Random(num_tenants)  # keys that protect nothing
    keys = [new_key(randomness.randbytes(RANDOM_BYTES)) for _ in range(num_tenants)]
    records = tuple(_record(number, key_id, text) for number, (key_id, text) in enumerate(keys))
    gateway = standalone_gateway(
        [("mini", ENGINE_URL)], secret=SECRET, access=KeySnapshot(version=1, is_closed=True, records=records)
    )
    play_engine(gateway.pool)
    for record in records:
        await put_answer(gateway, chat_body("fast"), tenant=record.grant.tenant or "")
    clients = {
        model: [
            PlayedClient(gateway, PATH, chat_body(model), [(b"authorization", b"Bearer " + text.encode())])
            for _, text in keys
        ]
        for model in ("fast", "mini")
    }
    row = TenantsRow(
        num_tenants=num_tenants,
        cached_us=await asked_us(clients["fast"], times=max(times, num_tenants)),
        forwarded_us=await asked_us(clients["mini"], times=max(times, num_tenants)),
    )
    await gateway.aclose()
    return row


def _record(number: int, key_id: str, text: str) -> KeyRecord:
    grant = Grant(
        roles=frozenset({Role.INFERENCE}), tenant=f"tenant-{number}", requests_per_min=10**9, tokens_per_min=10**9
    )
    return KeyRecord(
        id=key_id, digest=digest_of(text.encode()), grant=grant, note="bench", made_by="", created_at_s=0.0
    )


def entries(num_entries: int) -> EntriesRow:
    """Fill a store of `CACHE_BYTES`, then look up what it kept."""
    gc.collect()
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    store = MemoryStore(max_bytes=CACHE_BYTES, clock=time.monotonic)
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(num_entries)]
    put_us = _per_item_us(lambda: asyncio.run(_put_all(store, keys)), num_entries)
    num_kept = store.usage(ENTRY.mode).num_entries or 0
    kept = random.Random(0).choices(keys[-num_kept:], k=_SAMPLED)
    look_up_us = _per_item_us(lambda: [store.lookup(key) for key in kept], len(kept))
    assert store.lookup(keys[-1]) is not None
    return EntriesRow(
        num_entries=num_entries,
        num_kept=num_kept,
        num_bytes=store.num_bytes,
        rss_bytes=process.memory_info().rss - before_bytes,
        put_us=put_us,
        look_up_us=look_up_us,
    )


async def _put_all(store: MemoryStore, keys: Sequence[bytes]) -> None:
    for number, key in enumerate(keys):
        body = b"%08d" % number + ENTRY.body[8:]  # bytes of its own, as answers have
        await store.put(key, type(ENTRY)(**{**asdict(ENTRY), "body": body}), ttl_s=10_000)


def _per_item_us(work: Callable[[], object], num_items: int) -> float:
    began_s = time.process_time()
    work()
    return 1e6 * (time.process_time() - began_s) / num_items


def replicas(num_replicas: int, *, duration_s: int) -> ReplicasRow:
    """Raises RuntimeError when a server does not start."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(
            python_server("serve_app.engines.scripted", "--words", str(NUM_WORDS), "--secret", SECRET)
        )
        ports = [free_port() for _ in range(num_replicas)]
        peers = [f"--peer=g{number}=http://127.0.0.1:{port}" for number, port in enumerate(ports)]
        own = ["--backend", f"mini={engine.url}", "--secret", SECRET, *peers]
        gateways = [
            stack.enter_context(
                python_server("serve_app.gateway.standalone", *own, "--replica", f"g{number}", port=port)
            )
            for number, port in enumerate(ports)
        ]
        idle_bytes = sum(gateway.pss_bytes() for gateway in gateways) // num_replicas
        cached = _asked(gateways, "fast", num_variants=NUM_PROMPTS, duration_s=duration_s)
        uncached = _asked(gateways, "mini", num_variants=NUM_PROMPTS, duration_s=duration_s)
    return ReplicasRow(
        num_replicas=num_replicas,
        idle_pss_bytes=idle_bytes,
        cached_per_s=cached[0],
        cached_us=cached[1],
        uncached_per_s=uncached[0],
        uncached_us=uncached[1],
        num_errors=cached[2] + uncached[2],
    )


def _asked(
    gateways: Sequence[ServerProcess], model: str, *, num_variants: int, duration_s: int
) -> tuple[float, float, int]:
    """Requests a second and CPU µs of all gateways, and errors; the clients are spread evenly."""
    body = chat_body(model, user="bench").replace(b"headroom?", b"headroom? " + VARIED.encode())
    clients = max(1, NUM_CLIENTS // len(gateways))

    def ask(gateway: ServerProcess, for_s: int) -> tuple[int, float, int]:
        done = load(gateway.url + PATH, body, num_clients=clients, duration_s=for_s, num_variants=num_variants)
        return done.num_requests, done.per_s, done.num_errors

    with ThreadPoolExecutor(len(gateways)) as pool:
        list(pool.map(lambda one: ask(one, 1), gateways))  # fills the cache
        before_s = sum(gateway.cpu_s() for gateway in gateways)
        done = list(pool.map(lambda one: ask(one, duration_s), gateways))
        used_s = sum(gateway.cpu_s() for gateway in gateways) - before_s
    num_requests = sum(one[0] for one in done)
    return sum(one[1] for one in done), 1e6 * used_s / max(1, num_requests), sum(one[2] for one in done)


def plot(
    by_tenants: Sequence[TenantsRow], by_entries: Sequence[EntriesRow], by_replicas: Sequence[ReplicasRow]
) -> None:
    """CPU per request over what grows; the counts share one axis."""
    series = [
        Series(name="tenants", points=tuple((row.num_tenants, row.cached_us) for row in by_tenants)),
        Series(name="entries", points=tuple((row.num_entries, row.look_up_us) for row in by_entries)),
        Series(name="replicas", points=tuple((row.num_replicas, row.cached_us) for row in by_replicas)),
    ]
    PLOT.parent.mkdir(exist_ok=True)
    title = "CPU microseconds: cached request by tenants and by replicas, look-up alone by entries"
    growth_plot(series, title=title, x="tenants, entries, gateway replicas", y="").save(PLOT)


def show_tenants(rows: Sequence[TenantsRow]) -> None:
    print(f"{'tenants':>10} {'cached µs':>10} {'forwarded µs':>13}")
    for row in rows:
        print(f"{row.num_tenants:10,} {row.cached_us:10.1f} {row.forwarded_us:13.1f}", flush=True)


def show_entries(rows: Sequence[EntriesRow]) -> None:
    print(f"\n{'entries':>10} {'kept':>8} {'bound MiB':>10} {'RSS MiB':>8} {'put µs':>8} {'look-up µs':>11}")
    for row in rows:
        print(
            f"{row.num_entries:10,} {row.num_kept:8,} {row.num_bytes / _MIB:10.1f} {row.rss_bytes / _MIB:8.1f} "
            f"{row.put_us:8.2f} {row.look_up_us:11.2f}",
            flush=True,
        )


def show_replicas(rows: Sequence[ReplicasRow]) -> None:
    print(f"\nstand-alone gateway processes on {len(os.sched_getaffinity(0))} shared cores, {NUM_CLIENTS} clients")
    print(f"{'replicas':>10} {'idle MiB':>9} {'cached/s':>9} {'µs':>7} {'uncached/s':>11} {'µs':>7} {'errors':>7}")
    for row in rows:
        print(
            f"{row.num_replicas:10} {row.idle_pss_bytes / _MIB:9.1f} {row.cached_per_s:9.0f} {row.cached_us:7.0f} "
            f"{row.uncached_per_s:11.0f} {row.uncached_us:7.0f} {row.num_errors:7}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="fewer requests, shorter loads")
    asked = parser.parse_args()
    by_tenants = [tenants(number, times=500 if asked.quick else 4_000) for number in TENANTS]
    show_tenants(by_tenants)
    by_entries = [entries(number) for number in ENTRIES]
    show_entries(by_entries)
    by_replicas = [replicas(number, duration_s=2 if asked.quick else 5) for number in REPLICAS]
    show_replicas(by_replicas)
    plot(by_tenants, by_entries, by_replicas)
    print(f"\nplot: {PLOT.name}")
    if asked.json:
        told = {
            "tenants": [asdict(tenant) for tenant in by_tenants],
            "entries": [asdict(entry) for entry in by_entries],
            "replicas": [asdict(row) for row in by_replicas],
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main()
