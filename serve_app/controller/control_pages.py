"""The routes of `api.control_routes` as the controller answers them: read from what is known, and acts on devices."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from placement.codec import to_json_value
from placement.errors import PlacementError
from placement.health_rules import RuleName, Severity
from placement.health_state import Cordon
from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import ApiError, invalid, not_found, unavailable
from serve_app.controller.bringup import Bringup
from serve_app.controller.fleet_desk import FleetDesk
from serve_app.controller.learning import Learning, Page
from serve_app.leases.rest import PATH as LEASES
from serve_app.ops.maintenance import HOLDER_PREFIX

_MAX_ALERTS: Final = 1000
OPERATOR: Final = "operator"

V = TypeVar("V")


class CordonRequest(BaseModel):
    """`target` is a device or a node; `by` who holds the cordon, and may lift it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    target: str = Field(min_length=1, max_length=256)
    by: str = Field(OPERATOR, min_length=1, max_length=64)


class ControlPages:
    """`fleet` gives the fleet as it is now."""

    def __init__(
        self,
        *,
        bringup: Bringup,
        desk: FleetDesk,
        learning: Learning,
        others: Mapping[str, Page],
        fleet: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        """`others`: by the beginning of a path, who answers there."""
        self._bringup = bringup
        self._desk = desk
        self._learning = learning
        self._others = others
        self._fleet = fleet

    async def answer(self, asked: ControlAsked) -> ControlAnswer:
        if asked.path.startswith(LEASES):
            return await self._desk.leases.answer(asked)
        page = self._learning.page_of(asked.path) or self._other(asked.path)
        if page is not None:
            return await page(asked)
        try:
            match asked.path:
                case "/v1/fleet":
                    return json_answer(await self._fleet())
                case "/v1/plan":
                    return json_answer(self._plan())
                case "/v1/alerts":
                    return json_answer(self._alerts(asked.query))
                case "/v1/objectives":
                    return json_answer(self._objectives())
                case "/admin/forget":
                    return json_answer(self._forget(asked.body))
                case "/admin/cordon" | "/admin/drain" | "/admin/uncordon":
                    return json_answer(self._cordon(asked.path, asked.body))
            return error_answer(not_found(f"The controller has no page {asked.path[:128]}.", code="unknown_path"))
        except _Said as said:
            return error_answer(said.error)

    def _other(self, path: str) -> Page | None:
        return next((page for beginning, page in self._others.items() if path.startswith(beginning)), None)

    def _plan(self) -> dict[str, Any]:
        stored = self._bringup.state.stored
        if stored is None:
            raise _Said(unavailable("There is no plan yet.", code="no_plan", retry_after_s=5))
        return {name: to_json_value(value) for name, value in (("plan", stored.plan), ("inventory", stored.inventory))}

    def _alerts(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Newest first. `next` is the `before` of the next page, None at the end."""
        _only(query, {"limit", "before", "active", "device", "rule", "severity"})
        limit = _number(query, "limit", default=100, most=_MAX_ALERTS)
        before = _number(query, "before", default=None, most=2**62)
        assert limit is not None
        active = _one_of(query, "active", {"true": True, "false": False})
        entries = self._desk.records.alerts.page(
            limit=limit,
            before=before,
            active=active,
            device=query.get("device"),
            rule=_one_of(query, "rule", {one.value: one for one in RuleName}),
            severity=_one_of(query, "severity", {one.value: one for one in Severity}),
        )
        return {
            "alerts": [asdict(entry) for entry in entries],
            "next": entries[-1].id if len(entries) == limit else None,
        }

    def _objectives(self) -> dict[str, Any]:
        return {"objectives": [to_json_value(one) for one in self._desk.objectives.burns(now_s=time.time())]}

    def _forget(self, body: bytes) -> dict[str, Any]:
        """For hardware that was taken out; refused while it is part of the fleet."""
        devices = self._named(_cordon_request(body).target)
        inventory = self._bringup.state.inventory
        here = sorted({device.id for device in inventory.devices} & set(devices)) if inventory else devices
        if here:
            message = f"{', '.join(here)} is still part of the fleet. Take the hardware or its Ray node out first."
            raise _Said(invalid(message, param="target"))
        self._desk.monitor.forget(devices)
        gone = ({"device": device, "health": "forgotten", "cordoned": False, "reasons": []} for device in devices)
        return {"devices": list(gone)}

    def _cordon(self, path: str, body: bytes) -> dict[str, Any]:
        asked = _cordon_request(body)
        if asked.by.startswith(HOLDER_PREFIX):
            raise _Said(invalid(f"`by` must not begin with '{HOLDER_PREFIX}': windows hold those.", param="by"))
        devices = self._named(asked.target)
        try:
            if path == "/admin/uncordon":
                self._desk.monitor.uncordon(devices, asked.by)
            else:
                self._desk.monitor.cordon(devices, Cordon(by=asked.by, drains=path == "/admin/drain"))
        except PlacementError as error:
            raise _Said(invalid(str(error))) from None
        return {"devices": [self._standing(device) for device in devices]}

    def _named(self, target: str) -> list[str]:
        known = sorted(self._desk.monitor.fleet.records)
        found = [device for device in known if target in (device, device.rpartition("/")[0])]
        if not found:
            message = f"Unknown device or node '{target[:128]}'. Known devices: {', '.join(known) or 'none yet'}."
            raise _Said(not_found(message, param="target", code="unknown_device"))
        return found

    def _standing(self, device: str) -> dict[str, Any]:
        monitor = self._desk.monitor
        return {
            "device": device,
            "health": monitor.device_health[device].value,
            "cordoned": device in monitor.cordoned,
            "reasons": list(monitor.reasons(device)),
        }


class _Said(Exception):
    """Ends a page with an error for the caller."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def _cordon_request(body: bytes) -> CordonRequest:
    try:
        return CordonRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "body"
        raise _Said(invalid(f"{place}: {first['msg']}. Expected `target`, and `by` or not.", param=place)) from None


def _only(query: Mapping[str, str], known: set[str]) -> None:
    unknown = sorted(set(query) - known)
    if unknown:
        raise _Said(
            invalid(f"Unknown filter '{unknown[0][:64]}'. Known: {', '.join(sorted(known))}.", param=unknown[0])
        )


def _number(query: Mapping[str, str], name: str, *, default: int | None, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise _Said(invalid(f"`{name}` is '{text[:32]}', expected a whole number from 1 to {most}.", param=name))
    return int(text)


def _one_of(query: Mapping[str, str], name: str, values: Mapping[str, V]) -> V | None:
    text = query.get(name)
    if text is None:
        return None
    if text not in values:
        raise _Said(invalid(f"`{name}` is '{text[:32]}', expected one of {', '.join(values)}.", param=name))
    return values[text]
