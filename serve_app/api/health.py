"""`/health`: what the gateway can see of itself, joined with what the controller says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.gateway.catalog import Catalog

RESTING = ("asleep", "unloaded")


def health_page(catalog: Catalog, controller: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
    """Status and body. 200 while at least one model answers here or all rest, else 503.

    `controller` None: it did not answer. The gateway's own table rules on what is ready; the controller adds why
    something is not.
    """
    told = _models_told(controller)
    models = {model: _model_health(model, catalog, told.get(model)) for model in catalog.models}
    num_ready = sum(model["status"] == "ready" for model in models.values())
    num_resting = sum(model["status"] in RESTING for model in models.values())
    status = _status(num_ready, len(models) - num_resting, controller)
    body = {
        "status": status,
        "controller": "unreachable" if controller is None else controller.get("controller", "ok"),
        "reason": _reason(controller),
        "models": models,
    }
    return (200 if num_ready or status == "ok" else 503), body


def _models_told(controller: Mapping[str, Any] | None) -> Mapping[str, Any]:
    models = controller.get("models") if controller is not None else None
    return models if isinstance(models, Mapping) else {}


def _status(num_ready: int, num_wanted: int, controller: Mapping[str, Any] | None) -> str:
    if num_ready == num_wanted and controller is not None:
        return "ok"
    if num_ready:
        return "degraded"
    return "down" if controller is not None and controller.get("status") == "down" else "starting"


def _reason(controller: Mapping[str, Any] | None) -> str:
    if controller is None:
        return "The controller does not answer; requests are served from the last routing table."
    return str(controller.get("reason", ""))


def _model_health(model: str, catalog: Catalog, told: Mapping[str, Any] | None) -> dict[str, Any]:
    num_ready = len(catalog.serving.get(model, ()))
    wanted = catalog.models[model].num_replicas
    if num_ready:
        return {"status": "ready", "reason": "", "num_ready": num_ready, "num_wanted": wanted}
    told = told or {}
    status = told.get("status", "starting")
    # "ready" there and not here: the table that says so is on its way.
    return {
        "status": "starting" if status == "ready" else status,
        "reason": told.get("reason", ""),
        "num_ready": 0,
        "num_wanted": wanted,
    }
