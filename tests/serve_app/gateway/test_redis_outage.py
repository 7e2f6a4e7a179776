"""Redis that is slow, away, half dead or full of nonsense: requests are answered slower, never wrongly.

The servers here speak over real sockets to the real client; what they say is played. `TestARealRedis` needs
`redis-server` on the path and is skipped, loudly, without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from serve_app.config.settings import Settings
from serve_app.gateway.redis_store import REST_AFTER_OUTAGE_S, TIMEOUT_S, RedisStore, _encoded
from tests.serve_app.gateway.builders import backend, chat, table
from tests.serve_app.gateway.serving import DEADLINE_S, Stage, peers_of, stage
from tests.serve_app.gateway.test_cache import Clock, entry, key
from tests.serve_app.gateway.test_cache_laws import PATIENT, make_one_run

Speaks = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TTL_MS = 300_000
_COMMAND = re.compile(rb"^\*\d+\r\n", re.MULTILINE)


def says(*replies: bytes, then_closes: bool = False) -> Speaks:
    """Answers each look-up or write with the next of these, and then with silence or the end."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await _greeted(reader, writer)
            writer.write(reply)
        if then_closes:
            writer.close()
        else:
            await _greeted(reader, writer)
            await reader.read()

    return speak


async def _greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agrees to all that comes before a look-up or a write."""
    while data := await reader.read(65536):
        if b"\r\nGET\r\n" in data or b"\r\nSET\r\n" in data:
            return
        writer.write(b"+OK\r\n" * len(_COMMAND.findall(data)))


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def stored(**changed: Any) -> bytes:
    """A value as Redis gives it back, with a head in which something is different."""
    head, _, body = _encoded(entry(b"body"), TTL_MS).partition(b"\n")
    return bulk(orjson.dumps({**orjson.loads(head), **changed}) + b"\n" + body)


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _greeted(reader, writer)
    writer.write(b"$100000\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)


def shared(url: str, *, clock: Callable[[], float] = time.monotonic, timeout_s: float = DEADLINE_S) -> RedisStore:
    """By default so patient that a busy machine is no outage."""
    return RedisStore.from_url(url, clock=clock, max_entry_bytes=64 * 1024, timeout_s=timeout_s)


@contextlib.asynccontextmanager
async def playing(speak: Speaks, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[RedisStore]:
    async def spoken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await speak(reader, writer)
        writer.close()

    server = await asyncio.start_server(spoken, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = shared(f"redis://127.0.0.1:{port}?protocol=2", clock=Clock(), timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.aclose()
        server.close()


OUTAGES: dict[str, Speaks] = {
    "silent": says(),
    "in trickles": trickle,
    "killed before it answers": says(b"", then_closes=True),
    "killed in the middle of a value": says(b"$100\r\nabc", then_closes=True),
    "loading": says(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "read only or full": says(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
    "another protocol": says(b"HTTP/1.1 400 Bad Request\r\n\r\n", then_closes=True),
    "another protocol that looks alike": says(b"$many\r\n"),
}


class TestAnOutage:
    @pytest.mark.parametrize("how", OUTAGES)
    async def test_is_a_miss_and_redis_is_left_alone_for_a_while(self, how: str) -> None:
        async with asyncio.timeout(DEADLINE_S), playing(OUTAGES[how]) as store:
            assert await store.get(key(1), max_age_s=60) is None
            assert store.num_outages == 1
            await store.put(key(1), entry(), ttl_s=60)
            assert store.num_outages == 1, "it rests"

    @pytest.mark.parametrize("how", OUTAGES)
    async def test_costs_a_write_nothing_but_the_write(self, how: str) -> None:
        async with asyncio.timeout(DEADLINE_S), playing(OUTAGES[how]) as store:
            await store.put(key(1), entry(), ttl_s=60)
            assert store.num_outages == 1

    @pytest.mark.parametrize("how", OUTAGES)
    async def test_costs_no_request_its_answer(self, how: str) -> None:
        async with playing(OUTAGES[how]) as store, stage("mini", store=store) as on:
            answers = [await on.chat(chat()) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert [answer.headers["x-headroom-cache"] for answer in answers] == ["miss", "miss"]


class TestAValueThatIsNotOurs:
    @pytest.mark.parametrize(
        "reply",
        [
            b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            b":7\r\n",
            bulk(b""),
            bulk(b"\n"),
            bulk(b"[]\n"),
            bulk(b"\xff\xfe\n"),
            stored(mode=7),
            stored(model=None),
            stored(weights_version=["v1"]),
            stored(checkpoint_step="7"),
            stored(checkpoint_step=True),
            stored(stream="yes"),
            stored(ttl_ms="soon"),
            stored(ttl_ms=None),
            stored(body_bytes=3),
            stored(body_bytes="4"),
            stored(more=1),
        ],
    )
    async def test_is_a_miss_and_no_outage(self, reply: bytes) -> None:
        async with playing(says(reply), timeout_s=DEADLINE_S) as store:
            assert await store.get(key(1)) is None
            assert store.num_outages == 0

    async def test_is_told_from_one_that_is(self) -> None:
        async with playing(says(stored()), timeout_s=DEADLINE_S) as store:
            found = await store.get(key(1))
            assert found is not None
            assert found.entry == entry(b"body")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on the path: what two gateways do with a real Redis is not tried here")
    home: Path = tmp_path_factory.mktemp("redis")
    socket = home / "socket"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(home)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(DEADLINE_S)


@contextlib.asynccontextmanager
async def two_with(url: str, *, of: Settings | None = None) -> AsyncIterator[tuple[Stage, Stage]]:
    """Two gateways before one engine, with one empty Redis."""
    async with contextlib.AsyncExitStack() as stack:
        client = Redis.from_url(url)
        stack.push_async_callback(client.aclose)
        await _answers(client)
        await client.flushall()
        yield await stack.enter_async_context(peers_of(shared(url), shared(url), of=of))


async def _answers(client: Redis) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(Exception):
                await client.ping()
                return
            await asyncio.sleep(0.02)


class TestARealRedis:
    async def test_is_one_cache_of_two_gateways(self, redis_url: str) -> None:
        async with two_with(redis_url) as (one, other):
            for number in range(8):
                miss, hit = [await on.chat(chat(text=str(number))) for on in (one, other)]
                assert [answer.headers["x-headroom-cache"] for answer in (miss, hit)] == ["miss", "hit"]
                assert hit.content == miss.content

    @pytest.mark.parametrize("stream", [False, True])
    async def test_lets_500_equal_requests_at_two_gateways_make_one_run(self, redis_url: str, stream: bool) -> None:
        async with two_with(redis_url, of=PATIENT) as (one, other):
            await make_one_run(one, other, stream=stream)

    async def test_lets_equal_requests_at_any_moment_make_one_run(self, redis_url: str) -> None:
        """Not held back: requests meet the run at its beginning, in its middle, while it is stored, and after."""
        async with two_with(redis_url) as (one, other):
            for number in range(5):
                body = chat(text=str(number))
                await asyncio.gather(*(on.chat_alone(body) for _ in range(40) for on in (one, other)))
            assert one.engine.counts.num_started == 5

    async def test_keeps_answers_when_a_gateway_is_new(self, redis_url: str) -> None:
        async with two_with(redis_url) as (one, _):
            await one.chat(chat())
            async with stage("mini", store=shared(redis_url)) as on:
                on.gateway.update(table(backend("mini", url=one.urls["mini"]), version=2))
                assert (await on.chat(chat())).headers["x-headroom-cache"] == "hit"

    async def test_takes_a_key_of_another_type_for_a_miss(self, redis_url: str) -> None:
        client = Redis.from_url(redis_url)
        await _answers(client)
        store = shared(redis_url)
        await store.put(key(1), entry(), ttl_s=60)
        names = [name async for name in client.scan_iter(match=f"*{key(1).hex()}")]
        assert len(names) == 1
        await client.delete(names[0])
        await client.lpush(names[0], b"x")
        assert await store.get(key(1)) is None
        assert store.num_outages == 0
        await client.aclose()
        await store.aclose()

    async def test_is_asked_again_after_its_rest(self, redis_url: str) -> None:
        clock = Clock()
        store = shared(redis_url, clock=clock, timeout_s=1.0)
        client = Redis.from_url(redis_url)
        await _answers(client)
        await store.put(key(2), entry(), ttl_s=60)
        await client.client_pause(3000)
        assert await store.get(key(2)) is None
        assert store.num_outages == 1
        await _answers(client)
        assert await store.get(key(2)) is None
        clock.now_s += REST_AFTER_OUTAGE_S
        assert await store.get(key(2)) is not None
        await client.aclose()
        await store.aclose()
