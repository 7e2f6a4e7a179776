"""Asks for what the checks between nodes judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from serve_app.api.wire import FleetView
from serve_app.rollout.views import RolloutsView
from serve_app.validate.ask_devices import FLEET
from serve_app.validate.asker import Asker, until
from serve_app.validate.checks import Check, Finding, skipped
from serve_app.validate.limits import Limits
from serve_app.validate.metrics import metric_values
from serve_app.validate.nodes import (
    ONE_NODE,
    judge_reach,
    judge_remote_answer,
    judge_ship,
    judge_takeover,
    judge_trace,
    nodes_of,
    only_there,
)
from serve_app.validate.service import TRACE_HEADER, Reply
from tracing import names
from tracing.recent import SpanRecord, find_traces

CROSS_NODE: Final = (Check.REACH, Check.SHIP, Check.REMOTE_ANSWER, Check.TAKEOVER, Check.TRACE_CROSSES)
_TIMES: Final = 3
_SPANS_S: Final = 3.0
"""Until spans that have ended lie in the files. Source: `tracing.setup.FILE_DELAY_S`, with room for a busy machine."""


async def reach(asker: Asker, limits: Limits) -> Finding:
    fleet = await asker.page(FleetView, FLEET)
    times_s = [(await asker.ask("GET", FLEET)).took_s for _ in range(_TIMES)]
    return judge_reach(fleet, read_s=median(times_s), limits=limits)


async def ship(asker: Asker) -> Finding:
    return judge_ship((await asker.page(RolloutsView, "/v1/rollouts?limit=100")).rollouts)


async def takeover(asker: Asker, limits: Limits) -> Finding:
    nodes = nodes_of(await asker.page(FleetView, FLEET))
    polls = {labels["node"]: value for labels, value in await metric_values(asker, names.WATCH_LAST_POLL.name)}
    return judge_takeover(polls, nodes, now_s=time.time(), limits=limits)


async def remote_answers(asker: Asker) -> dict[str, Reply]:
    """An answer of each node that has a model for itself alone."""
    fleet = await asker.page(FleetView, FLEET)
    info = await asker.values("/models/info")
    devices_of = {
        model["id"]: [device for replica in model["replicas"] for device in replica["devices"]]
        for model in info["models"]
        if model["loaded"]
    }
    asked = only_there(devices_of, fleet)
    return {node: await asker.chat(model, f"node {node}") for node, model in asked.items()}


async def remote_answer(asker: Asker, limits: Limits) -> Finding:
    return judge_remote_answer(await remote_answers(asker), limits)


async def trace(asker: Asker, *, trace_folder: Path) -> Finding:
    replies = await remote_answers(asker)
    fleet = await asker.page(FleetView, FLEET)
    spans: Mapping[str, Sequence[SpanRecord]] = {}

    async def are_kept() -> bool:
        nonlocal spans
        spans = await asyncio.to_thread(_spans_of, replies, trace_folder)
        return all(spans.values())

    await until(are_kept, within_s=_SPANS_S)
    return judge_trace(replies, spans, {device.id: device.node for device in fleet.devices})


async def is_one_node(asker: Asker) -> bool:
    return len(nodes_of(await asker.page(FleetView, FLEET))) <= 1


def all_skipped() -> dict[Check, Finding]:
    return {check: skipped(ONE_NODE) for check in CROSS_NODE}


def _spans_of(replies: Mapping[str, Reply], folder: Path) -> dict[str, Sequence[SpanRecord]]:
    ids = {reply.headers.get(TRACE_HEADER, "none") for reply in replies.values()}
    return {one: find_traces(folder, one).get(one, ()) for one in ids}
