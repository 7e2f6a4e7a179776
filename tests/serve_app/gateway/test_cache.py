"""What is stored, for how long, under which name: the same laws for every store."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from serve_app.gateway.cache import ENTRY_OVERHEAD_BYTES, Entry, MemoryStore, Store
from serve_app.gateway.cache_key import cache_key, owner
from serve_app.gateway.redis_store import REST_AFTER_OUTAGE_S, RedisStore
from serve_app.gateway.routing_table import Peer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def entry(body: bytes = b"{}", mode: str = "fast", *, stream: bool = False) -> Entry:
    return Entry(mode=mode, model="mini", weights_version="v1", checkpoint_step=7, stream=stream, body=body)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def memory(clock: Clock, *, max_bytes: int = 1024 * 1024) -> MemoryStore:
    return MemoryStore(max_bytes=max_bytes, clock=clock)


def redis(clock: Clock) -> RedisStore:
    return RedisStore(fakeredis.FakeAsyncRedis(), clock=clock, max_entry_bytes=64 * 1024)


@pytest.fixture(params=[memory, redis], ids=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    made: Callable[[Clock], Store] = request.param
    return made(Clock())


class TestEveryStore:
    async def test_gives_back_what_was_stored_byte_for_byte(self, store: Store) -> None:
        for stored in (entry(b'{"a":\n1}'), entry(b"data: 1\n\ndata: [DONE]\n\n", stream=True)):
            await store.put(key(1), stored, ttl_s=60)
            found = await store.get(key(1))
            assert found is not None
            assert found.entry == stored

    async def test_gives_nothing_older_than_asked_for_and_keeps_it_for_others(self, store: Store) -> None:
        await store.put(key(1), entry(), ttl_s=60)
        assert await store.get(key(1), max_age_s=-0.001) is None
        assert await store.get(key(1), max_age_s=30) is not None
        assert await store.get(key(1)) is not None

    async def test_knows_nothing_under_another_key(self, store: Store) -> None:
        await store.put(key(1), entry(), ttl_s=60)
        assert await store.get(key(2)) is None

    async def test_keeps_nothing_without_a_time_to_live(self, store: Store) -> None:
        await store.put(key(1), entry(), ttl_s=0)
        assert await store.get(key(1)) is None

    async def test_does_not_keep_what_is_too_large(self, store: Store) -> None:
        await store.put(key(1), entry(b"x" * 512 * 1024), ttl_s=60)
        assert await store.get(key(1)) is None

    async def test_builds_the_headers_of_a_hit(self, store: Store) -> None:
        await store.put(key(1), entry(b"{}"), ttl_s=60)
        found = await store.get(key(1))
        assert found is not None
        headers = dict(found.headers)
        assert headers[b"x-headroom-cache"] == b"hit"
        assert headers[b"x-headroom-checkpoint-step"] == b"7"
        assert headers[b"content-length"] == b"2"


class TestTheMemoryStore:
    async def test_forgets_at_the_very_second(self) -> None:
        clock = Clock()
        store = memory(clock)
        await store.put(key(1), entry(), ttl_s=300)
        clock.now_s += 299.9
        assert store.lookup(key(1)) is not None
        clock.now_s += 0.1
        assert store.lookup(key(1)) is None
        assert store.num_bytes == 0

    async def test_counts_what_died_of_age_once_each(self) -> None:
        clock = Clock()
        died: list[str] = []
        store = MemoryStore(max_bytes=1024 * 1024, clock=clock, on_expired=died.append)
        for number, mode in enumerate(("fast", "fast", "creative")):
            await store.put(key(number), entry(mode=mode), ttl_s=10 if mode == "fast" else 1000)
        clock.now_s += 11
        assert store.lookup(key(0)) is None
        assert store.usage("fast").num_entries == 0
        assert died == ["fast", "fast"]
        assert store.usage("creative").num_entries == 1

    async def test_drops_the_least_recently_used_first(self) -> None:
        room_for_two = 16 * (ENTRY_OVERHEAD_BYTES + 2)
        store = memory(Clock(), max_bytes=room_for_two)
        for number in range(16):
            await store.put(key(number), entry(), ttl_s=60)
        assert store.lookup(key(0)) is not None
        await store.put(key(16), entry(), ttl_s=60)
        assert store.lookup(key(0)) is not None
        assert store.lookup(key(1)) is None

    async def test_holds_no_more_marks_than_twice_its_entries(self) -> None:
        store = memory(Clock())
        for _ in range(1000):
            await store.put(key(1), entry(), ttl_s=60)
        assert len(store._deaths) <= 66  # the heap is the only part that grows without an entry

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["put", "get", "wait"]),
                st.integers(min_value=0, max_value=6),
                st.integers(min_value=0, max_value=2000),
                st.sampled_from(["fast", "creative"]),
            ),
            max_size=60,
        )
    )
    async def test_never_exceeds_its_bytes_nor_serves_the_dead(self, steps: list[tuple[str, int, int, str]]) -> None:
        clock = Clock()
        store = memory(clock, max_bytes=16 * 1024)
        alive_until: dict[bytes, tuple[float, Entry]] = {}
        for what, number, size, mode in steps:
            if what == "put":
                stored = entry(b"x" * size, mode)
                await store.put(key(number), stored, ttl_s=5)
                if stored.num_bytes <= 2 * 1024:
                    alive_until[key(number)] = (clock.now_s + 5, stored)
            elif what == "wait":
                clock.now_s += size / 500
            else:
                found = store.lookup(key(number))
                if found is not None:
                    until_s, stored = alive_until[key(number)]
                    assert clock.now_s < until_s
                    assert found.entry is stored
            assert store.num_bytes <= 16 * 1024
            usage = [store.usage(mode) for mode in ("fast", "creative")]
            assert sum(one.num_bytes or 0 for one in usage) == store.num_bytes


class TestTheRedisStore:
    async def test_knows_the_age_of_an_answer_by_redis_own_clock(self) -> None:
        client = fakeredis.FakeAsyncRedis()
        store = RedisStore(client, clock=Clock(), max_entry_bytes=1024 * 1024)
        await store.put(key(1), entry(), ttl_s=300)
        (name,) = await client.keys()
        await client.pexpire(name, 200_000)  # as if 100 s had passed
        assert await store.get(key(1), max_age_s=99) is None
        assert await store.get(key(1), max_age_s=101) is not None

    async def test_lets_answers_die_in_redis_itself(self) -> None:
        client = fakeredis.FakeAsyncRedis()
        store = RedisStore(client, clock=Clock(), max_entry_bytes=1024 * 1024)
        await store.put(key(1), entry(), ttl_s=300)
        (name,) = await client.keys("*")
        assert 299_000 < await client.pttl(name) <= 300_000

    async def test_is_one_cache_for_all_gateways(self) -> None:
        server = fakeredis.FakeServer()
        one, other = (
            RedisStore(fakeredis.FakeAsyncRedis(server=server), clock=Clock(), max_entry_bytes=4096) for _ in range(2)
        )
        await one.put(key(1), entry(), ttl_s=300)
        assert await other.get(key(1)) is not None

    async def test_treats_an_outage_as_a_miss_and_rests_a_while(self) -> None:
        clock, server = Clock(), fakeredis.FakeServer()
        store = RedisStore(fakeredis.FakeAsyncRedis(server=server), clock=clock, max_entry_bytes=4096)
        await store.put(key(1), entry(), ttl_s=300)
        server.connected = False
        assert await store.get(key(1)) is None
        assert await store.get(key(1)) is None
        await store.put(key(2), entry(), ttl_s=300)
        assert store.num_outages == 1
        server.connected = True
        clock.now_s += REST_AFTER_OUTAGE_S
        assert await store.get(key(1)) is not None

    async def test_raises_nothing_when_redis_refuses_to_write(self) -> None:
        class Broken(fakeredis.FakeAsyncRedis):
            async def set(self, *args: Any, **kwargs: Any) -> Any:
                raise RedisConnectionError("gone")

        store = RedisStore(Broken(), clock=Clock(), max_entry_bytes=4096)
        await store.put(key(1), entry(), ttl_s=300)
        assert store.num_outages == 1

    @pytest.mark.parametrize("damage", [lambda value: value[:-1], lambda value: value + b"x", lambda value: b"{}\n"])
    async def test_takes_a_damaged_value_for_a_miss(self, damage: Callable[[bytes], bytes]) -> None:
        client = fakeredis.FakeAsyncRedis()
        store = RedisStore(client, clock=Clock(), max_entry_bytes=4096)
        await store.put(key(1), entry(b"body"), ttl_s=300)
        (name,) = await client.keys("*")
        value = await client.get(name)
        assert isinstance(value, bytes)
        await client.set(name, damage(value))
        assert await store.get(key(1)) is None


_WORDS = st.text(alphabet='ab",[]:\\\n', max_size=6)
_FIELDS = st.dictionaries(_WORDS, st.none() | st.booleans() | st.integers(0, 3) | _WORDS | st.lists(_WORDS), max_size=3)
_PARTS = st.fixed_dictionaries(
    {
        "tenant": _WORDS,
        "mode": _WORDS,
        "model": _WORDS,
        "weights_version": _WORDS,
        "endpoint": _WORDS,
        "fields": _FIELDS,
    }
)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return repr(sorted_fields(one)) == repr(sorted_fields(other))


def sorted_fields(parts: dict[str, Any]) -> list[Any]:
    return [*(parts[name] for name in sorted(parts) if name != "fields"), sorted(parts["fields"].items())]


class TestTheKey:
    @given(_PARTS, _PARTS)
    def test_is_equal_exactly_when_every_part_is(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        assert (cache_key(**one) == cache_key(**other)) == _same(one, other)

    @given(_PARTS, st.sampled_from(["tenant", "mode", "model", "weights_version", "endpoint"]), _WORDS)
    def test_changes_with_each_single_part(self, parts: dict[str, Any], name: str, value: str) -> None:
        changed = {**parts, name: value}
        assert (cache_key(**parts) == cache_key(**changed)) == (parts[name] == value)

    @given(_PARTS, _WORDS, _WORDS)
    def test_cannot_be_moved_by_shifting_text_between_parts(self, parts: dict[str, Any], one: str, two: str) -> None:
        apart = cache_key(**{**parts, "tenant": one, "mode": two})
        together = cache_key(**{**parts, "tenant": one + two, "mode": ""})
        assert (apart == together) == (two == "")

    def test_does_not_depend_on_the_order_of_fields(self) -> None:
        parts = {"tenant": "t", "mode": "m", "model": "x", "weights_version": "v", "endpoint": "e"}
        one = cache_key(**parts, fields={"a": 1, "b": 2})
        assert one == cache_key(**parts, fields={"b": 2, "a": 1})

    def test_that_left_out_the_tenant_would_be_caught_by_these_laws(self) -> None:
        """The property fails on a broken key: two tenants, one name."""

        def broken(**parts: Any) -> bytes:
            return cache_key(**{**parts, "tenant": ""})

        one = {"tenant": "a", "mode": "m", "model": "x", "weights_version": "v", "endpoint": "e", "fields": {}}
        other = {**one, "tenant": "b"}
        assert (broken(**one) == broken(**other)) != _same(one, other)


class TestTheOwner:
    def test_is_the_same_wherever_it_is_asked(self) -> None:
        peers = tuple(Peer(replica=f"g{number}", url="http://127.0.0.1:1") for number in range(5))
        assert all(owner(key(number), peers) == owner(key(number), peers[::-1]) for number in range(100))

    def test_moves_only_for_the_keys_of_a_peer_that_left(self) -> None:
        peers = tuple(Peer(replica=f"g{number}", url="http://127.0.0.1:1") for number in range(5))
        for number in range(300):
            before = owner(key(number), peers)
            if before != peers[-1]:
                assert owner(key(number), peers[:-1]) == before

    def test_share_is_about_even(self) -> None:
        peers = tuple(Peer(replica=f"g{number}", url="http://127.0.0.1:1") for number in range(4))
        counts = [sum(owner(key(number), peers) == peer for number in range(2000)) for peer in peers]
        assert all(math.isclose(count, 500, rel_tol=0.2) for count in counts)
