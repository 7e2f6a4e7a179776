"""From settings to serving, step by step: weights, inventory, plan, verification, groups, deployments.

A restarted controller takes the stored plan back when the settings are the same, and disturbs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from placement.check import verify
from placement.demand import Demand
from placement.inventory import DeviceKind, Inventory
from placement.plan import Plan
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import ModelSettings, Settings
from serve_app.controller.bringup_state import BringupState, Phase
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.deploy import deploy_engines
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.slots import deployments_of, slots_of
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.controller.weights import make_defaults, weights_of
from serve_app.errors import HeadroomError
from serve_app.fleet.demands import demand_of
from serve_app.fleet.measurements import measurement_key, measurement_of, shape_digest, the_larger, type_key
from serve_app.logs import logger

_RETRY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """What must come back together after a restart. `key` is the digest of settings and weights."""

    key: str
    inventory: Inventory
    plan: Plan


_STORED = TypeAdapter(StoredPlan)


class Bringup:
    def __init__(self, settings: Settings, store: Store, fleet: FleetLink, telemetry: ControllerTelemetry) -> None:
        self._settings = settings
        self._store = store
        self._fleet = fleet
        self._telemetry = telemetry
        self.state = BringupState()
        self.restored = asyncio.Event()
        """Set once the ledger knows what an earlier controller wrote down."""

    async def run(self, ledger: Ledger, *, on_restored: Callable[[], None]) -> None:
        """Returns when the engines have been asked for. A fault of the world is stated and tried again."""
        while True:
            try:
                await self._run_once(ledger, on_restored)
                return
            except HeadroomError as error:
                self._stand(Phase.STOPPED, str(error))
                _log.error("bring-up stopped", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _run_once(self, ledger: Ledger, on_restored: Callable[[], None]) -> None:
        await self._find_weights()
        stored = self._stored(await self._fleet.node_names())
        if stored is None:
            stored = await self._newly_planned()
        inventory, plan = stored.inventory, stored.plan
        self.state.inventory, self.state.plan = inventory, plan
        self.state.problems |= {refusal.model: refusal.message for refusal in plan.refusals}
        if await self._fleet.is_new(inventory):
            self._store.drop_tenures()
        await self._fleet.prepare(inventory)
        slots = slots_of(plan, inventory)
        ledger.plan(slots)
        ledger.restore(self._store.tenures(), now_s=time.monotonic())
        on_restored()
        self.restored.set()
        self._stand(Phase.SERVING)
        wanted = deployments_of(slots, self._settings.models)
        await asyncio.to_thread(deploy_engines, wanted, self._fleet.selector, self._store)

    def record(self, slot: Slot, tenure: Tenure, *, rest_bytes: int) -> None:
        """Store what this replica holds at rest and took to start, per device; the next plan uses it.

        Only ever more: an engine that has worked holds more than one that has just started.
        """
        plan, weights = self.state.plan, tenure.weights
        assert plan is not None
        assert tenure.report is not None
        model = next(model for model in self._settings.models if model.id == slot.model)
        placement = next(one for one in plan.placements if one.replica == slot.name)
        key = measurement_key(model, shape_digest(weights.path), slot.device_kind)
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

    async def _find_weights(self) -> None:
        """One checkpoint per model; a model without one is a problem of its own and does not stop the others."""
        self._stand(Phase.MODELS)
        await asyncio.to_thread(make_defaults, self._settings.models, self._settings.storage)
        for model in self._settings.models:
            try:
                self.state.weights[model.id] = await asyncio.to_thread(weights_of, model, self._settings.storage)
            except HeadroomError as error:
                self._refuse(model, error)

    def _stored(self, live: frozenset[str]) -> StoredPlan | None:
        """The plan of an earlier controller, when it was made for the same settings, weights and nodes."""
        blob = self._store.last_plan()
        stored = _STORED.validate_json(blob) if blob is not None else None
        if stored is None or stored.key != _plan_key(self._settings, self.state.weights):
            return None
        return stored if live == {node.name for node in stored.inventory.nodes} else None

    async def _newly_planned(self) -> StoredPlan:
        self._stand(Phase.FLEET)
        version = self._store.next_plan_version()
        inventory = await self._fleet.inventory(choice=self._settings.fleet.devices, version=version)
        self._stand(Phase.PLAN)
        demands = await asyncio.to_thread(self._demands, inventory.devices[0].kind)
        plan = self._solved(inventory, demands)
        key = _plan_key(self._settings, self.state.weights)
        stored = StoredPlan(key=key, inventory=inventory, plan=plan)
        self._store.save_plan(version, _STORED.dump_json(stored))
        return stored

    def _demands(self, kind: DeviceKind) -> tuple[Demand, ...]:
        """Estimates by the device kind of the fleet, corrected by what an earlier start measured."""
        demands = []
        for model in self._settings.models:
            weights = self.state.weights.get(model.id)
            if weights is None:
                continue
            measured = self._store.measurement(measurement_key(model, shape_digest(weights.path), kind))
            try:
                demands.append(demand_of(model, self._settings, weights.path, kind=kind, measured=measured))
            except HeadroomError as error:
                self._refuse(model, error)
        return tuple(demands)

    def _refuse(self, model: ModelSettings, error: HeadroomError) -> None:
        self.state.problems[model.id] = str(error)
        _log.error("model cannot be served", model=model.id, reason=str(error))

    def _solved(self, inventory: Inventory, demands: tuple[Demand, ...]) -> Plan:
        policy = Policy(headroom=self._settings.fleet.headroom)
        began_s = time.monotonic()
        plan = solve(inventory, demands, policy)
        self._telemetry.planned(plan, time.monotonic() - began_s)
        violations = verify(plan, inventory, demands, policy)
        assert not violations, f"the solver made a plan that its verifier rejects: {violations}"
        for refusal in plan.refusals:
            _log.warning("refused", model=refusal.model, reason=refusal.message)
        return plan

    def _stand(self, phase: Phase, message: str = "") -> None:
        self.state.phase, self.state.message = phase, message
        _log.info(phase.value, **({"reason": message} if message else {}))


def _plan_key(settings: Settings, weights: Mapping[str, Weights]) -> str:
    versions = sorted((model, one.version) for model, one in weights.items())
    return hashlib.sha256(repr((settings.fleet, settings.models, versions)).encode()).hexdigest()


_log = logger("headroom.controller")
