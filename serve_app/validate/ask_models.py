"""Asks for what the checks of models judge. Loading and putting away take a model from its users for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve_app.api.wire import HealthView, ModelInfo, ModelsInfoView
from serve_app.validate.asker import Asker, until
from serve_app.validate.checks import Check, Finding, skipped
from serve_app.validate.limits import Limits
from serve_app.validate.models import Acted, Reloaded, Told, judge_acts, judge_info, judge_reload, victim
from serve_app.validate.service import VERSION_HEADER

INFO: Final = "/models/info"
_MARGIN_S: Final = 5.0
_ASKS_DISRUPTIVE: Final = "It takes a model from its users for a while; --disruptive allows it."


@dataclass(frozen=True, slots=True)
class _Way:
    """An act, the state that the model is to come to, and the word for it."""

    action: str
    loaded: bool
    wanted: str


_UNLOAD: Final = _Way("unload", False, "unloaded")
_LOAD: Final = _Way("load", True, "loaded")
_SLEEP: Final = _Way("sleep", False, "asleep")
_WAKE: Final = _Way("wake", True, "awake")


async def info(asker: Asker) -> Finding:
    models = (await asker.page(ModelsInfoView, INFO)).models
    health = (await asker.page(HealthView, "/health")).models
    listed = {one["id"]: one.get("weights_version") for one in (await asker.values("/v1/models"))["data"]}
    told = []
    for model in models:
        if model.loaded:
            status = health[model.id].status if model.id in health else None
            answered = await _answered_version(asker, model.id)
            told.append(Told(info=model, listed=listed.get(model.id), health=status, answered=answered))
    return judge_info(told)


async def reload(asker: Asker, limits: Limits, *, model: str | None) -> Finding:
    """Of the one that `victim` names: its gates close for a moment, no request fails."""
    chosen = victim((await asker.page(ModelsInfoView, INFO)).models, asked=model)
    if isinstance(chosen, str):
        return skipped(chosen)
    timeout_s = limits.action_s + _MARGIN_S
    reply = await asker.ask("POST", "/models/reload", body={"model": chosen.id}, timeout_s=timeout_s)
    after = await _info_of(asker, chosen.id)
    seen = Reloaded(
        model=chosen.id,
        status=reply.status,
        message=reply.message,
        took_s=reply.took_s,
        before=chosen.weights_version,
        after=after.weights_version if after else None,
        answered=await _answered_version(asker, chosen.id),
    )
    return judge_reload(seen, limits)


async def moved(asker: Asker, limits: Limits, *, model: str | None, is_allowed: bool) -> dict[Check, Finding]:
    """Unload and load, then sleep and wake, of one model that can be spared. It is brought back whatever was found."""
    chosen: ModelInfo | str = _ASKS_DISRUPTIVE
    if is_allowed:
        chosen = victim((await asker.page(ModelsInfoView, INFO)).models, asked=model)
    if isinstance(chosen, str):
        return dict.fromkeys((Check.LOAD, Check.UNLOAD, Check.SLEEP_WAKE), skipped(chosen))
    try:
        unloaded = await _act(asker, chosen.id, _UNLOAD, limits)
        loaded = await _act(asker, chosen.id, _LOAD, limits)
        asleep = await _act(asker, chosen.id, _SLEEP, limits)
        awake = await _act(asker, chosen.id, _WAKE, limits)
    finally:
        await asker.ask("POST", "/models/load", body={"model": chosen.id}, timeout_s=limits.action_s)
    return {
        Check.UNLOAD: judge_acts([unloaded], limits),
        Check.LOAD: judge_acts([loaded], limits),
        Check.SLEEP_WAKE: judge_acts([asleep, awake], limits),
    }


async def _act(asker: Asker, model: str, way: _Way, limits: Limits) -> Acted:
    reply = await asker.ask("POST", f"/models/{way.action}", body={"model": model}, timeout_s=limits.action_s)

    async def is_there() -> bool:
        found = await _info_of(asker, model)
        return found is not None and found.loaded is way.loaded

    reached, took_s = await until(is_there, within_s=limits.action_s)
    return Acted(
        model=model,
        wanted=way.wanted,
        status=reply.status,
        message=reply.message,
        reached=reached,
        took_s=reply.took_s + took_s,
    )


async def _info_of(asker: Asker, model: str) -> ModelInfo | None:
    models = (await asker.page(ModelsInfoView, INFO)).models
    return next((one for one in models if one.id == model), None)


async def _answered_version(asker: Asker, model: str) -> str | None:
    return (await asker.chat(model, "weights")).headers.get(VERSION_HEADER)
