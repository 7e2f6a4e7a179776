"""From settings to serving, step by step: weights, inventory, plan, verification, groups, deployments.

A restarted controller takes the stored plan back when the settings are the same, and disturbs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from placement.inventory import Inventory
from placement.plan import Plan
from serve_app.config.settings import Settings
from serve_app.controller.bringup_state import BringupState, Phase
from serve_app.controller.change_spans import placement_span
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.conditions import Conditions
from serve_app.controller.deploy import deploy_engines
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.lifecycle import Lifecycle
from serve_app.controller.planning import StoredPlan, demands_for, find_weights, solved
from serve_app.controller.slots import deployments_of, slots_of
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.controller.weights import make_defaults
from serve_app.errors import HeadroomError
from serve_app.fleet.measurements import measurement_key, measurement_of, shape_digest, the_larger, type_key
from serve_app.logs import logger
from serve_app.training.sources import folder_of

_RETRY_S = 10.0
_FIRST_BEATS_S = 8.0
_LOOK_S = 0.1
_STORED = TypeAdapter(StoredPlan)


class Bringup:
    """`retired` waits until these slots, which it tells to drain, hold nothing any more."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        fleet: FleetLink,
        telemetry: ControllerTelemetry,
        *,
        lifecycle: Lifecycle,
        conditions: Callable[[Inventory | None], Conditions],
        retired: Callable[[tuple[Slot, ...]], Awaitable[None]],
    ) -> None:
        self.settings = settings
        self._lifecycle = lifecycle
        self._conditions = conditions
        self._store = store
        self._fleet = fleet
        self._telemetry = telemetry
        self._retired = retired
        self.state = BringupState()
        self.restored = asyncio.Event()
        """Set once the ledger knows what an earlier controller wrote down."""
        self.known = asyncio.Event()
        """Set once it has been seen who of them still lives; until then gateways keep the table they have."""

    async def run(self, ledger: Ledger, *, on_known: Callable[[], None]) -> None:
        """Returns when the engines have been asked for. A fault of the world is stated and tried again."""
        while True:
            try:
                await self._run_once(ledger, on_known)
                return
            except HeadroomError as error:
                self._stand(Phase.STOPPED, str(error))
                _log.error("bring-up stopped", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _run_once(self, ledger: Ledger, on_known: Callable[[], None]) -> None:
        await self._find_weights()
        stored = self._stored(await self._fleet.node_names())
        if stored is None:
            stored = await self._newly_planned()
        if await self._fleet.is_new(stored.inventory):
            self._store.drop_tenures()
        await self._fleet.prepare(stored.inventory)
        ledger.add((*stored.slots, *stored.retiring))
        ledger.restore(self._store.tenures(), now_s=time.monotonic())
        self.take_over(stored)
        self.restored.set()
        self._stand(Phase.SERVING)
        await self._hear_from(ledger)
        self.known.set()
        on_known()
        await self._retired(stored.retiring)
        await asyncio.to_thread(deploy_engines, deployments_of(stored.slots), self._fleet.selector, self._store)

    async def _hear_from(self, ledger: Ledger) -> None:
        """Wait for the first beats of those that the store calls alive, but not for the dead among them."""
        until_s = time.monotonic() + _FIRST_BEATS_S
        while ledger.unheard() and time.monotonic() < until_s:  # noqa: ASYNC110 - the ledger has no event
            await asyncio.sleep(_LOOK_S)

    def take_over(self, stored: StoredPlan) -> None:
        """This plan is in force from now on, and with it what was chosen of each folder of checkpoints.

        A newer one in such a folder serves by a rollout only, not by the next restart.
        """
        for model in self.settings.models:
            if model.id in self.state.weights and folder_of(model.source) is not None:
                self._store.served.keep(model, self.state.weights[model.id])
        self.state.stored = stored
        self.state.problems |= {refusal.model: refusal.message for refusal in stored.plan.refusals}

    def save(self, stored: StoredPlan) -> None:
        """What a controller after us takes back."""
        self._store.save_plan(stored.inventory.version, _STORED.dump_json(stored))

    def forget_newer(self, stored: StoredPlan) -> None:
        """Plans made after this one have come to nothing."""
        self._store.drop_plans_after(stored.inventory.version)

    def record(self, slot: Slot, tenure: Tenure, *, rest_bytes: int) -> None:
        """Store what this replica holds at rest and took to start, per device; the next plan uses it.

        Only ever more: an engine that has worked holds more than one that has just started.
        """
        model = next((model for model in self.settings.models if model.id == slot.model), None)
        placement = next((one for one in self.plan.placements if one.replica == slot.replica), None)
        if model is None or placement is None or tenure.report is None:
            return  # it leaves: its settings are those of before
        key = measurement_key(model, shape_digest(slot.weights.path), slot.device_kind)
        when = datetime.now(UTC).date().isoformat()
        device_type = self._device_type(slot)
        measured = measurement_of(
            placement.estimate,
            rest_bytes=rest_bytes,
            peak_bytes=tenure.report.peak_bytes,
            when=when,
            device_type=device_type,
            held=tenure.report.held,
        )
        for name in (key, type_key(key, device_type)):
            self._store.save_measurement(name, the_larger(self._store.measurement(name), measured))

    def _device_type(self, slot: Slot) -> str:
        """Product of the first device that `slot` lies on."""
        assert self.state.inventory is not None
        seats = {seat.device for seat in slot.seats}
        return next((device.product for device in self.state.inventory.devices if device.id in seats), "")

    @property
    def plan(self) -> Plan:
        """The plan in force. Only to be asked for once there is one."""
        assert self.state.stored is not None
        return self.state.stored.plan

    async def _find_weights(self) -> None:
        """One checkpoint per model; a model without one is a problem of its own and does not stop the others."""
        self._stand(Phase.MODELS)
        await asyncio.to_thread(make_defaults, self.settings.models, self.settings.storage)
        self.state.weights, problems = await find_weights(self.settings.models, self.settings.storage, self._store)
        self._refuse(problems)

    def _stored(self, live: frozenset[str]) -> StoredPlan | None:
        """The plan of an earlier controller, when it was made for the same settings, weights and nodes."""
        blob = self._store.last_plan()
        try:
            stored = _STORED.validate_json(blob) if blob is not None else None
        except ValidationError:  # written by an earlier version of the product
            return None
        if stored is None or stored.key != plan_key(self.settings, self.state.weights):
            return None
        return stored if live == {node.name for node in stored.inventory.nodes} else None

    async def _newly_planned(self) -> StoredPlan:
        self._stand(Phase.FLEET)
        version = self._store.next_plan_version()
        headroom = self.settings.fleet.headroom
        bare = await self._fleet.inventory(choice=self.settings.fleet.devices, version=version)
        inventory = self._conditions(bare).dress(bare, (), headroom=headroom)
        self._stand(Phase.PLAN)
        weights, kind = self.state.weights, inventory.devices[0].kind
        demands, problems = await asyncio.to_thread(demands_for, self.settings, weights, kind=kind, store=self._store)
        self._refuse(problems)
        demands = tuple(demand for demand in demands if demand.model not in self._lifecycle.resting)
        began_s = time.monotonic()
        with placement_span() as planned:
            plan = await asyncio.to_thread(solved, inventory, demands, headroom=headroom)
            planned(inventory, demands, plan)
        self._telemetry.planned(plan, time.monotonic() - began_s)
        for refusal in plan.refusals:
            _log.warning("refused", model=refusal.model, reason=refusal.message)
        stored = StoredPlan(
            key=plan_key(self.settings, weights),
            inventory=inventory,
            demands=demands,
            plan=plan,
            slots=slots_of(plan, inventory, self.settings.models, weights),
        )
        self.save(stored)
        return stored

    def _refuse(self, problems: Mapping[str, HeadroomError]) -> None:
        for model, error in problems.items():
            self.state.problems[model] = str(error)
            _log.error("model cannot be served", model=model, reason=str(error))

    def _stand(self, phase: Phase, message: str = "") -> None:
        self.state.phase, self.state.message = phase, message
        _log.info(phase.value, **({"reason": message} if message else {}))


def plan_key(settings: Settings, weights: Mapping[str, Weights]) -> str:
    versions = sorted((model, one.version) for model, one in weights.items())
    return hashlib.sha256(repr((settings.fleet, settings.models, versions)).encode()).hexdigest()


_log = logger("headroom.controller")
