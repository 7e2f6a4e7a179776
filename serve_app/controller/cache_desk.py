"""How long answers live, in the controller: tuned by the hit rates of all gateways, or pinned by hand (rows B5, B6).

Make one with the store's connection and what has the totals (`tracing.collector.Collector`). Call `look` once a minute.
`applied(modes)` are the modes of `Offer`; `changed` is called when these have changed, to publish them. `answer`
answers `POST /admin/cache/ttl`.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pydantic import TypeAdapter

from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import ApiError
from serve_app.config.settings import ModeSettings
from serve_app.gateway.cache_tuning import CacheTuning, ModeTtl, Raise, asked_ttl, ttl_answer
from serve_app.logs import logger
from tracing import names
from tracing.metrics import Labels

_SCHEMA = "CREATE TABLE IF NOT EXISTS cache_tuning (one INTEGER PRIMARY KEY CHECK (one = 1), kept BLOB NOT NULL)"
_KEPT = TypeAdapter(dict[str, ModeTtl])


class Totals(Protocol):
    def counters(self, metric: names.Counter) -> Mapping[Labels, float]:
        """Running totals by label values, over all gateways that ever were."""


class CacheDesk:
    """`modes` gives those of the configuration in force; `now_s` is Unix time."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        modes: Callable[[], tuple[ModeSettings, ...]],
        totals: Totals,
        changed: Callable[[], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`connection` commits each statement by itself."""
        assert connection.isolation_level is None
        self._db = connection
        self._modes = modes
        self._totals = totals
        self._changed = changed
        self._now_s = now_s
        self._db.execute(_SCHEMA)
        row = self._db.execute("SELECT kept FROM cache_tuning").fetchone()
        self._saved = {} if row is None else _KEPT.validate_json(row[0])
        self._tuning = CacheTuning(kept=dict(self._saved))

    def applied(self, modes: Iterable[ModeSettings]) -> tuple[ModeSettings, ...]:
        return self._tuning.applied(modes)

    def look(self) -> tuple[Raise, ...]:
        """Judge what was looked up since the last hundred; what was raised is in force and in the log."""
        raises = self._tuning.saw(self._modes(), self._lookups(), now_s=self._now_s())
        self._keep()
        for one in raises:
            _log.warning(
                "answers live longer: the hit rate is under its target",
                mode=one.mode,
                from_s=one.from_s,
                to_s=one.to_s,
                hit_rate=round(one.hit_rate, 4),
                target=one.target,
            )
        return raises

    def answer(self, asked: ControlAsked) -> ControlAnswer:
        wanted = asked_ttl(asked.body)
        if isinstance(wanted, ApiError):
            return error_answer(wanted)
        mode = self._tuning.pin(self._modes(), wanted.mode, wanted.ttl_seconds)
        if isinstance(mode, ApiError):
            return error_answer(mode)
        self._keep()
        return json_answer(ttl_answer(mode))

    def _lookups(self) -> dict[str, tuple[int, int]]:
        """Exact hits and misses by mode, whatever kind of store gave them; a semantic hit is a miss of those."""
        hits, misses = (self._by_mode(metric) for metric in (names.CACHE_HITS, names.CACHE_MISSES))
        return {mode: (hits[mode], misses[mode]) for mode in hits.keys() | misses.keys()}

    def _by_mode(self, metric: names.Counter) -> Counter[str]:
        found: Counter[str] = Counter()
        for (mode, cache_type), value in self._totals.counters(metric).items():
            if cache_type != names.SEMANTIC_CACHE:
                found[mode] += int(value)
        return found

    def _keep(self) -> None:
        """Written before it is published."""
        if self._tuning.kept == self._saved:
            return
        self._db.execute("INSERT OR REPLACE INTO cache_tuning VALUES (1, ?)", (_KEPT.dump_json(self._tuning.kept),))
        self._saved = dict(self._tuning.kept)
        self._changed()


_log = logger("headroom.controller.cache")
