"""CPU µs of each step of the gateway: parse, decide, cache, forward, and of tracing all of it.

In this process, without any server: no sockets are counted. Of several rounds the least counts: what else the machine
does can only add. Tracing includes the export of every span to files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
import uvloop

from serve_app.api.requests import InferenceRequest, parse_request
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.app import Gateway
from serve_app.gateway.cache import Entry, MemoryStore
from serve_app.gateway.catalog import make_catalog
from serve_app.gateway.decide import Decision, Terms, decide
from serve_app.gateway.standalone import standalone_gateway, standalone_settings, standalone_table
from tests.bench.played_engine import ENGINE_URL, PlayedClient, play_engine
from tracing.names import GATEWAY
from tracing.settings import ExportSettings
from tracing.setup import configure, flush

SECRET: Final = "local-secret"  # of servers that live as long as a bench
PATH: Final = "/v1/chat/completions"
NUM_WORDS: Final = 16
ENTRY: Final = Entry(mode="fast", model="mini", weights_version="v", checkpoint_step=1, stream=False, body=b"x" * 420)
WAYS: Final = ("cached", "forwarded", "forwarded stream")
_ROUNDS: Final = 7
_MESSAGES: Final = [
    {"role": "system", "content": "You answer short questions about numbers and words."},
    {"role": "user", "content": "How many letters has the word headroom? Answer with the number alone."},
]


def chat_body(model: str, **fields: Any) -> bytes:
    return orjson.dumps({"model": model, "messages": _MESSAGES, "max_tokens": NUM_WORDS, **fields})


def parts() -> dict[str, float]:
    """Steps by themselves, then whole requests from ASGI to ASGI, then these with every request traced.

    From here on this process traces.
    """
    catalog = make_catalog(standalone_settings(["mini"]), standalone_table([("mini", ENGINE_URL)], secret=SECRET))
    body, terms = chat_body("fast"), Terms(tenant="local")
    request = parse_request(Endpoint.CHAT, body)
    assert isinstance(request, InferenceRequest)
    decision = decide(request, terms, catalog)
    assert isinstance(decision, Decision)
    key = decision.key
    assert key is not None
    store = MemoryStore(max_bytes=1 << 20, clock=time.monotonic)
    asyncio.run(store.put(key, ENTRY, ttl_s=1000))
    found = {
        "parse and check": _us(lambda: parse_request(Endpoint.CHAT, body)),
        "decide, key included": _us(lambda: decide(request, terms, catalog)),
        "look up in memory": _us(lambda: store.lookup(key)),
    }
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        plain = runner.run(_whole_requests())
        with TemporaryDirectory() as folder:
            configure(GATEWAY, settings=ExportSettings(otlp=None, directory=Path(folder), max_per_s=None))
            traced = runner.run(_whole_requests())
    found |= {f"whole {way}, ASGI to ASGI": plain[way] for way in WAYS}
    return found | {f"tracing of it, {way}": traced[way] - plain[way] for way in WAYS}


def _us(work: Callable[[], object], *, times: int = 5_000) -> float:
    def timed_us() -> float:
        began_s = time.process_time()
        for _ in range(times):
            work()
        return 1e6 * (time.process_time() - began_s) / times

    return min(timed_us() for _ in range(_ROUNDS))


async def _whole_requests() -> dict[str, float]:
    gateway = standalone_gateway([("mini", ENGINE_URL)], secret=SECRET)
    play_engine(gateway.pool)
    cached = chat_body("fast")
    await put_answer(gateway, cached)
    bodies = dict(zip(WAYS, (cached, chat_body("mini"), chat_body("mini", stream=True)), strict=True))
    found = {way: await asked_us([PlayedClient(gateway, PATH, body)]) for way, body in bodies.items()}
    await gateway.aclose()
    return found


async def put_answer(gateway: Gateway, body: bytes, *, tenant: str = "local") -> None:
    """Store `ENTRY` as the answer to this request."""
    request = parse_request(Endpoint.CHAT, body)
    assert isinstance(request, InferenceRequest)
    decision = decide(request, Terms(tenant=tenant), gateway.catalog)
    assert isinstance(decision, Decision)
    assert decision.key is not None
    await gateway.store.put(decision.key, ENTRY, ttl_s=10_000)


async def asked_us(clients: list[PlayedClient], *, times: int = 500) -> float:
    """CPU µs per request, asked by the clients in turns; the export of spans is in it."""
    best_us = float("inf")
    for number in range(_ROUNDS):
        began_s = time.process_time()
        for turn in range(times):
            await clients[(number * times + turn) % len(clients)].ask()
        flush()
        best_us = min(best_us, 1e6 * (time.process_time() - began_s) / times)
    return best_us
