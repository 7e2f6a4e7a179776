"""The Serve replica that hosts one engine: claim a slot, hold the shares, start, prove the device, serve.

Nothing here takes device memory before the controller said that it is this replica's turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import serve

from serve_app.controller.claims import Claim, ReadyReport, Told, Waiting
from serve_app.engines.asgi import EngineServer
from serve_app.engines.environment import engine_environment
from serve_app.engines.fingerprint import Fingerprint
from serve_app.engines.peak import PeakSampler, held_by_replica
from serve_app.engines.protocol import Engine, EngineLaunch
from serve_app.engines.weights_switch import WeightsSwitch
from serve_app.errors import EngineStartFailed
from serve_app.fleet.groups import hold_share
from serve_app.fleet.names import share_name
from serve_app.fleet.process_memory import SHARE_VARIABLE, own_process
from serve_app.http_server import HttpServer, own_address
from serve_app.logs import logger
from serve_app.rollout.depot import local_checkpoint
from tracing import names
from tracing.setup import configure, enabled
from tracing.spans import operation
from tracing.vllm_spans import vllm_trace_arguments

_BEAT_S = 1.0
_WATCH_S = 0.1
_ASK_AGAIN_S = 0.5
_ASK_LIMIT_S = 5.0
_LAST_ANSWERS_S = 0.5
"""How long a replica with a dead engine stays to hand out its 503s, and a retiring one for those under way to it."""
_DRAIN_S = 120.0
"""Longest wait of a retiring replica for its last answers."""
_DRAIN_POLL_S = 0.05


class EngineReplica:
    """One engine under Serve. Serve awaits `__init__`; the replica is ready when it returns."""

    async def __init__(self, model: str, deployment: str) -> None:  # type: ignore[misc]  # Serve awaits it
        self._model = model
        self._deployment = deployment
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._controller = serve.get_deployment_handle("controller", "headroom")
        self._closing = False
        self._shares: list[Any] = []
        self._claim = await self._claimed()
        self._tasks = [asyncio.create_task(self._beat())]
        try:
            await self._come_up()
        except Exception as error:
            _log.error("engine did not come up", **self._facts(), error=repr(error))
            await self._controller.failed.remote(self._claim.slot.name, self._claim.epoch, str(error))
            raise

    async def _come_up(self) -> None:
        weights = self._claim.slot.weights
        self._checkpoint = await asyncio.to_thread(
            local_checkpoint, weights.path, weights.version, self._claim.slot.node
        )
        self._shares = await self._held_shares()
        self._engine = await self._imported_engine()
        await self._turn()
        self._switch = self._made_switch()
        self._app = EngineServer(
            self._engine, secret=self._claim.internal_secret, switch=self._switch, traced=enabled()
        )
        self._server, report, said = await self._started()
        await self._controller.ready.remote(self._claim.slot.name, self._claim.epoch, report, said)
        self._tasks.append(asyncio.create_task(self._watch()))
        gc.freeze()  # what is there now stays; collections need not walk it
        _log.info("engine ready", **self._facts(), url=report.url, load_s=round(report.load_s, 1))

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve asks for this method where a deployment has a `user_config`; ours only shows devices and bytes."""

    def check_health(self) -> None:
        """Called by Serve. A dead engine core has ended the process already; this catches what is left."""
        if not self._engine.alive():
            raise RuntimeError(f"the engine of {self._claim.slot.name} is dead")

    async def __del__(self) -> None:
        """Graceful end, called by Serve: no new work, then the engine's processes, then the share."""
        self._closing = True
        for task in getattr(self, "_tasks", []):
            task.cancel()
        if hasattr(self, "_server"):
            self._app.refuse_all()
            await self._server.stop()
        if hasattr(self, "_engine"):
            await self._engine.stop()

    async def _claimed(self) -> Claim:
        reason = ""
        while True:
            answer: Claim | Waiting = await self._controller.claim.remote(
                self._deployment, self._replica, own_process()
            )
            if isinstance(answer, Claim):
                return answer
            if answer.reason != reason:
                reason = answer.reason
                _log.info("waiting for a slot", deployment=self._deployment, reason=reason)
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _held_shares(self) -> list[Any]:
        """One share actor per device, placed by Ray inside the device's bundle. They die with this process."""
        slot = self._claim.slot
        name = share_name(slot.name, self._claim.epoch)
        shares = [
            await asyncio.to_thread(hold_share, seat, num_bytes=slot.share_bytes, name=f"{name}-{index}")
            for index, seat in enumerate(slot.seats)
        ]
        await asyncio.gather(*(share.ping.remote() for share in shares))
        await self._controller.hold.remote(slot.name, self._claim.epoch, shares)
        return shares

    async def _imported_engine(self) -> Engine:
        configure(names.ENGINE)
        launch = self._launch()
        os.environ.update(engine_environment(launch))
        os.environ[SHARE_VARIABLE] = f"{self._claim.slot.name}:{self._claim.epoch}"
        return await asyncio.to_thread(_vllm_engine, launch)

    def _made_switch(self) -> WeightsSwitch:
        slot = self._claim.slot
        switch = WeightsSwitch(
            self._engine,
            model=self._model,
            path=self._checkpoint,
            version=slot.weights.version,
            measured=functools.partial(held_by_replica, marker=os.environ[SHARE_VARIABLE], kind=slot.device_kind),
        )
        switch.overdue = self._gate_overdue
        switch.lost = self._weights_lost
        return switch

    def _gate_overdue(self) -> None:
        """Nobody opened the gate: serve what the controller says is in force, once it says so."""
        _log.warning("the gate was not opened in time", **self._facts())
        self._tasks.append(asyncio.create_task(self._switch.settle(self._in_force, ask_again_s=_ASK_AGAIN_S)))

    async def _in_force(self) -> str | None:
        version: str | None = None
        with _controller_may_restart(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_LIMIT_S):
                version = await self._controller.weights_in_force.remote(self._claim.slot.name, self._claim.epoch)
        return version

    def _weights_lost(self, why: str) -> None:
        """Another replica starts in this one's place, with the weights that its claim names."""
        _log.error("nobody knows which weights this replica has", **self._facts(), reason=why)
        self._tasks.append(asyncio.create_task(self._die()))

    async def _turn(self) -> None:
        reason = ""
        while True:
            answer = await self._controller.start.remote(self._claim.slot.name, self._claim.epoch)
            if answer is None:
                raise EngineStartFailed(f"The claim on {self._claim.slot.name!r} was taken back before the start.")
            if not isinstance(answer, Waiting):
                return
            if answer.reason != reason:
                reason = answer.reason
                _log.info("waiting for a turn to start", **self._facts(), reason=reason)
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _started(self) -> tuple[HttpServer, ReadyReport, Fingerprint]:
        began_s = time.monotonic()
        with PeakSampler(marker=os.environ[SHARE_VARIABLE], kind=self._claim.slot.device_kind) as sampler:
            with operation(names.LOAD_MODEL_SPAN.format(self._model)):
                await self._engine.start()
                await self._engine.warm_up()
                said = await self._switch.prove(self._claim.expected)
            held = await self._engine.held_bytes()
            load_s = time.monotonic() - began_s
            server = HttpServer(self._app)
            await server.start(host=own_address(), port=self._claim.slot.port or 0)
        report = ReadyReport(
            url=server.url,
            load_s=load_s,
            measured_bytes=sampler.last_bytes,
            peak_bytes=sampler.peak_bytes,
            held=held,
            weights_version=self._claim.slot.weights.version,
        )
        return server, report, said

    async def _beat(self) -> None:
        """Tell the controller that we live. Told that the claim is gone, end at once."""
        while not self._closing:
            await asyncio.sleep(_BEAT_S)
            with _controller_may_restart():
                told = await self._controller.beat.remote(self._claim.slot.name, self._claim.epoch, self._shares)
                if told is Told.FENCED:
                    _log.error("fenced off: the claim is no longer valid", **self._facts())
                    await self._die()
                elif told is Told.RETIRE:
                    await self._retire()

    async def _watch(self) -> None:
        while self._engine.alive():  # noqa: ASYNC110 - vLLM has a flag, no event
            await asyncio.sleep(_WATCH_S)
        if not self._closing:
            _log.error("engine core died", **self._facts())
            await self._die()

    async def _retire(self) -> None:
        """Gateways have been told: answer what is still here, then end the engine and the process."""
        self._closing = True
        await asyncio.sleep(_LAST_ANSWERS_S)
        until_s = time.monotonic() + _DRAIN_S
        while self._num_in_flight() and time.monotonic() < until_s:  # noqa: ASYNC110 - one counter, no event
            await asyncio.sleep(_DRAIN_POLL_S)
        _log.info("retired", **self._facts(), num_cut=self._num_in_flight())
        if hasattr(self, "_engine"):
            await self._engine.stop()
        os._exit(0)

    def _num_in_flight(self) -> int:
        return self._app.num_in_flight if hasattr(self, "_app") else 0

    async def _die(self) -> None:
        """End the process so that Serve starts a new replica now, not after three failed checks."""
        if hasattr(self, "_app"):
            self._app.refuse_all()
            await asyncio.sleep(_LAST_ANSWERS_S)
        os._exit(1)

    def _launch(self) -> EngineLaunch:
        slot = self._claim.slot
        return EngineLaunch(
            model=self._model,
            checkpoint=self._checkpoint,
            arguments=slot.arguments,
            kv_cache_bytes=slot.kv_cache_bytes,
            device_kind=slot.device_kind,
            device_uuids=slot.device_uuids,
            trace_arguments=vllm_trace_arguments(os.environ),
        )

    def _facts(self) -> dict[str, Any]:
        return {"slot": self._claim.slot.name, "epoch": self._claim.epoch, "replica": self._replica}


def _vllm_engine(launch: EngineLaunch) -> Engine:
    from serve_app.engines.vllm_engine import VllmEngine

    return VllmEngine(launch)


@contextlib.contextmanager
def _controller_may_restart() -> Iterator[None]:
    """The data plane goes on without the controller: its absence is logged, never fatal."""
    try:
        yield
    except (ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
        _log.warning("the controller does not answer", error=type(error).__name__)


_log = logger("headroom.engine")
