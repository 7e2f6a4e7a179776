"""The review of reinforcement settings: what each value of each setting was worth, over the runs of a time. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SETTINGS: Final = ("learning_rate", "entropy_weight", "clip_range")
FEWEST_RUNS: Final = 3
"""Under this many runs a value's gain says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedRun:
    """One finished run. `gain` is the held-out accuracy after it minus before it."""

    learning_rate: float
    entropy_weight: float
    clip_range: float
    gain: float
    collapsed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one value of one setting was worth. `enough` is False where too few runs had it."""

    setting: str
    value: float
    num_runs: int
    num_collapsed: int
    mean_gain: float
    least_gain: float
    most_gain: float

    @property
    def enough(self) -> bool:
        return self.num_runs >= FEWEST_RUNS


def run_of(result: Mapping[str, object]) -> ReviewedRun | None:
    """A run from the `Result` of a reinforce job; None for any other result."""
    settings, gain = result.get("settings"), result.get("gain")
    if result.get("kind") != "reinforce" or not isinstance(settings, Mapping) or not isinstance(gain, (int, float)):
        return None
    values = [settings.get(name) for name in SETTINGS]
    if not all(isinstance(value, (int, float)) for value in values):
        return None
    rate, entropy, clip = (float(value) for value in values if isinstance(value, (int, float)))
    return ReviewedRun(
        learning_rate=rate,
        entropy_weight=entropy,
        clip_range=clip,
        gain=float(gain),
        collapsed=bool(result.get("stopped_because")),
    )


def review(runs: Iterable[ReviewedRun]) -> tuple[Effect, ...]:
    """One row per setting and value, settings in their order, best mean gain first."""
    held: defaultdict[tuple[str, float], list[ReviewedRun]] = defaultdict(list)
    for run in runs:
        for setting, value in zip(SETTINGS, (run.learning_rate, run.entropy_weight, run.clip_range), strict=True):
            held[setting, value].append(run)
    effects = [_effect(setting, value, of) for (setting, value), of in held.items()]
    return tuple(sorted(effects, key=lambda one: (SETTINGS.index(one.setting), -one.mean_gain, one.value)))


def best_values(effects: Sequence[Effect]) -> dict[str, float]:
    """The value of best mean gain for each setting of which two values or more were tried often enough.

    Runs differ in the other settings too: this is advice for the next runs, no proof.
    """
    tried = {setting: [one for one in effects if one.setting == setting and one.enough] for setting in SETTINGS}
    return {
        setting: max(found, key=lambda one: one.mean_gain).value for setting, found in tried.items() if len(found) > 1
    }


def _effect(setting: str, value: float, runs: Sequence[ReviewedRun]) -> Effect:
    gains = [run.gain for run in runs]
    return Effect(
        setting=setting,
        value=value,
        num_runs=len(runs),
        num_collapsed=sum(run.collapsed for run in runs),
        mean_gain=sum(gains) / len(gains),
        least_gain=min(gains),
        most_gain=max(gains),
    )
