"""The limits of row C9 as data: defaults, a YAML file over them, single values over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_MAX_FILE_BYTES: Final = 64 << 10


class BadLimits(ValueError):
    """What was given is no limit; says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, and parts of 1. Source: row C9, but for those said to be ours."""

    memory_op_s: float = 0.2
    health_s: float = 0.1
    request_s: float = 0.75
    """One token, nothing queued."""
    connect_s: float = 0.05
    """To an address of this machine."""
    cross_node_s: float = 0.2
    over_plan: float = 0.05
    """What a share may hold above its plan. Ours: pages that are counted to one process or another."""
    idle_used: float = 0.15
    """Of a device of the 40 GB class, used while no model is on it."""
    one_model_used: float = 0.5
    several_models_used: float = 0.8
    action_s: float = 180.0
    """To load, unload, sleep, wake or reload a model. Ours: a large model is read from a disk."""
    metrics_s: float = 10.0
    """Until a request shows in the metrics. Ours: gateways report every few seconds."""
    watch_s: float = 30.0
    """Age of a node's last poll. Source: alert WatchStale."""


Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_DEFAULT: Final = Limits()


class LimitsFile(BaseModel):
    """The edge: what a file or the command line may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_op_s: Seconds = _DEFAULT.memory_op_s
    health_s: Seconds = _DEFAULT.health_s
    request_s: Seconds = _DEFAULT.request_s
    connect_s: Seconds = _DEFAULT.connect_s
    cross_node_s: Seconds = _DEFAULT.cross_node_s
    over_plan: Part = _DEFAULT.over_plan
    idle_used: Part = _DEFAULT.idle_used
    one_model_used: Part = _DEFAULT.one_model_used
    several_models_used: Part = _DEFAULT.several_models_used
    action_s: Seconds = _DEFAULT.action_s
    metrics_s: Seconds = _DEFAULT.metrics_s
    watch_s: Seconds = _DEFAULT.watch_s


def made_limits(values: Mapping[str, Any]) -> Limits:
    """Raises: BadLimits."""
    try:
        return Limits(**LimitsFile.model_validate(values).model_dump())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        known = ", ".join(LimitsFile.model_fields)
        raise BadLimits(f"The limit `{place}` is not right: {first['msg']}. Known limits: {known}.") from None


def read_limits(file: Path | None, given: Sequence[str]) -> Limits:
    """`given` are `name=value`, and win over the file. Raises: BadLimits."""
    values = _of_file(file) if file is not None else {}
    for text in given:
        name, found, value = text.partition("=")
        if not found:
            raise BadLimits(f"'{text}' sets no limit. Expected `name=value`, such as `request_s=1.5`.")
        values[name.strip()] = value.strip()
    return made_limits(values)


def _of_file(file: Path) -> dict[str, Any]:
    import yaml

    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
        values = yaml.safe_load(raw) if len(raw) <= _MAX_FILE_BYTES else None
    except (OSError, yaml.YAMLError) as error:
        raise BadLimits(f"The limits in '{file}' cannot be read: {type(error).__name__}.") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise BadLimits(f"'{file}' is no list of limits. Expected lines such as `request_s: 1.5`.")
    return values
