"""The replicas of a rollout as they really are: asked over their own HTTP servers, started and ended through Serve.

Implements `rollout.world.Replicas`. Which weights a replica has, it says itself; the ledger only follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp

from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.claims import Slot, SlotState
from serve_app.controller.claims import Weights as SlotWeights
from serve_app.controller.deploy import deploy_engines, wait_until_noticed
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.guest import Guest
from serve_app.controller.guests import Guests
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.retirement import Retirement
from serve_app.controller.slots import deployments_of
from serve_app.controller.store import Store
from serve_app.engines.fingerprint import Fingerprint
from serve_app.errors import EngineStartFailed
from serve_app.fleet.names import INFERENCE, deployment_name
from serve_app.logs import logger
from serve_app.rollout.record import Room, Weights
from serve_app.rollout.replica_client import ReplicaCallFailed, ReplicaClient
from serve_app.rollout.transaction import RolloutFault
from serve_app.rollout.world import Loaded, Replica
from tracing.propagation import Parent, parse_traceparent
from tracing.spans import within

CANDIDATE: Final = "candidate"
_LOOK_S: Final = 0.1
_START_LIMIT_S: Final = 300.0
_RELOAD_LIMIT_S: Final = 60.0
_OVERDUE_S: Final = 60.0
"""Beyond what the switch may take: then a replica asks by itself which weights are in force."""
LocalPath = Callable[[Weights, str], tuple[Path, bool]]
"""Where a node has these weights, and whether its store has read every byte of them."""


class LiveReplicas:
    """`lost` ends a replica, so that Serve starts it again; `publish` tells gateways who serves."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        bringup: Bringup,
        guests: Guests,
        applier: Applier,
        fleet: FleetLink,
        store: Store,
        retirement: Retirement,
        secret: str,
        local_path: LocalPath,
        lost: Callable[[str, int], None],
        publish: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._bringup = bringup
        self._guests = guests
        self._applier = applier
        self._fleet = fleet
        self._store = store
        self._retired = retirement.retired
        self._secret = secret
        self._local_path = local_path
        self._lost = lost
        self._publish = publish
        self._session: aiohttp.ClientSession | None = None

    async def serving(self, model: str) -> Sequence[Replica]:
        tenures = [
            tenure
            for tenure in self._ledger.tenures.values()
            if tenure.serves and self._ledger.slots[tenure.slot].model == model and not self._is_candidate(tenure)
        ]
        return await asyncio.gather(*(self._replica(tenure) for tenure in tenures))

    async def prepare(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> None:
        path, verified = self._local_path(weights, replica.node)
        with within(_parent(traceparent)):
            await self._client(replica).prepare(path, weights.version, verified=verified)

    async def close(self, replica: Replica, *, deadline_s: float, traceparent: str | None) -> None:
        client = self._client(replica)
        state = await client.close(deadline_s=deadline_s + _RELOAD_LIMIT_S + _OVERDUE_S)
        until_s = time.monotonic() + deadline_s
        while state.num_running and time.monotonic() < until_s:
            await asyncio.sleep(_LOOK_S)
            state = await client.state()
        if state.num_running:
            if state.version is not None:
                await client.open(state.version)
            raise RolloutFault(
                f"{replica.name} still had {state.num_running} running answers {deadline_s:g} s after its gate closed.",
                advice="Roll out when it is quieter, or allow a longer drain.",
            )

    async def switch(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> Loaded:
        """To weights that it has already: nothing to do, as when the call is made again."""
        client = self._client(replica)
        if (await client.state()).version == weights.version and replica.weights != weights.version:
            self._follow(replica, weights.version)
            return Loaded(vram_bytes=None)
        with within(_parent(traceparent)):
            if weights.version not in await self._known(client):
                await self.prepare(replica, weights, traceparent=traceparent)
            done = await client.switch(weights.version, expected=None, drain_s=10.0, limit_s=_RELOAD_LIMIT_S)
        self._follow(replica, weights.version)
        return Loaded(vram_bytes=done.measured_bytes)

    async def fingerprint(self, replica: Replica, *, traceparent: str | None) -> Fingerprint:
        return (await self._client(replica).fingerprint()).fingerprint

    async def open(self, replica: Replica, *, traceparent: str | None) -> None:
        client = self._client(replica)
        state = await client.state()
        if state.version is None:
            raise RolloutFault(f"{replica.name} does not know which weights it has.")
        await client.open(state.version)

    async def die(self, replica: Replica, *, reason: str) -> None:
        slot, _, epoch = replica.name.rpartition(":")
        _log.error("a replica is started again", replica=replica.name, reason=reason)
        self._lost(slot, int(epoch))

    # -- the candidate -------------------------------------------------------------------------------

    async def candidate_room(self, model: str) -> Room:
        slot = self._any_slot(model)
        free_bytes = await self._guests.free_bytes(_guest(slot))
        return Room(needed_bytes=slot.peak_bytes, free_bytes=free_bytes, fits=free_bytes >= slot.peak_bytes)

    async def stand_beside(self, model: str, weights: Weights, *, traceparent: str | None) -> Replica:
        slot = await self._placed(self._any_slot(model), weights)
        self._ledger.add([slot])
        await self._deploy(delete=False)
        return await self._replica(await self._ready(slot))

    async def end_candidate(self, model: str) -> None:
        candidates = [slot for slot in self._ledger.slots.values() if slot.model == model and slot.is_candidate]
        if candidates:
            await self._retired(candidates)
            await asyncio.to_thread(wait_until_noticed, deployments_of(self._ledger.slots.values()))
            await self._deploy(delete=True)
        self._guests.leave(_candidate_name(model))

    async def close_session(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _placed(self, like: Slot, weights: Weights) -> Slot:
        place = await self._guests.place(_guest(like))
        if isinstance(place, str):
            raise RolloutFault(f"No room for a candidate of '{like.model}'. {place}")
        path, _ = self._local_path(weights, place.node)
        return replace(
            like,
            name=_candidate_name(like.model),
            replica=_candidate_name(like.model),
            deployment=deployment_name(like.model, place.node),
            node=place.node,
            seats=place.seats,
            device_uuids=place.device_uuids,
            weights=SlotWeights(path=path, version=weights.version, step=weights.step),
            port=self._bringup.settings.rollouts.candidate_port,
            is_candidate=True,
        )

    async def _ready(self, slot: Slot) -> Tenure:
        problems = self._bringup.state.problems
        problems.pop(slot.model, None)
        until_s = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < until_s:
            tenure = self._ledger.tenures.get(slot.name)
            if tenure is not None and tenure.state is SlotState.READY:
                return tenure
            if slot.model in problems:
                raise EngineStartFailed(f"The candidate of '{slot.model}' did not start: {problems.pop(slot.model)}")
            await asyncio.sleep(_LOOK_S)
        raise EngineStartFailed(f"The candidate of '{slot.model}' was not ready within {_START_LIMIT_S:.0f} s.")

    async def _deploy(self, *, delete: bool) -> None:
        wanted = deployments_of(self._ledger.slots.values())
        await asyncio.to_thread(deploy_engines, wanted, self._fleet.selector, self._store, delete=delete)

    # -- parts ---------------------------------------------------------------------------------------

    def _any_slot(self, model: str) -> Slot:
        slots = [slot for slot in self._ledger.slots.values() if slot.model == model and not slot.is_candidate]
        if not slots:
            raise RolloutFault(f"'{model}' has no replica.", advice="Load it first.")
        return slots[0]

    def _is_candidate(self, tenure: Tenure) -> bool:
        return self._ledger.slots[tenure.slot].is_candidate

    async def _replica(self, tenure: Tenure) -> Replica:
        assert tenure.report is not None
        slot = self._ledger.slots[tenure.slot]
        replica = Replica(name=tenure.marker, node=slot.node, url=tenure.report.url, weights="")
        try:
            version = (await self._client(replica).state()).version or ""
        except ReplicaCallFailed:
            return replica
        if version:
            self._follow(replica, version)
        return replace(replica, weights=version)

    async def _known(self, client: ReplicaClient) -> set[str | None]:
        state = await client.state()
        return {state.version, state.before, state.prepared}

    def _follow(self, replica: Replica, version: str) -> None:
        """The ledger knows what the replica has; written down, so that a controller after us does too."""
        slot, _, epoch = replica.name.rpartition(":")
        tenure = self._ledger.tenures.get(slot)
        if tenure is None or tenure.report is None or tenure.report.weights_version == version:
            return
        changed = self._ledger.reloaded(slot=slot, epoch=int(epoch), version=version)
        if changed is not None:
            self._store.save_tenure(changed)
            self._publish()

    def _client(self, replica: Replica) -> ReplicaClient:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return ReplicaClient(self._session, url=replica.url, secret=self._secret)


def _candidate_name(model: str) -> str:
    return f"{model}.{CANDIDATE}"


def _guest(slot: Slot) -> Guest:
    return Guest(
        name=_candidate_name(slot.model),
        num_bytes=slot.peak_bytes,
        priority=1000,
        num_devices=len(slot.seats),
        role=INFERENCE,
    )


def _parent(traceparent: str | None) -> Parent | None:
    return parse_traceparent(traceparent.encode()) if traceparent else None


_log = logger("headroom.rollout")
