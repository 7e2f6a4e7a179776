"""`/admin/cache/stats`: what the cache did for each mode, here and summed over all gateway replicas. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from serve_app.config.settings import ModeSettings, Settings
from serve_app.gateway.cache import Store
from serve_app.gateway.meters import CacheCounts

_SUMMED = ("hits", "misses", "shared", "bypass", "expired", "entries", "bytes", "semantic_hits", "semantic_misses")
_SUMMED_SEMANTIC = ("entries", "bytes", "max_bytes", "faults")
DIRECT = "none"
"""Row of requests that name a model and no mode: they never use the cache."""


def local_stats(
    settings: Settings, counts: Mapping[str, CacheCounts], store: Store, semantic: Mapping[str, Any]
) -> dict[str, Any]:
    """Figures of this gateway replica. `entries` and `bytes` are None where the store cannot say.

    `hit_rate` is of exact hits alone; a semantic hit is a miss there and has figures of its own.
    """
    terms = {mode.name: _terms(mode) for mode in settings.modes} | {DIRECT: {"ttl_s": 0.0}}
    return {
        "cache_type": store.kind,
        "num_gateways": 1,
        "num_silent": 0,
        "max_bytes": settings.cache.max_bytes if store.kind == "memory" else None,
        "semantic": dict(semantic),
        "modes": {mode: _row(counts[mode], store, mode) | told for mode, told in terms.items()},
    }


def summed(own: Mapping[str, Any], others: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Totals of the cluster. A replica that did not answer (None) is counted as silent, not as zero."""
    answers = list(others)
    pages = [own, *(page for page in answers if page is not None)]
    limits = [page["max_bytes"] for page in pages]
    return {
        **own,
        "num_gateways": len(pages),
        "num_silent": sum(page is None for page in answers),
        "max_bytes": None if None in limits else sum(limits),
        "semantic": own["semantic"]
        | {name: sum(page["semantic"][name] for page in pages if "semantic" in page) for name in _SUMMED_SEMANTIC},
        "modes": {mode: _sum_rows([page["modes"].get(mode, {}) for page in pages]) for mode in own["modes"]},
    }


def _terms(mode: ModeSettings) -> dict[str, Any]:
    """How long answers live, who says so, and the hit rate that is wanted."""
    return {
        "ttl_s": mode.cache_ttl_s,
        "ttl_source": mode.cache_ttl_source.value,
        "hit_rate_target": mode.hit_rate_target,
        "semantic_similarity": mode.semantic_similarity,
    }


def _row(counts: CacheCounts, store: Store, mode: str) -> dict[str, Any]:
    usage = store.usage(mode)
    return {
        "hits": counts.hits,
        "misses": counts.misses,
        "shared": counts.shared,
        "bypass": counts.bypass,
        "hit_rate": _rate(counts.hits, counts.misses),
        "entries": usage.num_entries,
        "bytes": usage.num_bytes,
        "expired": counts.expired,
        "semantic_hits": counts.semantic_hits,
        "semantic_misses": counts.semantic_misses,
    }


def _sum_rows(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    row = dict(rows[0])
    for name in _SUMMED:
        values = [other.get(name, 0) for other in rows]
        row[name] = None if None in values else sum(values)
    row["hit_rate"] = _rate(row["hits"], row["misses"])
    return row


def _rate(hits: int, misses: int) -> float | None:
    """Hits of all look-ups; None before the first."""
    return round(hits / (hits + misses), 4) if hits + misses else None
