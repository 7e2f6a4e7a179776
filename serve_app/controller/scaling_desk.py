"""Scaling in the controller: measures, decides, and changes counts of engines, gateways and jobs at once.

Puts the policy of `scaling` and those who carry it out together; answers `/admin/scaling`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, assert_never

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll
from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import ApiError
from serve_app.config.settings import Settings
from serve_app.controller.engine_scaler import EngineScaler
from serve_app.controller.gateway_replicas import GatewayReplicas
from serve_app.controller.scaled_counts import ScaledCounts
from serve_app.controller.scaling_sight import GATEWAY, TRAINERS, ScalingSight, Seen
from serve_app.logs import logger
from serve_app.scaling.page import asked_scale, scale_answer, scaling_page
from serve_app.scaling.policy import Sample, ScalingPolicy
from serve_app.scaling.rules import Kind, Target
from serve_app.scaling.service import Applied, Blocked, ScalingService
from serve_app.turns import kept
from tracing.metrics import Recorder

TURN_S: Final = 5.0
GATEWAY_BYTES: Final = 512 * 2**20
"""What a gateway takes of its machine's memory. Source: row F5, reserved for each."""


def _now() -> datetime:
    return datetime.now(UTC)


class ScalingDesk:
    """`on_jobs` hears that another number of jobs may run at once. `now_s` is monotonic, `at` has a time zone."""

    def __init__(
        self,
        *,
        settings: Settings,
        seen: Seen,
        counts: ScaledCounts,
        engines: EngineScaler,
        gateways: GatewayReplicas,
        recorder: Recorder,
        on_jobs: Callable[[], None],
        now_s: Callable[[], float] = time.monotonic,
        at: Callable[[], datetime] = _now,
    ) -> None:
        self._seen = seen
        self._counts = counts
        self._engines = engines
        self._gateways = gateways
        self._on_jobs = on_jobs
        self._now_s = now_s
        self._sight = ScalingSight(seen, counts)
        self.service = ScalingService(
            policy=ScalingPolicy(settings.scaling),
            scaler=self,
            measure=self._measure,
            recorder=recorder,
            now_s=now_s,
            at=at,
        )

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            await kept(self.service.turn, what="scaling")

    @property
    def max_jobs(self) -> int:
        """How many jobs may run at once."""
        return self._sight.num_jobs()

    async def answer(self, asked: ControlAsked) -> ControlAnswer:
        """`/admin/scaling`."""
        if asked.method != "POST":
            return json_answer(scaling_page(self.service.standings(), self.service.history()))
        wish = asked_scale(asked.body)
        told = wish if isinstance(wish, ApiError) else scale_answer(await self.service.by_hand(*wish))
        return error_answer(told) if isinstance(told, ApiError) else json_answer(told)

    # -- what the service asks -----------------------------------------------------------------------

    async def scale(self, target: Target, count: int, *, by_hand: bool) -> Applied | Blocked:
        match target.kind:
            case Kind.ENGINE:
                return await self._engines.scale(target.model, count, by_hand=by_hand)
            case Kind.GATEWAY:
                return await self._scale_gateways(count, by_hand=by_hand)
            case Kind.TRAINER:
                self._write(TRAINERS, count, by_hand=by_hand)
                self._on_jobs()
                return Applied()
            case _:
                assert_never(target.kind)

    async def _measure(self) -> Iterable[Sample]:
        return self._sight.samples(num_gateways=await self._num_gateways(), now_s=self._now_s())

    async def _num_gateways(self) -> int | None:
        """None while Serve cannot say: then models and trainers are scaled all the same."""
        try:
            return await self._gateways.count()
        except Exception as error:  # noqa: BLE001  # whatever Ray raises means the same here
            _log.warning("Ray Serve does not say how many gateways run", error=repr(error))
            return None

    async def _scale_gateways(self, count: int, *, by_hand: bool) -> Applied | Blocked:
        more = count - await self._gateways.count()
        full = _too_full(self._seen.polls(), headroom=self._seen.settings().fleet.headroom, num_gateways=more)
        if full is not None:
            return Blocked(full)
        obstacle = await self._gateways.scale(count)
        if obstacle is not None:
            return Blocked(obstacle)
        self._write(GATEWAY, count, by_hand=by_hand)
        return Applied()

    def _write(self, target: Target, count: int, *, by_hand: bool) -> None:
        self._counts.scaled(target, count, configured=self._sight.configured(target), by_hand=by_hand)


def _too_full(polls: Mapping[str, Poll], *, headroom: float, num_gateways: int) -> str | None:
    """Where models run in a machine's memory, gateways take of it too; Serve may start them on any machine."""
    needed_bytes = num_gateways * GATEWAY_BYTES
    for name, poll in polls.items():
        if num_gateways <= 0 or not isinstance(poll, DeviceSignals) or poll.kind is not DeviceKind.HOST:
            continue
        free_bytes = poll.total_bytes * (1 - headroom) - poll.used_bytes
        if needed_bytes > free_bytes:
            return (
                f"No room for {num_gateways} more gateway(s): they need {needed_bytes / 2**30:.1f} GiB; '{name}' has "
                f"{max(0.0, free_bytes) / 2**30:.1f} GiB above its {headroom:.0%} headroom. Put a model to sleep first."
            )
    return None


_log = logger("headroom.controller")
