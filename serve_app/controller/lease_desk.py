"""Leases in the controller: what may be leased where, who else gives room for them, and the ports they are asked at.

Puts `leases` and the fleet together; the rules are in `placement.lease_rules`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import zmq.asyncio

from placement.inventory import Device, HoldingKind
from placement.lease import LeasePolicy, LeaseRoom, Reclaimable, ReclaimKind, lease_room_bytes
from placement.lease_preemption import Claim, StepKind
from serve_app.access.keys import Role
from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.api.wire import ModelAction, ModelAnswer, ModelOutcome
from serve_app.controller.access_desk import AccessDesk
from serve_app.controller.bringup import Bringup
from serve_app.controller.change_spans import Trigger
from serve_app.controller.conditions import Conditions
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.errors import AlreadyRunning, HeadroomError
from serve_app.fleet.actors import DeviceReading
from serve_app.fleet.groups import Seat, seats
from serve_app.fleet.lease_share import RayShare
from serve_app.fleet.measurements import store_path
from serve_app.fleet.process_memory import LEASE_MARK
from serve_app.leases.book import LeaseBook
from serve_app.leases.calls import LeaseCalls
from serve_app.leases.clock import SystemClock
from serve_app.leases.grpc_server import GrpcServer, serve_grpc
from serve_app.leases.infer import Inference
from serve_app.leases.rest import answer_rest
from serve_app.leases.rpcs import Handler, Handlers, RpcError
from serve_app.leases.service import LeaseService
from serve_app.leases.zeromq_server import ZeromqServer, serve_zeromq
from serve_app.logs import logger
from tracing import names
from tracing.spans import operation

_ASK_AGAIN_S: Final = 0.5
_SLEEP_S: Final = 30.0
"""What a model has to answer its requests and end, before a lease takes its place."""
_SPANS: Final = {
    "AcquireGpuLease": names.LeaseSpan.ACQUIRE,
    "RenewGpuLease": names.LeaseSpan.RENEW,
    "ReleaseGpuLease": names.LeaseSpan.RELEASE,
}
Act = Callable[[ModelAction, str, Trigger], Awaitable[ModelAnswer]]


class LeaseDesk:
    """`conditions` says what is known of the devices, `act` loads, unloads or puts a model to sleep.

    `gateways` gives the addresses at which gateways are asked by their peers, for Infer.
    """

    def __init__(
        self,
        *,
        bringup: Bringup,
        ledger: Ledger,
        lifecycle: Lifecycle,
        telemetry: ControllerTelemetry,
        conditions: Callable[[], Conditions],
        act: Act,
        health: Handler,
        submit_job: Handler,
        access: AccessDesk,
        gateways: Callable[[], Sequence[str]],
    ) -> None:
        self._bringup = bringup
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._telemetry = telemetry
        self._conditions = conditions
        self._act = act
        self._access = access
        settings = bringup.settings
        policy, clock = LeasePolicy(sleep_s=_SLEEP_S, notice_s=_SLEEP_S + 1.0), SystemClock()
        self._service = LeaseService(
            book=LeaseBook(store_path(settings.storage.home).with_name("leases.sqlite"), clock=clock, policy=policy),
            rooms=self.rooms,
            share=RayShare(self._seat_of),
            clock=clock,
            policy=policy,
            reclaimer=self,
            observer=self,
        )
        self._inference = Inference(gateways)
        by_rpc: dict[str, Handler] = {
            "GetHealth": health,
            "LoadModel": self._load,
            "UnloadModel": self._unload,
            "SubmitJob": submit_job,
        }
        self._handlers = Handlers(by_rpc=by_rpc, inference=self._inference)
        self._calls = LeaseCalls(self._service, self._handlers)
        self._servers: list[GrpcServer | ZeromqServer] = []
        self._vacated: set[str] = set()

    async def start(self) -> None:
        """Once there is a fleet to lease. A port that is taken is said and does without; REST is always there."""
        await self._service.start()
        settings = self._bringup.settings.leases
        for port, serve in ((settings.grpc_port, self._grpc), (settings.zeromq_port, self._zeromq)):
            if port is None:
                continue
            try:
                self._servers.append(await serve(port))
            except (AlreadyRunning, HeadroomError) as error:
                _log.error("leases are not served on a port", port=port, reason=str(error))

    # -- what the controller asks --------------------------------------------------------------------

    def leased_bytes(self, devices: Iterable[Device] | None = None) -> dict[str, int]:
        """By device id, what its pooled share holds; of these devices, or of those of the plan in force."""
        known = self._devices() if devices is None else devices
        held = {device.id: self._service.pooled_bytes(device.uuid) for device in known}
        return {device: num_bytes for device, num_bytes in held.items() if num_bytes}

    def num_on(self, uuid: str) -> int:
        return sum(lease.device == uuid for lease in self._service.now_held())

    async def answer(self, asked: ControlAsked) -> ControlAnswer:
        asker = self._access.keyring.named(asked.key_id, need=Role.LEASES)
        answer = await answer_rest(
            self._calls, asker, method=asked.method, path=asked.path, query=asked.query, body=asked.body
        )
        return ControlAnswer(status=answer.status, body=answer.body, headers=answer.headers)

    async def measured(self, readings: Mapping[str, DeviceReading]) -> None:
        """What the processes of lease holders have; a lease whose device was not read is left out."""
        uuids = {device.id: device.uuid for device in self._devices() if device.id in readings}
        found = {
            (uuid, marker.removeprefix(LEASE_MARK)): num_bytes
            for device, uuid in uuids.items()
            for marker, num_bytes in readings[device].shares.items()
            if marker.startswith(LEASE_MARK)
        }
        held = [lease for lease in self._service.now_held() if lease.device in set(uuids.values())]
        measured = {lease.lease_id: found.get((lease.device, lease.lease_id), 0) for lease in held}
        await self._service.measured(measured)
        await self._turn_away()
        self._telemetry.leases.show(_by_state(lease.state.value for lease in self._service.now_held()))

    def rooms(self) -> tuple[LeaseRoom, ...]:
        return tuple(self._room(device) for device in self._devices())

    # -- what leases ask -----------------------------------------------------------------------------

    async def reclaim(self, claim: Claim) -> None:
        """Idle models go to sleep for a lease of higher priority.

        No room offers a cache: engines' do not shrink while they run, and the gateways' answers are in no plan
        (`gateway/DESIGN.md`, "Caches that shrink"), so giving them up would enlarge no room.
        """
        for step in claim.steps:
            if step.kind is StepKind.SLEEP_MODEL:
                with operation(names.LeaseSpan.PREEMPT, {names.MODEL: step.name, names.NUM_BYTES: step.num_bytes}):
                    await self._when_free(ModelAction.SLEEP, step.name)

    def answered(self, rpc: str, result: str, *, duration_s: float) -> None:
        granted = result == "granted"
        if rpc == "AcquireGpuLease":
            self._telemetry.leases.answered("granted" if granted else "refused", duration_s=duration_s)
        if rpc in _SPANS:
            with operation(_SPANS[rpc], {names.LEASE_GRANTED: granted, names.REASON: result}):
                pass

    # -- parts ---------------------------------------------------------------------------------------

    def _devices(self) -> tuple[Device, ...]:
        inventory = self._bringup.state.inventory
        return inventory.devices if inventory is not None else ()

    def _room(self, device: Device) -> LeaseRoom:
        headroom = self._bringup.settings.fleet.headroom
        conditions = self._conditions()
        taken = self._planned(device.id) + _foreign(device) + sum(conditions.guests.get(device.id, {}).values())
        return LeaseRoom(
            device=device.uuid,
            node=device.node,
            num_bytes=lease_room_bytes(total_bytes=device.total_bytes, headroom=headroom, taken_bytes=taken),
            most_bytes=lease_room_bytes(total_bytes=device.total_bytes, headroom=headroom),
            is_usable=not conditions.unusable(device) and device.id not in conditions.cordoned,
            reclaimables=tuple(self._idle_models(device.id)),
        )

    def _planned(self, device: str) -> int:
        """All replicas there at rest, those planned and not there yet too, and the largest of their starts."""
        stored = self._bringup.state.stored
        planned = {slot.name: slot for slot in (stored.slots if stored else ())} | dict(self._ledger.slots)
        slots = [slot for slot in planned.values() if any(seat.device == device for seat in slot.seats)]
        above = max((slot.peak_bytes - slot.share_bytes for slot in slots), default=0)
        return sum(slot.share_bytes for slot in slots) + above

    def _idle_models(self, device: str) -> Iterator[Reclaimable]:
        """Those on their way to sleep first: what was asked for them once counts until it is free."""
        settings = self._bringup.settings
        going = [model for model in settings.models if model.id in self._lifecycle.resting]
        idle = self._lifecycle.may_sleep(
            settings.models, now_s=time.monotonic(), idle_after_s=settings.fleet.idle_after_s
        )
        for model in (*going, *idle):
            num_bytes = sum(
                slot.share_bytes
                for slot in self._ledger.slots.values()
                if slot.model == model.id and any(seat.device == device for seat in slot.seats)
            )
            if num_bytes:
                kind = ReclaimKind.IDLE_MODEL
                yield Reclaimable(name=model.id, num_bytes=num_bytes, kind=kind, priority=model.priority)

    def _seat_of(self, uuid: str) -> Seat | None:
        inventory = self._bringup.state.inventory
        for node in inventory.nodes if inventory is not None else ():
            by_id = {seat.device: seat for seat in seats(node)}
            for device in node.devices:
                if device.uuid == uuid:
                    return by_id[device.id]
        return None

    async def _turn_away(self) -> None:
        """Holders on a device that must be emptied are told; those of one that is well again may stay."""
        conditions = self._conditions()
        ill = {device.uuid: why for device in self._devices() if (why := conditions.unusable(device))}
        known = {device.uuid for device in self._devices()}
        ill |= {lease.device: "gone" for lease in self._service.now_held() if lease.device not in known}
        for uuid in ill.keys() - self._vacated:
            await self._service.vacate(uuid, reason=f"the device is {ill[uuid]}")
        for uuid in self._vacated - ill.keys():
            await self._service.readmit(uuid)
        self._vacated = set(ill)

    def _may_go(self, model: str) -> bool:
        """Still idle, or on its way already: what was so when it was chosen may be over."""
        settings = self._bringup.settings
        idle = self._lifecycle.may_sleep(
            settings.models, now_s=time.monotonic(), idle_after_s=settings.fleet.idle_after_s
        )
        return model in self._lifecycle.resting or any(one.id == model for one in idle)

    async def _when_free(self, action: ModelAction, model: str) -> None:
        """Waits while another change is under way, as long as the claim may."""
        until_s = time.monotonic() + _SLEEP_S
        while time.monotonic() < until_s:
            if not self._may_go(model):
                return
            answer = await self._act(action, model, Trigger.ROOM)
            if answer.outcome is not ModelOutcome.BUSY:
                return
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _load(self, fields: dict[str, Any]) -> dict[str, Any]:
        return await self._acted(ModelAction.LOAD, fields)

    async def _unload(self, fields: dict[str, Any]) -> dict[str, Any]:
        return await self._acted(ModelAction.UNLOAD, fields)

    async def _acted(self, action: ModelAction, fields: dict[str, Any]) -> dict[str, Any]:
        answer = await self._act(action, str(fields.get("model_name", "")), Trigger.PERSON)
        codes = {
            ModelOutcome.UNKNOWN: "NOT_FOUND",
            ModelOutcome.REFUSED: "FAILED_PRECONDITION",
            ModelOutcome.BUSY: "UNAVAILABLE",
        }
        if answer.outcome in codes:
            raise RpcError(code=codes[answer.outcome], message=answer.message)
        return {"status": answer.outcome.value, "reason": answer.message}

    async def _grpc(self, port: int) -> GrpcServer:
        keyring, tls = self._access.keyring, self._access.tls()
        return await serve_grpc(self._service, port=port, handlers=self._handlers, keyring=keyring, tls=tls)

    async def _zeromq(self, port: int) -> ZeromqServer:
        context, keyring = zmq.asyncio.Context.instance(), self._access.keyring
        return await serve_zeromq(self._calls, context=context, port=port, keyring=keyring)

    async def close(self) -> None:
        for server in self._servers:
            with contextlib.suppress(Exception):
                await server.close()
        await self._inference.close()
        await self._service.close()


def _foreign(device: Device) -> int:
    return sum(one.num_bytes for one in device.holdings if one.kind is HoldingKind.FOREIGN)


def _by_state(states: Iterator[str]) -> dict[str, int]:
    counts = dict.fromkeys(("held", "noticed", "unconfirmed", "revoked"), 0)
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return counts


_log = logger("headroom.leases")
