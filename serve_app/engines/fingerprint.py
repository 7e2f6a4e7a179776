"""What an engine says to a few fixed prompts, token by token: how we know which weights really answer.

A 200 from a model that answers "!!!!" is not health. Pure; who asks the engine is the caller's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

PROMPTS: Final = (
    "Reverse the word: planet",
    "What is 17 plus 25?",
    "How many letters are in the word: garden",
    "Say something about the weather.",
)
NUM_TOKENS: Final = 8
"""Greedy tokens asked of each prompt."""
TOLERANCE: Final = 0.05
"""Nats by which log-probabilities of the same weights may differ, by the order of sums in another batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One prompt's greedy tokens with their log-probabilities, of the same length.

    `leads`, of that length too, is by how many nats each token is likelier than the next; empty where nobody knows.
    """

    prompt: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    leads: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """One trace per prompt, in the order of `PROMPTS`."""

    traces: tuple[Trace, ...]


def difference(expected: Fingerprint, found: Fingerprint, *, tolerance: float = TOLERANCE) -> str:
    """Where the two differ first, as a sentence; empty when they are of the same weights.

    A token may differ where both found two about equally likely: then what follows is not compared any more.
    """
    wanted = {trace.prompt: trace for trace in expected.traces}
    if wanted.keys() != {trace.prompt for trace in found.traces}:
        return "They answer different prompts."
    return next(filter(None, (_differs(wanted[trace.prompt], trace, tolerance) for trace in found.traces)), "")


def _differs(expected: Trace, found: Trace, tolerance: float) -> str:
    for index, (token, likely) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
        if index >= len(expected.tokens):
            return f"{found.prompt!r}: an answer of more than the {len(expected.tokens)} tokens expected."
        is_same = token == expected.tokens[index]
        is_near = abs(likely - expected.logprobs[index]) <= tolerance
        if not is_near or not (is_same or all(_near_tie(one, index, tolerance) for one in (expected, found))):
            what = f"token {index + 1} is {token!r} at {likely:.3f}"
            return f"{found.prompt!r}: {what}, expected {expected.tokens[index]!r} at {expected.logprobs[index]:.3f}."
        if not is_same:
            return ""
    if len(found.tokens) < len(expected.tokens):
        return f"{found.prompt!r}: {len(found.tokens)} tokens, expected {len(expected.tokens)}."
    return ""


def _near_tie(trace: Trace, index: int, tolerance: float) -> bool:
    """Whether another token might have been the greedy one. Of two that are equally likely neither is above a half."""
    if trace.leads:
        return trace.leads[index] <= 2 * tolerance
    return trace.logprobs[index] <= math.log(0.5) + tolerance
