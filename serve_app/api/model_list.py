"""`/v1/models` in OpenAI's list form: every model, and every mode as a model of its own. Pure."""

from __future__ import annotations

from typing import Any

from serve_app.config.settings import ModelSettings, ModeSettings
from serve_app.gateway.catalog import Catalog

OWNER = "headroom"


def model_list(catalog: Catalog, *, created: int) -> dict[str, Any]:
    """`created` is Unix time in whole seconds; OpenAI's clients want one."""
    return {"object": "list", "data": [_item(name, catalog, created) for name in (*catalog.models, *catalog.modes)]}


def one_model(name: str, catalog: Catalog, *, created: int) -> dict[str, Any] | None:
    """One entry of the list, or None when there is no such model or mode."""
    return _item(name, catalog, created) if name in catalog.models or name in catalog.modes else None


def _item(name: str, catalog: Catalog, created: int) -> dict[str, Any]:
    head = {"id": name, "object": "model", "created": created, "owned_by": OWNER}
    model = catalog.models.get(name)
    return head | (_model_fields(model, catalog) if model else _mode_fields(catalog.modes[name], catalog))


def _model_fields(model: ModelSettings, catalog: Catalog) -> dict[str, Any]:
    backends = catalog.serving.get(model.id, ())
    return {
        "kind": "model",
        "ready": bool(backends),
        "max_model_len": model.max_model_len,
        "weights_version": backends[0].weights_version if backends else None,
        "checkpoint_step": backends[0].checkpoint_step if backends else None,
    }


def _mode_fields(mode: ModeSettings, catalog: Catalog) -> dict[str, Any]:
    return {
        "kind": "mode",
        "ready": any(candidate in catalog.serving for candidate in mode.candidates),
        "candidates": list(mode.candidates),
        "sampling": {
            "temperature": mode.sampling.temperature,
            "top_p": mode.sampling.top_p,
            "max_tokens": mode.sampling.max_tokens,
        },
        "latency_target_s": mode.latency_target_s,
        "cache_ttl_s": mode.cache_ttl_s,
    }
