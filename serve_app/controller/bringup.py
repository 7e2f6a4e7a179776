"""From settings to serving, step by step: weights, inventory, plan, verification, groups, deployments.

A restarted controller takes the stored plan back when the settings are the same, and disturbs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from placement.check import verify
from placement.demand import Demand
from placement.inventory import Inventory
from placement.plan import Plan
from placement.policy import Policy
from placement.solver import solve
from serve_app.config.settings import ModelSettings, Settings
from serve_app.controller.bringup_state import BringupState, Phase
from serve_app.controller.claims import Slot, Weights
from serve_app.controller.deploy import deploy_engines
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.measure import measurement_key, measurement_of
from serve_app.controller.slots import deployments_of, slots_of
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.controller.weights import weights_of
from serve_app.errors import HeadroomError
from serve_app.fleet.demands import demand_of, device_kind
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

    async def run(self, ledger: Ledger) -> None:
        """Returns when the engines have been asked for. A fault of the world is stated and tried again."""
        while True:
            try:
                await self._run_once(ledger)
                return
            except HeadroomError as error:
                self._stand(Phase.STOPPED, str(error))
                _log.error("bring-up stopped", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _run_once(self, ledger: Ledger) -> None:
        demands = await self._demands()
        inventory, plan = await self._planned(demands)
        self.state.inventory, self.state.plan = inventory, plan
        self.state.problems |= {refusal.model: refusal.message for refusal in plan.refusals}
        if await self._fleet.prepare(inventory):
            self._store.drop_tenures()
        slots = slots_of(plan, inventory)
        ledger.plan(slots)
        ledger.restore(self._store.tenures(), now_s=time.monotonic())
        self._stand(Phase.SERVING)
        wanted = deployments_of(slots, self._settings.models)
        await asyncio.to_thread(deploy_engines, wanted, self._fleet.selector, self._store)

    def record(self, slot: Slot, tenure: Tenure) -> None:
        """Store what the start of this replica took; the next plan uses it."""
        plan, weights = self.state.plan, tenure.weights
        assert plan is not None
        assert tenure.report is not None
        model = next(model for model in self._settings.models if model.id == slot.model)
        placement = next(one for one in plan.placements if one.replica == slot.name)
        key = measurement_key(model, weights_version=weights.version, device_kind=slot.device_kind)
        when = datetime.now(UTC).date().isoformat()
        self._store.save_measurement(key, measurement_of(placement.estimate, tenure.report, when=when))

    async def _demands(self) -> tuple[Demand, ...]:
        self._stand(Phase.MODELS)
        demands = []
        for model in self._settings.models:
            demand = await self._demand(model)
            if demand is not None:
                demands.append(demand)
        return tuple(demands)

    async def _demand(self, model: ModelSettings) -> Demand | None:
        try:
            weights = await asyncio.to_thread(weights_of, model, self._settings.storage)
            self.state.weights[model.id] = weights
            kind = device_kind(self._settings.fleet.devices)
            measured = self._store.measurement(
                measurement_key(model, weights_version=weights.version, device_kind=kind)
            )
            return await asyncio.to_thread(
                demand_of, model, self._settings, weights.path, kind=kind, measured=measured
            )
        except HeadroomError as error:
            self.state.problems[model.id] = str(error)
            _log.error("model cannot be served", model=model.id, reason=str(error))
            return None

    async def _planned(self, demands: tuple[Demand, ...]) -> tuple[Inventory, Plan]:
        key = _plan_key(self._settings, self.state.weights)
        blob = self._store.last_plan()
        if blob is not None and (stored := _STORED.validate_json(blob)).key == key:
            return stored.inventory, stored.plan
        self._stand(Phase.FLEET)
        version = self._store.next_plan_version()
        inventory = await self._fleet.inventory(choice=self._settings.fleet.devices, version=version)
        self._stand(Phase.PLAN)
        plan = self._solved(inventory, demands)
        self._store.save_plan(version, _STORED.dump_json(StoredPlan(key=key, inventory=inventory, plan=plan)))
        return inventory, plan

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
