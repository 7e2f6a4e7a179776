"""The replay does what the store does, and says what no store can do."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli import main
from serve_app.gateway.cache import Entry, MemoryStore
from serve_app.gateway.cache_log import HEADER, LogUnreadable, Lookup, RecordingStore, read_log
from serve_app.gateway.cache_simulate import bounds, simulate, verdict


def zipf(count: int, *, num_keys: int, seed: int, mode: str = "fast") -> list[Lookup]:
    """Requests one second apart; the k-th key is asked for as 1/k."""
    keys = random.Random(seed).choices(range(num_keys), weights=[1 / (rank + 1) for rank in range(num_keys)], k=count)
    return [Lookup(float(at_s), mode, f"k{key}", 2000) for at_s, key in enumerate(keys)]


def replayed(lookups: Sequence[Lookup], *, ttl_s: float, max_bytes: int) -> float:
    """The same requests through a real store."""
    now = [0.0]
    store = MemoryStore(max_bytes=max_bytes, clock=lambda: now[0])

    async def ask(one: Lookup) -> bool:
        now[0] = one.at_s
        if await store.get(one.key.encode()) is not None:
            return True
        await store.put(one.key.encode(), entry(one), ttl_s=ttl_s)
        return False

    async def all_of_them() -> float:
        return sum([await ask(one) for one in lookups]) / len(lookups)

    return asyncio.run(all_of_them())


def entry(one: Lookup) -> Entry:
    body = b"x" * (one.num_bytes - 1024)
    return Entry(mode=one.mode, model="m", weights_version="v", checkpoint_step=None, stream=False, body=body)


class TestTheReplay:
    @given(
        st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from("abcdef"), st.sampled_from([1100, 2000, 2600])),
            min_size=1,
            max_size=60,
        ),
        st.sampled_from([0.0, 1.0, 4.0, 100.0]),
        st.sampled_from([8 * 1100, 20_000, 10**6]),
    )
    def test_hits_when_the_store_itself_does(
        self, story: list[tuple[int, str, int]], ttl_s: float, max_bytes: int
    ) -> None:
        at_s, lookups, sizes = 0, [], dict[str, int]()
        for gap_s, key, size in story:
            at_s += gap_s
            lookups.append(Lookup(float(at_s), "fast", key, sizes.setdefault(key, size)))
        rates = simulate(lookups, ttl_s=ttl_s, max_bytes=max_bytes)
        assert rates.by_mode["fast"] == pytest.approx(replayed(lookups, ttl_s=ttl_s, max_bytes=max_bytes))

    @given(st.integers(1, 50), st.integers(0, 99))
    def test_never_beats_its_bound_and_meets_it_without_limits(self, num_keys: int, seed: int) -> None:
        lookups = zipf(200, num_keys=num_keys, seed=seed)
        bound = bounds(lookups)["fast"]
        assert simulate(lookups, ttl_s=None, max_bytes=None).by_mode["fast"] == pytest.approx(bound.best_rate)
        assert simulate(lookups, ttl_s=20, max_bytes=20_000).by_mode["fast"] <= bound.best_rate + 1e-9

    def test_keeps_modes_apart_but_for_their_room(self) -> None:
        both = [Lookup(0, "fast", "k", 10), Lookup(1, "balanced", "k", 10), Lookup(2, "fast", "k", 10)]
        assert simulate(both, ttl_s=None, max_bytes=None).by_mode == {"fast": 0.5, "balanced": 0.0}


class TestTheVerdict:
    def test_says_when_no_time_to_live_can_reach_the_target(self) -> None:
        lookups = [Lookup(float(at_s), "fast", f"k{at_s % 60}", 10) for at_s in range(100)]
        runs = [simulate(lookups, ttl_s=1e9, max_bytes=None)]
        assert verdict("fast", bounds(lookups)["fast"], runs, target=0.6) == (
            "fast: 60% cannot be reached at any time to live; "
            "at most 40.0%: 60 of 100 requests were the first of their kind."
        )

    def test_says_from_which_time_on_it_is_reached(self) -> None:
        lookups = [Lookup(float(at_s), "fast", f"k{at_s % 10}", 10) for at_s in range(100)]
        runs = [simulate(lookups, ttl_s=ttl_s, max_bytes=None) for ttl_s in (5.0, 60.0, 500.0)]
        assert verdict("fast", bounds(lookups)["fast"], runs, target=0.6) == (
            "fast: 60% is reached from 60 s on, with 80.0%."
        )
        assert "not reached by what was tried" in verdict("fast", bounds(lookups)["fast"], runs[:1], target=0.6)


class TestTheRecorder:
    async def test_writes_what_the_replay_reads_and_no_key(self) -> None:
        log, now = io.StringIO(), [0.0]
        store = RecordingStore(
            MemoryStore(max_bytes=10**6, clock=lambda: now[0]), log, clock=lambda: now[0], max_bytes=10**6
        )
        one = Lookup(0, "fast", "secret", 2000)
        assert await store.get(b"secret") is None
        await store.put(b"secret", entry(one), ttl_s=60)
        now[0] = 5.0
        assert await store.get(b"secret") is not None
        first, second = read_log(log.getvalue().splitlines())
        assert (first.mode, first.num_bytes, second.at_s - first.at_s) == ("fast", 2000, 5.0)
        assert first.key == second.key
        for name in ("secret", b"secret".hex()):
            assert name not in log.getvalue()

    async def test_stops_at_its_bound(self) -> None:
        log = io.StringIO()
        store = RecordingStore(MemoryStore(max_bytes=10**6, clock=lambda: 0.0), log, clock=lambda: 0.0, max_bytes=200)
        for number in range(100):
            await store.put(b"%d" % number, entry(Lookup(0, "fast", "k", 2000)), ttl_s=60)
        assert 100 < len(log.getvalue()) <= 200
        assert log.getvalue().startswith(HEADER)

    @pytest.mark.parametrize(
        "line", ["1\tfast\tk", "x\tfast\tk\t5", "1\tfast\tk\t-5", "nan\tfast\tk\t5", "-1\tfast\tk\t5", "1\t\tk\t5"]
    )
    def test_that_wrote_something_else_is_named_by_its_line(self, line: str) -> None:
        with pytest.raises(LogUnreadable, match="Line 2"):
            list(read_log([HEADER, line]))


class TestTheCommand:
    def test_prints_rates_and_a_verdict(self, tmp_path: Path) -> None:
        log = tmp_path / "cache.log"
        lines = (f"{one.at_s}\t{one.mode}\t{one.key}\t{one.num_bytes}" for one in zipf(500, num_keys=40, seed=1))
        log.write_text("\n".join([HEADER, *lines]))
        result = CliRunner().invoke(main, ["cache", "simulate", str(log), "--ttl", "60", "--ttl", "600"])
        assert result.exit_code == 0, result.stderr
        assert "60 s" in result.stdout
        assert "fast: 60% is reached from" in result.stdout

    @pytest.mark.parametrize("text", ["", HEADER, "nonsense"])
    def test_refuses_a_log_without_requests(self, tmp_path: Path, text: str) -> None:
        log = tmp_path / "cache.log"
        log.write_text(text)
        assert CliRunner().invoke(main, ["cache", "simulate", str(log)]).exit_code == 1
