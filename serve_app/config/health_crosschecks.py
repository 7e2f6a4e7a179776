"""Rules over several keys of `health` and `maintenance`, on the raw mapping like those in `crosschecks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from placement.health_rules import DEFAULT_RULES, RuleName
from serve_app.config.problems import Finding, Location, value_text


def health_findings(args: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _rules(args.get("health"))
    yield from _webhooks(args.get("health"))
    yield from _windows(args.get("maintenance"))


def _rules(health: object) -> Iterator[Finding]:
    """Keys that would change nothing, and a limit that is never reached."""
    rules = health.get("rules") if isinstance(health, Mapping) else None
    signals = {str(rule.name): rule.signal for rule in DEFAULT_RULES}
    for name, keys in rules.items() if isinstance(rules, Mapping) else ():
        if name not in signals or not isinstance(keys, Mapping):
            continue
        place: Location = ("health", "rules", name)
        ratio, window_s, threshold = (keys.get(key) for key in ("ratio", "window_s", "threshold"))
        if ratio is not None and not signals[name].is_relative:
            yield (*place, "ratio"), f"is {value_text(ratio)}", "nothing: devices have no limit of their own here", ""
        if window_s is not None and not signals[name].is_counted:
            yield (*place, "window_s"), f"is {value_text(window_s)}", "nothing: this rule counts no errors", ""
        if name == RuleName.MEMORY_PRESSURE and isinstance(threshold, int | float) and threshold > 1:
            advice = "It is a part of the device's memory."
            yield (*place, "threshold"), f"is {value_text(threshold)}", "a number greater than 0, at most 1", advice


def _webhooks(health: object) -> Iterator[Finding]:
    webhooks = health.get("webhooks") if isinstance(health, Mapping) else None
    for index, keys in enumerate(webhooks if isinstance(webhooks, list) else ()):
        if not isinstance(keys, Mapping):
            continue
        given = [key for key in ("secret_file", "secret_env") if keys.get(key) is not None]
        if len(given) != 1:
            what = "has both secret_file and secret_env" if given else "has no secret"
            yield ("health", "webhooks", index), what, "one of secret_file and secret_env, which signs what is sent", ""


def _windows(maintenance: object) -> Iterator[Finding]:
    windows = maintenance.get("windows") if isinstance(maintenance, Mapping) else None
    names: set[str] = set()
    for index, keys in enumerate(windows if isinstance(windows, list) else ()):
        if not isinstance(keys, Mapping):
            continue
        place: Location = ("maintenance", "windows", index)
        if not keys.get("devices") and not keys.get("nodes"):
            yield place, "holds nothing", "at least one of devices and nodes", ""
        name = keys.get("name")
        if isinstance(name, str) and name in names:
            yield (*place, "name"), f"is {value_text(name)}", "a name that no other window has", ""
        elif isinstance(name, str):
            names.add(name)
