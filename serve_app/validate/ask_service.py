"""Asks for what the checks of the service judge."""

from __future__ import annotations

from statistics import median
from typing import Any

from serve_app.validate.asker import CHAT, Asker, new_trace, until
from serve_app.validate.checks import Finding
from serve_app.validate.limits import Limits
from serve_app.validate.metrics import metric_values
from serve_app.validate.service import (
    Counted,
    Reply,
    judge_cache,
    judge_chat,
    judge_errors,
    judge_metric_trace,
    judge_stream,
)
from tracing import names

_NO_STORE = {"cache-control": "no-store"}
_NUM_CONNECTIONS = 3
_NUM_COUNTED = 3


async def modes_of(asker: Asker) -> list[dict[str, Any]]:
    """Those that can be asked now."""
    listed = (await asker.values("/v1/models"))["data"]
    return [one for one in listed if one.get("kind") == "mode" and one.get("ready")]


async def chat(asker: Asker, limits: Limits, *, model: str | None) -> Finding:
    """In each mode; of `model`, where one is named."""
    replies = {mode["id"]: await _in_mode(asker, mode["id"], model, "chat") for mode in await modes_of(asker)}
    connect_s = median([await asker.connect_s() for _ in range(_NUM_CONNECTIONS)])
    limit_s = limits.connect_s if asker.is_local() else limits.cross_node_s
    return judge_chat(replies, connect_s=connect_s, connect_limit_s=limit_s, limits=limits)


async def stream(asker: Asker, limits: Limits, *, model: str | None) -> Finding:
    reply = await asker.chat(await _target(asker, model), "stream", stream=True)
    return judge_stream(reply, limits)


async def cache(asker: Asker, limits: Limits, *, model: str | None) -> Finding:
    keeping = [mode["id"] for mode in await modes_of(asker) if mode.get("cache_ttl_s", 0) > 0]
    mode = keeping[0] if keeping else await _target(asker, None)
    first = await _in_mode(asker, mode, model, "cache")
    second = await _in_mode(asker, mode, model, "cache")
    fresh = await _in_mode(asker, mode, model, "cache", headers=_NO_STORE)
    return judge_cache(first, second, fresh, has_cache=bool(keeping), limits=limits)


async def metric_trace(asker: Asker, limits: Limits, *, model: str | None) -> Finding:
    target = await _target(asker, model)
    before = await _num_answered(asker)
    trace_id, headers = new_trace()
    replies = [await asker.chat(target, f"count {number}", headers=headers) for number in range(_NUM_COUNTED)]
    after = before

    async def shows() -> bool:
        nonlocal after
        after = await _num_answered(asker)
        return after - before >= _NUM_COUNTED

    _, waited_s = await until(shows, within_s=limits.metrics_s)
    counted = Counted(reply=replies[-1], sent_trace=trace_id, before=before, after=after, waited_s=waited_s)
    return judge_metric_trace(counted, num_asked=_NUM_COUNTED, limits=limits)


async def errors(asker: Asker, limits: Limits, *, model: str | None) -> Finding:
    unknown = await asker.chat("no-such-model-of-the-validation", "unknown")
    bad = await asker.ask("POST", CHAT, body=_bad_request(await _target(asker, model)))
    return judge_errors(unknown, bad, limits)


def _bad_request(target: str) -> dict[str, Any]:
    return {"model": target, "messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}


async def _in_mode(
    asker: Asker, mode: str, model: str | None, what: str, *, headers: dict[str, str] | None = None
) -> Reply:
    """A named model is asked in the mode, without going down to a smaller one."""
    if model is None:
        return await asker.chat(mode, f"{what} {mode}", headers=headers)
    named = {"x-headroom-mode": mode, "x-headroom-downshift": "no", **(headers or {})}
    return await asker.chat(model, f"{what} {mode}", headers=named)


async def _target(asker: Asker, model: str | None) -> str:
    """The model named, else the first mode that is ready; the first there is where none is, to be told why."""
    if model is not None:
        return model
    ready = await modes_of(asker)
    listed = ready or (await asker.values("/v1/models"))["data"]
    return str(listed[0]["id"]) if listed else "fast"


async def _num_answered(asker: Asker) -> float:
    return sum(value for _, value in await metric_values(asker, names.INFERENCE_REQUESTS.name))
