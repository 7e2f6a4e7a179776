"""What is right about loading, putting away, reloading and telling of models. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.api.wire import ModelInfo
from serve_app.validate.checks import Finding, judged, skipped, too_slow
from serve_app.validate.limits import Limits

_OK: Final = 200
_BUSY: Final = 409


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """A change of one model: what the cluster said to it, and whether the model came to the `wanted` state in time."""

    model: str
    wanted: str
    status: int
    message: str
    reached: bool
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """`before` and `after` are weights versions as `/models/info` names them; `answered` the one of an answer after."""

    model: str
    status: int
    message: str
    took_s: float
    before: str | None
    after: str | None
    answered: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One loaded model: `/models/info`, and its weights in `/v1/models` and in an answer; its status in `/health`."""

    info: ModelInfo
    listed: str | None
    health: str | None
    answered: str | None


def victim(models: Iterable[ModelInfo], *, asked: str | None) -> ModelInfo | str:
    """The model that can best be spared for a moment: loaded, not pinned, longest idle; or why there is none.

    Priorities are not told over HTTP: idleness stands for importance.
    """
    loaded = [one for one in models if one.loaded]
    if asked is not None:
        loaded = [one for one in loaded if one.id == asked]
    spare = [one for one in loaded if not one.pinned]
    if not spare:
        return "Every loaded model is pinned." if loaded else "No model that may be taken is loaded."
    return max(spare, key=lambda one: one.idle_s)


def judge_acts(acts: Sequence[Acted], limits: Limits) -> Finding:
    """All of them, in their order."""
    problems = []
    for act in acts:
        if act.status >= 300:  # HTTP's own border between done and not done
            problems.append(f"'{act.model}' was not {act.wanted}: status {act.status}, {act.message}")
        elif not act.reached:
            problems.append(f"'{act.model}' was not {act.wanted} within {limits.action_s:g} s.")
        else:
            problems += too_slow(f"Until '{act.model}' was {act.wanted}", act.took_s, limits.action_s)
    measured = ", ".join(f"{act.model} {act.wanted} {act.took_s:.2f} s" for act in acts)
    return judged(problems, measured=measured, limit=f"{limits.action_s:g} s")


def judge_reload(seen: Reloaded, limits: Limits) -> Finding:
    """The same weights serve afterwards."""
    if seen.status == _BUSY and seen.after == seen.before and seen.answered == seen.before:
        return skipped(f"The reload was refused as things stand: {seen.message}")
    problems = []
    if seen.status != _OK:
        problems.append(f"The reload of '{seen.model}' was answered with status {seen.status}: {seen.message}")
    if not seen.before or not seen.before == seen.after == seen.answered:
        versions = f"{seen.before} before, {seen.after} after, {seen.answered} in an answer"
        problems.append(f"'{seen.model}' does not serve the same weights: {versions}.")
    problems += too_slow("The reload", seen.took_s, limits.action_s)
    measured = f"{seen.model} {seen.took_s:.2f} s, weights {seen.after}"
    return judged(problems, measured=measured, limit=f"{limits.action_s:g} s")


def judge_info(told: Sequence[Told]) -> Finding:
    """What is told of a model on one page is what the others tell, and what its answers say."""
    if not told:
        return skipped("No model is loaded.")
    problems = [problem for one in told for problem in _contradictions(one)]
    versions = ", ".join(f"{one.info.id} {one.info.weights_version}" for one in told)
    return judged(problems, measured=versions)


def _contradictions(told: Told) -> list[str]:
    name, version = told.info.id, told.info.weights_version
    problems = []
    if not version:
        problems.append(f"/models/info names no weights of '{name}', which is loaded.")
    if told.listed != version:
        problems.append(f"'{name}' has weights {version} in /models/info and {told.listed} in /v1/models.")
    if told.answered != version:
        problems.append(f"'{name}' has weights {version} in /models/info and {told.answered} in an answer.")
    if told.health != "ready":
        problems.append(f"'{name}' is loaded in /models/info and {told.health} in /health.")
    return problems
