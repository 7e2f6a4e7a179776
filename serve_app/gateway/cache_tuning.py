"""How long answers live: raised where the hit rate stays under its target (row B5), or pinned by hand. Pure.

One owner, in the control plane: it sees the look-ups of all gateways, and its times go to them with the routing table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.api.errors import ApiError, invalid, not_found
from serve_app.config.settings import MAX_CACHE_TTL_S, ModeSettings, TtlSource

MIN_LOOKUPS: Final = 100
MAX_RAISED_TTL_S: Final = 1200.0
"""Source of both: row B5, after ≥100 requests, 300→600 and 600→1200."""
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeTtl:
    """What differs from the configuration for one mode; kept over a restart by whoever owns the tuning.

    `configured_s` is what it was made over: when the file says something new, that counts.
    """

    configured_s: float
    ttl_s: float
    source: TtlSource
    raised_at_s: float | None = None
    """Unix time of the last raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """For the warning in the log."""

    mode: str
    from_s: float
    to_s: float
    hit_rate: float
    target: float


@dataclass(slots=True)
class _Window:
    hits: int
    misses: int


@dataclass(slots=True)
class CacheTuning:
    """All `modes` are as configured. `kept` may come from before a restart; write it down when it has changed."""

    kept: dict[str, ModeTtl] = field(default_factory=dict)
    _windows: dict[str, _Window] = field(default_factory=dict)

    def applied(self, modes: Iterable[ModeSettings]) -> tuple[ModeSettings, ...]:
        """The modes with the times that hold now."""
        return tuple(self._applied(mode) for mode in modes)

    def saw(
        self, modes: Iterable[ModeSettings], lookups: Mapping[str, tuple[int, int]], *, now_s: float
    ) -> tuple[Raise, ...]:
        """`lookups` are running totals of hits and misses by mode, over all gateways; they may start anew at 0.

        Each stretch of at least a hundred is judged once, and then the next begins.
        """
        modes = tuple(modes)
        names = {mode.name for mode in modes}
        self.kept = {name: ttl for name, ttl in self.kept.items() if name in names}
        self._windows = {name: window for name, window in self._windows.items() if name in names}
        raises = (self._judged(mode, *lookups[mode.name], now_s) for mode in modes if mode.name in lookups)
        return tuple(one for one in raises if one is not None)

    def pin(self, modes: Iterable[ModeSettings], mode: str, ttl_s: float | None) -> ModeSettings | ApiError:
        """Set by hand, and left alone until `ttl_s` None gives it back; 0 turns the mode's cache off."""
        known = {one.name: one for one in modes}
        if mode not in known:
            message = f"Unknown mode '{mode[:64]}'. Valid modes: {', '.join(known)}."
            return not_found(message, param="mode", code="mode_not_found")
        self.kept.pop(mode, None)
        if ttl_s is not None:
            configured_s = known[mode].cache_ttl_s
            self.kept[mode] = ModeTtl(configured_s=configured_s, ttl_s=ttl_s, source=TtlSource.PINNED)
        return self._applied(known[mode])

    def _applied(self, mode: ModeSettings) -> ModeSettings:
        kept = self._kept(mode)
        return mode if kept is None else replace(mode, cache_ttl_s=kept.ttl_s, cache_ttl_source=kept.source)

    def _kept(self, mode: ModeSettings) -> ModeTtl | None:
        kept = self.kept.get(mode.name)
        return kept if kept is not None and kept.configured_s == mode.cache_ttl_s else None

    def _judged(self, mode: ModeSettings, hits: int, misses: int, now_s: float) -> Raise | None:
        window = self._windows.get(mode.name)
        if window is None or hits < window.hits or misses < window.misses:
            window = self._windows[mode.name] = _Window(0, 0)
        new_hits, new_misses = hits - window.hits, misses - window.misses
        if new_hits + new_misses < MIN_LOOKUPS:
            return None
        self._windows[mode.name] = _Window(hits, misses)
        rate = new_hits / (new_hits + new_misses)
        if mode.hit_rate_target is None or rate >= mode.hit_rate_target:
            return None
        return self._raised(mode, rate, mode.hit_rate_target, now_s)

    def _raised(self, mode: ModeSettings, rate: float, target: float, now_s: float) -> Raise | None:
        kept = self._kept(mode)
        ttl_s = kept.ttl_s if kept is not None else mode.cache_ttl_s
        if kept is not None and kept.source is TtlSource.PINNED:
            return None
        if kept is not None and kept.raised_at_s is not None and now_s - kept.raised_at_s < DAY_S:
            return None
        if not 0 < ttl_s < MAX_RAISED_TTL_S:
            return None
        raised_s = min(2 * ttl_s, MAX_RAISED_TTL_S)
        self.kept[mode.name] = ModeTtl(
            configured_s=mode.cache_ttl_s, ttl_s=raised_s, source=TtlSource.RAISED, raised_at_s=now_s
        )
        return Raise(mode=mode.name, from_s=ttl_s, to_s=raised_s, hit_rate=rate, target=target)


class TtlRequest(BaseModel):
    """POST /admin/cache/ttl. `ttl_seconds` null gives the mode back to the configuration and to tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    mode: str = Field(min_length=1, max_length=128)
    ttl_seconds: float | None = Field(ge=0.0, le=MAX_CACHE_TTL_S)


def asked_ttl(body: bytes) -> TtlRequest | ApiError:
    try:
        return TtlRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "body"
        expected = f"Expected `mode` and `ttl_seconds`: 0 (off) to {MAX_CACHE_TTL_S:.0f}, or null."
        return invalid(f"{place}: {first['msg']}. {expected}", param=place)


def ttl_answer(mode: ModeSettings) -> dict[str, Any]:
    return {"mode": mode.name, "ttl_seconds": mode.cache_ttl_s, "source": mode.cache_ttl_source.value}
