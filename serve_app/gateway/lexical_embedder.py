"""Vectors of questions by their words and letters alone. Not semantic: it knows no meaning, no synonym, no language.

What it finds: the same words in the same order, asked with other fillers, case or punctuation. From 0.95 on a content
word that differs, is missing, added or moved is never similar; lower thresholds let other forms of a word pass.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Final
from zlib import crc32

import numpy as np

from serve_app.gateway.embedding import Vector
from serve_app.gateway.semantic_marks import WORD_OR_SIGN

NUM_DIMS: Final = 512
_FILLERS: Final = frozenset(
    {"a", "an", "the", "is", "are", "am", "be", "do", "does", "of", "me", "us", "please", "kindly", "tell", "say", "it"}
    | {"what", "what's", "what’s", "that", "this", "so", "just"}
)
_POLITE: Final = ("can you ", "could you ", "would you ", "will you ", "please ", "kindly ")
_SENTENCE_SIGNS: Final = frozenset(".,;:?!…")
_FILLER: Final = 0.01
_WORD: Final = 1.0
_PAIR: Final = 2.0
_LETTERS: Final = 0.25
"""Squared weights: of a filler, of a word, of two words in a row, of all groups of three letters of a word."""
_WHOLE: Final = 0.15
"""Part of the squared length that only the same words in the same order share."""
_NUM_WHOLE: Final = 8
"""Over so many dimensions, so that one chance meeting there counts little."""


class LexicalEmbedder:
    name = "lexical"
    num_dims = NUM_DIMS

    async def embed(self, text: str) -> Vector:
        return lexical_vector(text)


def lexical_vector(text: str) -> Vector:
    """Hashed features of unit length; (NUM_DIMS,). Deterministic."""
    vector = np.zeros(NUM_DIMS, dtype=np.float32)
    words = _numbered(_words(text))
    content = [word for word in words if word.partition("#")[0] not in _FILLERS]
    length = 0.0
    for feature, square in _features(words, content):
        _add(vector, crc32(feature.encode()), math.sqrt(square))
        length += square
    whole = math.sqrt(length * _WHOLE / (1 - _WHOLE) / _NUM_WHOLE)
    for place in _places("\n".join(content)):
        _add(vector, place, whole)
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


def _words(text: str) -> list[str]:
    low = " ".join(text.lower().split())
    while (polite := next((one for one in _POLITE if low.startswith(one)), None)) is not None:
        low = low.removeprefix(polite)
    return [word for word in WORD_OR_SIGN.findall(low) if word not in _SENTENCE_SIGNS]


def _numbered(words: list[str]) -> list[str]:
    """A word that comes again is another word: "ha ha" is not "ha"."""
    seen: Counter[str] = Counter()
    numbered = []
    for word in words:
        numbered.append(f"{word}#{seen[word]}" if seen[word] else word)
        seen[word] += 1
    return numbered


def _features(words: list[str], content: list[str]) -> Iterator[tuple[str, float]]:
    """Names and squared weights."""
    kept = set(content)
    for word in words:
        yield f"w {word}", _WORD if word in kept else _FILLER
    for first, second in pairwise(("^", *content, "$")):
        yield f"p {first} {second}", _PAIR
    for word in content:
        letters = f"^{word}$"
        threes = [letters[at : at + 3] for at in range(len(letters) - 2)]
        for three in threes:
            yield f"l {three}", _LETTERS / len(threes)


def _places(whole: str) -> tuple[int, ...]:
    """By a hash of which no part follows from another: with a CRC either all would meet another's or none."""
    return struct.unpack(f"<{_NUM_WHOLE}I", blake2b(whole.encode(), digest_size=4 * _NUM_WHOLE).digest())


def _add(vector: Vector, place: int, weight: float) -> None:
    """`place`: 32 bits, of which the last say where and the first says with which sign."""
    vector[place % NUM_DIMS] += weight if place >> 31 else -weight
