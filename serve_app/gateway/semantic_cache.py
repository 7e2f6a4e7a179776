"""Stored answers to similar questions: optional, by mode, and only where all but the wording is equal (`question`).

Keeps no answers: it points at those of the store, so that an entry dies with the answer it points at. Whatever goes
wrong with the embedder is a miss.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from serve_app.gateway.cache import Entry, Store
from serve_app.gateway.decide import Decision
from serve_app.gateway.embedding import Embedder, Vector
from serve_app.gateway.question import Question
from serve_app.gateway.semantic_index import SemanticIndex
from serve_app.logs import logger

EMBED_TIMEOUT_S: Final = 0.25
_MOST_TRIED: Final = 3
"""Nearest entries whose answers are asked for; the others' turn comes when dead ones have left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """An answer given to another question, and how similar that is: a cosine."""

    entry: Entry
    similarity: float


class SemanticCache:
    """Of one gateway replica. `answers` is the store that exact answers come from."""

    def __init__(self, *, embedder: Embedder, answers: Store, max_bytes: int) -> None:
        self._embedder = embedder
        self._answers = answers
        self._max_bytes = max_bytes
        self._index = SemanticIndex(num_dims=embedder.num_dims, max_bytes=max_bytes)
        self.num_faults = 0

    async def find(self, decision: Decision) -> Similar | None:
        """Call when there is no answer to this very request."""
        question, least = decision.question, _threshold(decision)
        if question is None or least is None:
            return None
        vector = await self._vector(question)
        if vector is None:
            return None
        for key, similarity in self._index.nearest(question.group, vector, at_least=least, most=_MOST_TRIED):
            answer = await self._answers.get(key, max_age_s=decision.max_age_s)
            if answer is not None:
                self._index.used(key)
                return Similar(entry=answer.entry, similarity=similarity)
            if decision.max_age_s is None:
                self._index.discard(key)
        return None

    async def remember(self, decision: Decision) -> None:
        """The answer to this request has been stored."""
        question = decision.question
        if question is None or decision.key is None:
            return
        vector = await self._vector(question)
        if vector is not None:
            self._index.put(question.group, decision.key, vector)

    def stats(self) -> dict[str, Any]:
        return {
            "embedder": self._embedder.name,
            "entries": self._index.num_entries,
            "bytes": self._index.num_bytes,
            "max_bytes": self._max_bytes,
            "faults": self.num_faults,
        }

    async def _vector(self, question: Question) -> Vector | None:
        try:
            async with asyncio.timeout(EMBED_TIMEOUT_S):
                vector = np.asarray(await self._embedder.embed(question.text), dtype=np.float32)
        except Exception as error:  # noqa: BLE001  # an embedder may be anybody's code, and its fault is a miss
            self._fault(type(error).__name__)
            return None
        length = float(np.linalg.norm(vector))
        if vector.shape != (self._embedder.num_dims,) or not np.isfinite(length) or length == 0:
            self._fault("no vector")
            return None
        return vector / length

    def _fault(self, error: str) -> None:
        self.num_faults += 1
        if self.num_faults & (self.num_faults - 1) == 0:  # the 1st, 2nd, 4th, …: a broken one would fill the log
            _log.warning("an embedder failed", embedder=self._embedder.name, error=error, num_faults=self.num_faults)


def asks_for_similar(decision: Decision) -> bool:
    """True when an answer to a similar question may be given."""
    return decision.question is not None and _threshold(decision) is not None


def _threshold(decision: Decision) -> float | None:
    if decision.settings is None or decision.bypass is not None or not decision.may_be_similar:
        return None
    return decision.settings.semantic_similarity


_log = logger("headroom.gateway.semantic")
