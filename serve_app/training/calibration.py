"""Whether a model is as sure as it is right: calibration error by bins, and the temperature that mends it. Pure.

Source: Guo et al., "On calibration of modern neural networks" (2017): expected calibration error, temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NUM_BINS: Final = 10
SMALLEST: Final = 1e-6
"""Confidences are kept this far from 0 and 1, where a logit has no value."""
COLDEST: Final = 0.1
HOTTEST: Final = 10.0
SEARCH_STEPS: Final = 40
"""Of a golden section search: the interval shrinks to 4e-9 of itself."""
GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer: how sure the model was (0 to 1), and whether it was right."""

    confidence: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers of about one confidence. `gap` is confidence minus accuracy: above 0 the model is too sure."""

    low: float
    num_answers: int
    confidence: float
    accuracy: float

    @property
    def gap(self) -> float:
        return self.confidence - self.accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`temperature` was found on one half of the answers, both errors were measured on the other half.

    `num_measured` is the size of that half; 0 means that there were too few answers to say anything.
    """

    temperature: float
    raw_error: float
    calibrated_error: float
    num_measured: int


def confidence_of(logprobs: Sequence[float]) -> float:
    """The geometric mean of the tokens' probabilities; 0 for an answer without tokens."""
    return math.exp(min(0.0, math.fsum(logprobs) / len(logprobs))) if logprobs else 0.0


def bins(answers: Sequence[Judged], *, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """Of equal width, lowest first; those that hold no answer are left out."""
    held: list[list[Judged]] = [[] for _ in range(num_bins)]
    for one in answers:
        held[min(num_bins - 1, max(0, int(one.confidence * num_bins)))].append(one)
    return tuple(
        Bin(
            low=index / num_bins,
            num_answers=len(inside),
            confidence=math.fsum(one.confidence for one in inside) / len(inside),
            accuracy=sum(one.right for one in inside) / len(inside),
        )
        for index, inside in enumerate(held)
        if inside
    )


def calibration_error(answers: Sequence[Judged], *, num_bins: int = NUM_BINS) -> float:
    """The mean distance of confidence and accuracy over all answers, by bins; 0 when there are none."""
    return math.fsum(abs(one.gap) * one.num_answers for one in bins(answers, num_bins=num_bins)) / max(1, len(answers))


def tempered(confidence: float, temperature: float) -> float:
    """The confidence with its logit divided by `temperature`: above 1 less sure, below 1 surer."""
    return 1 / (1 + math.exp(-_logit(confidence) / temperature))


def fit_temperature(answers: Sequence[Judged]) -> float:
    """The temperature between `COLDEST` and `HOTTEST` under which the answers are likeliest; 1 when there are none.

    Minus the log-likelihood is convex in 1/temperature, so a golden section search finds its one minimum.
    """
    if not answers:
        return 1.0
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(SEARCH_STEPS):
        span = GOLDEN * (high - low)
        left, right = high - span, low + span
        if surprise(answers, temperature=1 / left) <= surprise(answers, temperature=1 / right):
            high = right
        else:
            low = left
    return 2 / (low + high)


def surprise(answers: Sequence[Judged], *, temperature: float) -> float:
    """Mean minus log-likelihood of what was right and wrong, in nats."""
    total = 0.0
    for one in answers:
        logit = _logit(one.confidence) / temperature
        total += math.log1p(math.exp(-abs(logit))) + max(0.0, -logit if one.right else logit)
    return total / len(answers)


def calibrate(answers: Sequence[Judged]) -> Calibration:
    """Every other answer finds the temperature, the rest say what it is worth."""
    found, measured = answers[::2], answers[1::2]
    temperature = fit_temperature(found)
    mended = [Judged(confidence=tempered(one.confidence, temperature), right=one.right) for one in measured]
    return Calibration(
        temperature=temperature,
        raw_error=calibration_error(measured),
        calibrated_error=calibration_error(mended),
        num_measured=len(measured),
    )


def _logit(confidence: float) -> float:
    kept = min(1 - SMALLEST, max(SMALLEST, confidence))
    return math.log(kept / (1 - kept))
