"""Plan again by itself when the fleet is no longer what the plan in force was made for (row A6).

`reasons` is pure and says why; the loop looks, proposes and has it carried out. What people change goes by apply.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from placement.errors import PlacementError
from placement.inventory import DeviceHealth, HoldingKind
from placement.plan import Plan, RefusalKind
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.bringup_state import Phase
from serve_app.controller.conditions import USABLE, Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.giving_way import RunningJob, waits_for_jobs
from serve_app.controller.planning import StoredPlan
from serve_app.controller.proposing import Wish
from serve_app.errors import ApplyBusy, HeadroomError
from serve_app.logs import logger
from serve_app.turns import kept

_LOOK_S = 1.0
_REST_S = 20.0
"""After a proposal that could not be made or carried out."""


def reasons(
    stored: StoredPlan, live: Collection[str], conditions: Conditions, *, may_give_way: Collection[str] = ()
) -> tuple[str, ...]:
    """Why the plan in force should be made again, a clause each; empty when it should not.

    A device that comes back, and a job that ends, matter only while something waits for room; a new node is always
    to be known. `may_give_way` are jobs that were not counted with yet, as when they have had their minimum time.
    """
    jobs = (f"{job} may give way" for job in sorted(may_give_way))
    return (*_reasons(stored, live, conditions), *jobs)


def _reasons(stored: StoredPlan, live: Collection[str], conditions: Conditions) -> Iterator[str]:
    known = {node.name for node in stored.inventory.nodes}
    used = {device for placement in stored.plan.placements for device in placement.devices}
    waits = any(refusal.kind is RefusalKind.BLOCKED for refusal in stored.plan.refusals)
    yield from (f"node {node} is gone" for node in sorted(known - set(live)))
    yield from (f"node {node} has come" for node in sorted(set(live) - known))
    for device in stored.inventory.devices:
        why = conditions.unusable(device)
        was_usable = device.health in USABLE
        if why and device.id in used and device.node in live:
            yield f"{device.id} is {why}"
        elif not why and not was_usable and waits and device.node in live:
            yield f"{device.id} is back"
        left = {one.holder for one in device.holdings if one.kind is HoldingKind.JOB} - set(
            conditions.guests.get(device.id, ())
        )
        if left and waits:
            yield f"{' and '.join(sorted(left))} has left {device.id}"


class Replanner:
    """`conditions` says what is known of the devices now, `jobs` which jobs run."""

    def __init__(
        self,
        *,
        applier: Applier,
        bringup: Bringup,
        fleet: FleetLink,
        conditions: Callable[[], Conditions],
        jobs: Callable[[], Sequence[RunningJob]],
    ) -> None:
        self._applier = applier
        self._bringup = bringup
        self._fleet = fleet
        self._conditions = conditions
        self._jobs = jobs
        self._counted_with: tuple[int, frozenset[str]] = (0, frozenset())
        """The plan in force when jobs that may give way were last counted with, and those jobs."""
        self._before: tuple[str, ...] = ()
        self._not_before_s = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if not await kept(self._look, what="planning again"):
                self._not_before_s = time.monotonic() + _REST_S

    async def _look(self) -> None:
        """A reason must be there at two looks running: Ray forgets a node for a moment while it restarts."""
        stored = self._bringup.state.stored
        if stored is None or self._bringup.state.phase is not Phase.SERVING or self._applier.busy:
            return
        live = await self._fleet.node_names()
        if time.monotonic() >= self._not_before_s and await self._applier.mended(live):
            return
        version, jobs = stored.inventory.version, self._may_give_way(stored)
        known = self._counted_with[1] if self._counted_with[0] == version else frozenset()
        why = reasons(stored, live, self._conditions(), may_give_way=jobs - known)
        seen_before, self._before = why == self._before, why
        if why and seen_before and time.monotonic() >= self._not_before_s:
            await self._plan_again(why, jobs)

    def _may_give_way(self, stored: StoredPlan) -> frozenset[str]:
        return waits_for_jobs(
            stored.plan.refusals,
            priorities={demand.model: demand.priority for demand in stored.demands},
            jobs=self._jobs(),
            min_hold_s=self._bringup.settings.training.min_hold_s,
        )

    async def _plan_again(self, why: tuple[str, ...], jobs: frozenset[str]) -> None:
        try:
            proposal = await self._applier.propose(self._bringup.settings, Wish(knows_weights=True))
        except ApplyBusy:
            return
        except (HeadroomError, PlacementError) as error:
            _log.error("could not plan again", because=why, reason=str(error))
            self._not_before_s = time.monotonic() + _REST_S
            return
        if _only_silence(why) and _num_refused(proposal.plan) > _num_refused(self._bringup.plan):
            _log.error("left where they are, for lack of room elsewhere", because=why)
            self._not_before_s = time.monotonic() + _REST_S
            return
        _log.warning("planned again", because=why, plan=proposal.inventory.version, steps=len(proposal.steps.batches))
        self._applier.begin(proposal)
        if not await self._applier.carry_out(proposal):
            self._not_before_s = time.monotonic() + _REST_S
        self._counted_with = (self._bringup.plan.inventory_version, jobs)


def _only_silence(why: tuple[str, ...]) -> bool:
    """Nothing is known but that a device could not be read: what runs there may be well, and is not ended for it."""
    return all(reason.endswith(f"is {DeviceHealth.LOST.value}") for reason in why)


def _num_refused(plan: Plan) -> int:
    return sum(refusal.num_replicas for refusal in plan.refusals)


_log = logger("headroom.controller")
