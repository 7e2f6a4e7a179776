"""Drills: signals from a file laid over what the devices really say, so that a fault can be rehearsed without one.

The file is JSON, read again at every poll: `{"head/host": {"temperature_c": 86}}`, or {"silence": "why"} for a device.
It is named by `HEADROOM_DRILL_SIGNALS` where Ray is started; every page that shows a device says so then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from placement.signals import DeviceSignals, Poll, Silence

DRILL_VARIABLE = "HEADROOM_DRILL_SIGNALS"
_SIGNALS = TypeAdapter(DeviceSignals)


def drilled(polls: tuple[Poll, ...], script: Path) -> tuple[Poll, ...]:
    """A script that cannot be read is silence of every device: a drill that goes wrong is never taken for health."""
    try:
        told = json.loads(script.read_text())
        return tuple(_drilled(poll, told.get(poll.device)) for poll in polls)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = f"the drill's file {script} cannot be used: {error}"
        return tuple(Silence(device=poll.device, reason=reason) for poll in polls)


def _drilled(poll: Poll, told: Mapping[str, object] | None) -> Poll:
    """Raises: ValueError for fields that `DeviceSignals` does not have."""
    if not told:
        return poll
    if "silence" in told:
        return Silence(device=poll.device, reason=f"{told['silence']} (drill)")
    if isinstance(poll, Silence):
        return poll
    unknown = set(told) - set(DeviceSignals.__slots__)
    if unknown:
        raise ValueError(f"unknown signals {sorted(unknown)}, known are {sorted(DeviceSignals.__slots__)}")
    real = _SIGNALS.dump_python(poll, mode="json")
    try:
        return _SIGNALS.validate_python({**real, **told, "product": f"{poll.product} (drill)"})
    except ValidationError as error:
        raise ValueError(str(error.errors(include_url=False)[0]["msg"])) from error
