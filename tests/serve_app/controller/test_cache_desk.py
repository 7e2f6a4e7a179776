"""Times of answers in the controller: raised by what all gateways saw, pinned by hand, kept over a restart."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from serve_app.api.control_routes import ControlAsked
from serve_app.config.settings import ModeSettings
from serve_app.controller.cache_desk import CacheDesk
from tests.serve_app.gateway.builders import settings
from tracing import names
from tracing.metrics import Labels

NOW_S = 1_800_000_000.0
FAST = "fast"


def modes() -> tuple[ModeSettings, ...]:
    return tuple(dataclasses.replace(mode, hit_rate_target=0.6) for mode in settings().modes)


class Seen:
    """`Totals` of two kinds of cache, and of the semantic one, which always hits."""

    def __init__(self) -> None:
        self.hits = self.misses = 0

    def counters(self, metric: names.Counter) -> Mapping[Labels, float]:
        number = {names.CACHE_HITS.name: self.hits, names.CACHE_MISSES.name: self.misses}[metric.name]
        semantic = {names.CACHE_HITS.name: 1000.0, names.CACHE_MISSES.name: 0.0}[metric.name]
        exact: dict[Labels, float] = {
            (FAST, "memory"): float(number // 2),
            (FAST, "redis"): float(number - number // 2),
        }
        return {**exact, (FAST, names.SEMANTIC_CACHE): semantic}


class Desk:
    def __init__(self, path: str = ":memory:") -> None:
        self.seen, self.num_published = Seen(), 0
        self.desk = CacheDesk(
            sqlite3.connect(path, isolation_level=None),
            modes=modes,
            totals=self.seen,
            changed=self._published,
            now_s=lambda: NOW_S,
        )

    def _published(self) -> None:
        self.num_published += 1

    def ttl(self, mode: str = FAST) -> tuple[float, str]:
        (found,) = (one for one in self.desk.applied(modes()) if one.name == mode)
        return found.cache_ttl_s, found.cache_ttl_source.value

    def pin(self, body: object) -> int:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = ControlAsked(method="POST", path="/admin/cache/ttl", body=raw)
        return self.desk.answer(sent).status


class TestALook:
    def test_raises_the_time_where_a_hundred_look_ups_missed_the_target(self) -> None:
        one = Desk()
        one.seen.hits, one.seen.misses = 10, 90
        (found,) = one.desk.look()
        assert (found.mode, found.from_s, found.to_s) == (FAST, 300.0, 600.0)
        assert (one.ttl(), one.num_published) == ((600.0, "raised"), 1)

    @pytest.mark.parametrize(("hits", "misses"), [(9, 90), (60, 40)])
    def test_leaves_it_where_there_were_few_or_enough_hits(self, hits: int, misses: int) -> None:
        one = Desk()
        one.seen.hits, one.seen.misses = hits, misses
        assert one.desk.look() == ()
        assert (one.ttl(), one.num_published) == ((300.0, "configured"), 0)

    def test_is_in_the_log_as_a_warning_for_people(self, caplog: pytest.LogCaptureFixture) -> None:
        one = Desk()
        one.seen.misses = 100
        one.desk.look()
        assert [record.levelname for record in caplog.records] == ["WARNING"]


class TestAPin:
    def test_holds_whatever_is_seen_and_is_published_at_once(self) -> None:
        one = Desk()
        assert one.pin({"mode": FAST, "ttl_seconds": 42}) == 200
        assert one.num_published == 1
        one.seen.misses = 1000
        one.desk.look()
        assert one.ttl() == (42.0, "pinned")

    def test_is_given_back_by_null(self) -> None:
        one = Desk()
        one.pin({"mode": FAST, "ttl_seconds": 42})
        one.pin({"mode": FAST, "ttl_seconds": None})
        assert one.ttl() == (300.0, "configured")

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"mode": "slow", "ttl_seconds": 1}, 404),
            ({"mode": FAST, "ttl_seconds": -1}, 400),
            ({"mode": FAST, "ttl_seconds": 366 * 86_400}, 400),
            ({"mode": FAST, "ttl_seconds": "NaN"}, 400),
            (b'{"mode": "fast", "ttl_seconds": NaN}', 400),
            (b'{"mode": "fast", "ttl_seconds": Infinity}', 400),
            (b'{"mode": "fast", "ttl_seconds": 1e999}', 400),
            (b"{", 400),
            ({"mode": FAST}, 400),
            ([], 400),
        ],
    )
    def test_that_makes_no_sense_is_refused_and_changes_nothing(self, body: object, status: int) -> None:
        one = Desk()
        assert one.pin(body) == status
        assert (one.ttl(), one.num_published) == ((300.0, "configured"), 0)

    def test_and_a_raise_outlive_the_controller(self, tmp_path: Path) -> None:
        path = str(tmp_path / "store.sqlite")
        Desk(path).pin({"mode": FAST, "ttl_seconds": 0})
        assert Desk(path).ttl() == (0.0, "pinned")
