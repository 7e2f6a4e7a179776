"""What two questions must have exactly in common before anybody compares their meaning. Pure.

A small change of the letters is a small change for an embedding, but "3 + 4" and "3 + 5" have other answers. So
numbers, negations, quoted words, acronyms and every sign but the punctuation of a sentence are *marks*: they become
part of the group within which alone questions are compared. The lists of words are English.
"""

from __future__ import annotations

import re
from typing import Final

MAX_QUESTION_CHARS: Final = 400
"""Longer questions are not compared: the more words, the less one that differs counts."""

WORD_OR_SIGN: Final = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_QUOTED: Final = re.compile(
    r"""
    "[^"]*" | “[^”]*” | „[^“”]*[“”] | «[^»]*» | ‹[^›]*› | `[^`]*` | 「[^」]*」
    | (?<!\w)'[^']*'(?!\w) | (?<!\w)‘[^’]*’(?!\w)
    | ["“„«‹`「] .* | (?<!\w)['‘] .*
    """,
    re.VERBOSE,
)
"""The last two: what is opened and never closed is quoted to its end."""
_SENTENCE_END: Final = re.compile(r"[.,;:?…]+(?=\s|$)")
_NEGATIONS: Final = (
    "no not never none nobody nothing nowhere neither nor cannot without except unless lacks lack hardly barely"
)
_NUMBERS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion "
    "first second third fourth fifth sixth seventh eighth ninth tenth half quarter dozen once twice double triple pair"
)
_TURNS: Final = (
    "and or but if only all any every some each both than more less most least fewer max min maximum minimum before "
    "after since until from to into onto in out on off up down over under above below left right with against true "
    "false yes who whom whose when where why how which"
)
"""Small words that turn a question into another one."""
_STRICT_WORDS: Final = frozenset(f"{_NEGATIONS} {_NUMBERS} {_TURNS}".split())
_ONE_LETTER_WORDS: Final = frozenset("aAI")


def marks(text: str) -> tuple[str, ...]:
    """In their order."""
    found: list[str] = []
    at = 0
    for quote in _QUOTED.finditer(text):
        found += _unquoted_marks(text[at : quote.start()])
        found.append(quote.group())
        at = quote.end()
    return (*found, *_unquoted_marks(text[at:]))


def may_be_compared(text: str) -> bool:
    """One line of moderate length: lines and indents of a program or a table mean something too."""
    return len(text) <= MAX_QUESTION_CHARS and bool(text.strip()) and text.isprintable()


def _unquoted_marks(text: str) -> list[str]:
    """A sign before what is quoted, or after it, is no sentence's end only when something follows at once."""
    found = (match.group() for match in WORD_OR_SIGN.finditer(_SENTENCE_END.sub("", text)))
    return [strict for one in found if (strict := _strict(one)) is not None]


def _strict(piece: str) -> str | None:
    """The piece as it must be alike, or None when it may differ."""
    low = piece.lower()
    if low in _STRICT_WORDS or low.endswith(("n't", "n’t")):
        return low
    if not (piece[0].isalnum() or piece[0] == "_"):
        return piece
    is_name = any(sign.isnumeric() or sign == "_" for sign in piece) or any(sign.isupper() for sign in piece[1:])
    is_letter = len(piece) == 1 and piece not in _ONE_LETTER_WORDS
    return piece if is_name or is_letter else None
