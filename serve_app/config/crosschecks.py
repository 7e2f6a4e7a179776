"""Rules that look at more than one key. They read the raw mapping and pass over what has the wrong type,
so that they speak in the same run as the schema, never instead of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.config.health_crosschecks import health_findings
from serve_app.config.problems import Finding, Location, Problem, did_you_mean, path_text, value_text
from serve_app.config.scaling_crosschecks import scaling_findings
from serve_app.config.schema import ModelSection
from serve_app.config.yaml_source import Document


def cross_problems(args: Mapping[str, Any], document: Document, prefix: Location) -> list[Problem]:
    models, modes = _models(args), _modes(args)
    findings = (
        *_duplicate_ids(models),
        *_shadowed_ids(models, modes),
        *_candidates(models, modes),
        *_lengths(models, modes),
        *_downshifts(modes),
        *health_findings(args),
        *_certificate(args.get("access")),
        *scaling_findings(args, tuple(model for _, model, _ in models)),
    )
    return [
        Problem(
            path=path_text(prefix + location),
            what=what,
            expected=expected,
            advice=advice,
            line=document.line_of(prefix + location),
        )
        for location, what, expected, advice in findings
    ]


def _models(args: Mapping[str, Any]) -> list[tuple[int, str, Mapping[str, Any]]]:
    """Index, id and keys of every model that has an id."""
    models = args.get("models")
    entries = enumerate(models) if isinstance(models, list) else ()
    return [(i, m["id"], m) for i, m in entries if isinstance(m, Mapping) and isinstance(m.get("id"), str)]


def _modes(args: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    modes = args.get("modes")
    entries = modes.items() if isinstance(modes, Mapping) else ()
    return {str(name): mode for name, mode in entries if isinstance(mode, Mapping)}


def _duplicate_ids(models: list[tuple[int, str, Mapping[str, Any]]]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, model, _ in models:
        if model in first:
            expected = f"an id that no other model has; models[{first[model]}] has it already"
            yield ("models", index, "id"), f"is {value_text(model)}", expected, "Raise `replicas` for a second engine."
        first.setdefault(model, index)


def _shadowed_ids(
    models: list[tuple[int, str, Mapping[str, Any]]], modes: dict[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    for index, model, _ in models:
        if model in modes:
            expected = "an id that no mode has, because callers ask for both by the same field"
            yield ("models", index, "id"), f"is {value_text(model)}", expected, ""


def _candidates(
    models: list[tuple[int, str, Mapping[str, Any]]], modes: dict[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    known = tuple(dict.fromkeys(model for _, model, _ in models))
    for mode, keys in modes.items():
        names = keys.get("candidates")
        seen: set[str] = set()
        for index, name in enumerate(names if isinstance(names, list) else ()):
            location: Location = ("modes", mode, "candidates", index)
            if not isinstance(name, str):
                continue
            if name not in known:
                yield location, f"is {value_text(name)}", _one_of(known), did_you_mean(name, known)
            elif name in seen:
                yield location, f"is {value_text(name)}", "each model once", ""
            seen.add(name)


def _lengths(
    models: list[tuple[int, str, Mapping[str, Any]]], modes: dict[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """A mode whose answers may be longer than a candidate's whole length would fail on every request."""
    default = ModelSection.model_fields["max_model_len"].default
    limits = {model: keys.get("max_model_len", default) for _, model, keys in models}
    for mode, keys in modes.items():
        sampling, names = keys.get("sampling"), keys.get("candidates")
        asked = sampling.get("max_tokens") if isinstance(sampling, Mapping) else None
        known = [name for name in names if isinstance(name, str) and name in limits] if isinstance(names, list) else []
        tight = [name for name in known if _is_int(asked) and _is_int(limits[name]) and asked >= limits[name]]
        if tight:
            bound = ", ".join(f"{name} {limits[name]}" for name in tight)
            location: Location = ("modes", mode, "sampling", "max_tokens")
            yield location, f"is {asked}", f"less than max_model_len of its candidates ({bound})", ""


def _certificate(access: object) -> Iterator[Finding]:
    keys = access if isinstance(access, Mapping) else {}
    missing = [name for name in ("certificate_file", "key_file") if keys.get(name) is None]
    if len(missing) == 1:
        yield ("access",), f"has no {missing[0]}", "both certificate_file and key_file, or neither", ""


def _downshifts(modes: dict[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """A way down names modes that exist and never comes back to where it began."""
    ways = {mode: keys.get("downshift_to") for mode, keys in modes.items()}
    for mode, below in ways.items():
        location: Location = ("modes", mode, "downshift_to")
        if isinstance(below, str) and below not in modes:
            expected = f"one of the modes: {', '.join(modes)}"
            yield location, f"is {value_text(below)}", expected, did_you_mean(below, tuple(modes))
        elif _comes_back(mode, ways):
            yield location, f"is {value_text(below)}", "a way down that does not come back to its own mode", ""


def _comes_back(mode: str, ways: Mapping[str, Any]) -> bool:
    at, seen = ways.get(mode), set[str]()
    while isinstance(at, str) and at not in seen:
        if at == mode:
            return True
        seen.add(at)
        at = ways.get(at)
    return False


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(known: tuple[str, ...]) -> str:
    return f"one of the model ids: {', '.join(known)}" if known else "the id of a model, but there is none"
