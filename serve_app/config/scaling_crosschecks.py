"""Rules over several keys of `scaling`, on the raw mapping like those in `crosschecks`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from serve_app.config.problems import Finding, Location, did_you_mean, value_text
from serve_app.scaling.rules import ENGINE_BANDS, GATEWAY_BANDS, TRAINER_BANDS, Kind, target_named

_BANDS = {"gateway": GATEWAY_BANDS, "engines": ENGINE_BANDS, "trainers": TRAINER_BANDS}
_BOUNDS = ("min_replicas", "max_replicas")


def scaling_findings(args: Mapping[str, Any], models: Collection[str]) -> Iterator[Finding]:
    scaling = _mapping(args.get("scaling"))
    for part, bands in _BANDS.items():
        section = _mapping(scaling.get(part))
        for band in bands:
            keys = _mapping(section.get(band.signal.value))
            ends = keys.get("up", band.up), keys.get("down", band.down)
            yield from _ends(keys, ends, ("scaling", part, band.signal.value))
    yield from _limits(scaling, models)
    yield from _schedules(scaling, models)


def _ends(keys: Mapping[str, Any], ends: tuple[object, object], place: Location) -> Iterator[Finding]:
    """A band whose ends cross would go up and down for ever."""
    up, down = ends
    if keys and _is_number(up) and _is_number(down) and down >= up:  # type: ignore[operator]  # both are numbers
        shown = "down" if "down" in keys else "up"
        yield (*place, shown), f"is {value_text(keys[shown])}", f"`down` ({down}) below `up` ({up})", ""


def _limits(scaling: Mapping[str, Any], models: Collection[str]) -> Iterator[Finding]:
    for part in ("gateway", "trainers"):
        limits = _mapping(_mapping(scaling.get(part)).get("limits"))
        yield from _order(limits, ("scaling", part, "limits"))
        if limits.get("min_replicas") == 0:
            yield ("scaling", part, "limits", "min_replicas"), "is 0", "1 or more: only models can sleep", ""
    for model, limits in _mapping(_mapping(scaling.get("engines")).get("limits")).items():
        place: Location = ("scaling", "engines", "limits", model)
        if model not in models:
            yield place, "is no model", f"one of the model ids: {', '.join(models)}", did_you_mean(model, tuple(models))
        yield from _order(_mapping(limits), place)


def _schedules(scaling: Mapping[str, Any], models: Collection[str]) -> Iterator[Finding]:
    schedules = scaling.get("schedules")
    names: set[str] = set()
    for index, keys in enumerate(schedules if isinstance(schedules, list) else ()):
        if not isinstance(keys, Mapping):
            continue
        place: Location = ("scaling", "schedules", index)
        yield from _order(keys, place)
        if all(keys.get(bound) is None for bound in _BOUNDS):
            yield place, "sets no limit", "at least one of min_replicas and max_replicas", ""
        target, name = keys.get("target"), keys.get("name")
        if isinstance(target, str):
            yield from _target(target, keys, models, place)
        if isinstance(name, str) and name in names:
            yield (*place, "name"), f"is {value_text(name)}", "a name that no other schedule has", ""
        elif isinstance(name, str):
            names.add(name)


def _target(target: str, keys: Mapping[str, Any], models: Collection[str], place: Location) -> Iterator[Finding]:
    named = target_named(target)
    if named.kind is Kind.ENGINE and named.model not in models:
        known = ("gateway", "trainers", *models)
        yield (*place, "target"), f"is {value_text(target)}", f"one of: {', '.join(known)}", did_you_mean(target, known)
    elif named.kind is not Kind.ENGINE and keys.get("min_replicas") == 0:
        yield (*place, "min_replicas"), "is 0", "1 or more: only models can sleep", ""


def _order(limits: Mapping[str, Any], place: Location) -> Iterator[Finding]:
    least, most = (limits.get(bound) for bound in _BOUNDS)
    if _is_number(least) and _is_number(most) and least > most:  # type: ignore[operator]  # both are numbers
        yield (*place, "min_replicas"), f"is {least}", f"at most max_replicas ({most})", ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
