"""Whether one checkpoint is better than another beyond noise, and the order of all of a model. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serve_app.compare.interval import Difference, difference
from serve_app.compare.score import CheckpointScore

MAX_LOSS_RATIO: Final = 1.1
MAX_LOSS_RISE: Final = 0.01
"""Nats per token. The loss is worse when it is above both: a tenth of almost nothing is nothing."""
MAX_FORMAT_FALL: Final = 0.02
"""Share of answers that may lose the form asked for."""
MAX_LATENCY_RATIO: Final = 1.2
"""Source: row C7, worse by more than 20 %."""
MAX_LATENCY_RISE_S: Final = 0.25
"""The latency is worse when it is above both: what other programs cost a short answer is no property of weights.

Source: medians of one model on 2 shared cores, from 21 to 91 ms by load alone.
"""


class Outcome(StrEnum):
    BETTER = "better"
    """The whole 95 % interval of the accuracy's difference is above 0, and nothing else got worse."""
    WORSE = "worse"
    """The whole interval is below 0, or something else got worse and accuracy did not get better."""
    NO_DIFFERENCE = "no_difference"
    MIXED = "mixed"
    """Accuracy is better beyond noise and something else worse: for a person to decide."""
    INCOMPARABLE = "incomparable"
    """They were not asked the same questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`new` against `old`, which serves. `worse_in` are sentences; `difference` is None when incomparable."""

    outcome: Outcome
    new: CheckpointScore
    old: CheckpointScore
    difference: Difference | None
    worse_in: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return " ".join((_SENTENCES[self.outcome].format(new=_name(self.new), old=_name(self.old)), *self._grounds()))

    def _grounds(self) -> Iterator[str]:
        if self.difference is not None:
            yield _words(self.difference)
        yield from self.worse_in


def judge(new: CheckpointScore, old: CheckpointScore) -> Verdict:
    """`new` against `old`, two checkpoints of one model."""
    if (new.test_set, len(new.right)) != (old.test_set, len(old.right)) or not new.right:
        return Verdict(outcome=Outcome.INCOMPARABLE, new=new, old=old, difference=None)
    found = difference(new.right, old.right)
    worse_in = tuple(_worse_in(new, old))
    return Verdict(outcome=_outcome(found, bool(worse_in)), new=new, old=old, difference=found, worse_in=worse_in)


def ranked(scores: Iterable[CheckpointScore]) -> tuple[CheckpointScore, ...]:
    """Best first: accuracy, then loss, then the later step. Only for scores of one test set."""
    return tuple(sorted(scores, key=_merit))


def _merit(score: CheckpointScore) -> tuple[float, float, int, str]:
    loss = float("inf") if score.loss is None else score.loss
    return -score.accuracy, loss, -score.step, score.weights_version


def _outcome(found: Difference, something_is_worse: bool) -> Outcome:
    if found.low > 0:
        return Outcome.MIXED if something_is_worse else Outcome.BETTER
    if found.high < 0 or something_is_worse:
        return Outcome.WORSE
    return Outcome.NO_DIFFERENCE


def _worse_in(new: CheckpointScore, old: CheckpointScore) -> Iterator[str]:
    if old.loss is not None and new.loss is None:
        yield "Its loss could not be measured."
    elif old.loss is not None and new.loss is not None and _rose(new.loss, old.loss, MAX_LOSS_RATIO, MAX_LOSS_RISE):
        yield f"Its loss is {new.loss:.3f} nats a token, not {old.loss:.3f}."
    if new.format_share < old.format_share - MAX_FORMAT_FALL:
        yield f"{new.format_share:.1%} of its answers have the form asked for, not {old.format_share:.1%}."
    if _rose(new.latency_s, old.latency_s, MAX_LATENCY_RATIO, MAX_LATENCY_RISE_S):
        yield f"Its median answer takes {new.latency_s:.3f} s, not {old.latency_s:.3f} s."


def _rose(new: float, old: float, ratio: float, rise: float) -> bool:
    return new > old * ratio and new > old + rise


def _words(found: Difference) -> str:
    return (
        f"Accuracy differs by {100 * found.value:+.1f} points, 95 % interval {100 * found.low:+.1f} to "
        f"{100 * found.high:+.1f}: {found.num_won} of {found.num_asked} won, {found.num_lost} lost."
    )


def _name(score: CheckpointScore) -> str:
    return f"step {score.step} ({score.weights_version})"


_SENTENCES: Final = {
    Outcome.BETTER: "Better: roll out {new} over {old}.",
    Outcome.WORSE: "Worse: keep {old}, not {new}.",
    Outcome.NO_DIFFERENCE: "No difference beyond noise: {old} stays, {new} waits.",
    Outcome.MIXED: "Better in accuracy, worse in something else: decide between {new} and {old}.",
    Outcome.INCOMPARABLE: "{new} and {old} were not asked the same questions; score both again.",
}
