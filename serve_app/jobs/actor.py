"""The thin Ray actor around a job's program, and the host that starts it on the node where its shares are.

The shares themselves are held by whoever placed the job; the actor takes nothing of Ray's, and sits on its node by a
label. It lives for one run and dies with the controller that started it, and its program with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray

from serve_app.errors import HeadroomError
from serve_app.fleet.names import NAMESPACE, TRAINING
from serve_app.jobs.job import NO_ERROR, Placed
from serve_app.jobs.log_file import read_log
from serve_app.jobs.messages import Said, Saved
from serve_app.jobs.ports import Ended, LogPart, RunOrder
from serve_app.jobs.program import Program, clear, job_folder
from serve_app.jobs.run import lost
from tracing import names
from tracing.job_spans import JobSpans
from tracing.names import JobEvent
from tracing.settings import from_environment
from tracing.setup import configure, flush

CALL_S: Final = 60.0
"""For anything short on another node; a new worker process takes seconds."""


class JobActor:
    """One run. Async, so that it can be stopped while its events are read."""

    def __init__(self, order: RunOrder, home: Path) -> None:
        configure(names.TRAINER, settings=replace(from_environment(os.environ), node_role=TRAINING))
        self._order = order
        self._program = Program(order, folder=job_folder(home, order.job.id))

    async def ping(self) -> None:
        """Returns once it is there."""

    async def events(self) -> AsyncIterator[Said | Ended]:
        job, node = self._order.job, self._order.placed.node
        span = JobSpans().program(self._order.traceparent, job_id=job.id, attempt=job.attempt, node=node)
        async for event in self._program.events():
            if isinstance(event, Saved):
                span.event(JobEvent.CHECKPOINT_SAVED, {names.CHECKPOINT_STEP: event.step})
            if isinstance(event, Ended):  # whoever reads it ends this process
                span.tell({names.JOB_RESULT: event.ending.reason.value})
                span.end(error_type=None if event.ending.reason in NO_ERROR else event.ending.reason.value)
                await asyncio.to_thread(flush)
            yield event

    async def stop(self, grace_s: float) -> None:
        await self._program.stop(grace_s=grace_s)


class RayHandle:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def events(self) -> AsyncIterator[Said | Ended]:
        try:
            async for event in self._actor.events.options(num_returns="streaming").remote():
                yield await event
        except ray.exceptions.RayError as error:
            yield lost(f"The process that watched its program is gone ({type(error).__name__}).")
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self._actor)

    async def stop(self, *, grace_s: float) -> None:
        try:
            await self._actor.stop.remote(grace_s)
        except ray.exceptions.RayError as error:
            raise HeadroomError(f"The process that watches a job cannot be asked ({type(error).__name__}).") from error


class RayHost:
    """`selector_of` gives the label selector of a node by its name, None when it is not in the cluster.

    `home` is the same path on every node.
    """

    def __init__(self, *, home: Path, selector_of: Callable[[str], Mapping[str, str] | None]) -> None:
        self._home = home
        self._selector_of = selector_of

    async def start(self, order: RunOrder) -> RayHandle:
        name = f"headroom-{order.job.id}-{order.placed.epoch}"
        options = {
            "num_cpus": 0,
            "name": name,
            "namespace": NAMESPACE,
            "label_selector": self._selector(order.placed.node),
        }
        actor = ray.remote(JobActor).options(**options).remote(order, self._home)
        try:
            await asyncio.wait_for(actor.ping.remote(), CALL_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            ray.kill(actor)
            what = f"Node '{order.placed.node}' did not start the job's process within {CALL_S:.0f} s"
            raise HeadroomError(f"{what} ({type(error).__name__}).") from error
        return RayHandle(actor)

    async def clear(self, job_id: str, placed: Placed) -> None:
        if self._selector_of(placed.node) is None:
            return  # the node is gone, and everything on it
        await self._on_node(placed.node, clear, job_id)

    async def read_log(self, job_id: str, node: str, *, offset: int, max_bytes: int) -> LogPart:
        folder = job_folder(self._home, job_id)
        part: LogPart = await self._on_node(node, _read_log, folder, offset, max_bytes)
        return part

    async def _on_node(self, node: str, function: Callable[..., Any], *arguments: object) -> Any:
        task = ray.remote(function).options(num_cpus=0, label_selector=self._selector(node))
        try:
            return await asyncio.wait_for(task.remote(*arguments), CALL_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise HeadroomError(f"Node '{node}' did not answer ({type(error).__name__}).") from error

    def _selector(self, node: str) -> dict[str, str]:
        selector = self._selector_of(node)
        if selector is None:
            raise HeadroomError(f"Node '{node}' is not in the cluster.")
        return dict(selector)


def _read_log(folder: Path, offset: int, max_bytes: int) -> LogPart:
    return read_log(folder, offset=offset, max_bytes=max_bytes)
