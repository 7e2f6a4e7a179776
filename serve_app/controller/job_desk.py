"""Jobs in the controller: placed beside the plan by the solver, run by actors on training nodes, asked for over REST.

Puts `jobs` and the fleet together; what is decided stands in `jobs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ray

from placement.errors import PlacementError
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.guest import Guest
from serve_app.controller.guests import Guests
from serve_app.controller.store import Store
from serve_app.controller.training_status import TrainingStatus
from serve_app.errors import FleetUnready
from serve_app.fleet.groups import Seat, hold_share
from serve_app.fleet.names import job_name
from serve_app.fleet.process_memory import JOB_MARK
from serve_app.jobs.actor import RayHost
from serve_app.jobs.book import JobBook, JobObserver
from serve_app.jobs.job import Job, JobKind, Placed
from serve_app.jobs.ledger import JobClock, JobLedger
from serve_app.jobs.ports import Blocked
from serve_app.jobs.rest import JobCalls
from serve_app.jobs.service import JobService
from serve_app.leases.clock import SystemClock
from serve_app.logs import logger
from tracing.job_metrics import JobMetrics

_SHARE_S: Final = 20.0
"""A new actor is a new process, which takes seconds on a busy machine."""


class SharePlacer:
    """`jobs.ports.Placer`: room by the solver, then shares in Ray's own books, which die with this process."""

    def __init__(self, *, guests: Guests, store: Store, most: Callable[[], int]) -> None:
        """`most` jobs may run at once, scorings of our own apart."""
        self._guests = guests
        self._most = most
        self._store = store
        self._shares: dict[int, tuple[str, list[Any]]] = {}
        self._scorings: set[int] = set()
        """Epochs of shares that are held for scorings."""

    async def place(self, job: Job) -> Placed | Blocked:
        guest = guest_of(job)
        most, num_held = self._most(), len(self._shares) - len(self._scorings)
        is_scoring = job.spec.kind is JobKind.SCORE
        if not is_scoring and num_held >= most:
            advice = "It waits until one ends; `headroom scale trainers=N` allows more."
            return Blocked(message=f"{num_held} jobs run, and at most {most} may at once. {advice}")
        try:
            place = await self._guests.place(guest)
        except (PlacementError, RuntimeError, ray.exceptions.RayError) as error:  # the queue goes on; it asks again
            _log.error("no place could be looked for", job=job.id, error=repr(error))
            return Blocked(message=f"The fleet could not be read ({type(error).__name__}). It is asked again.")
        if isinstance(place, str):
            return Blocked(message=place)
        epoch = self._store.reserve_epochs(1)
        shares = await self._held(place.seats, num_bytes=guest.num_bytes, name=job_name(job.id, epoch))
        if shares is None:
            self._guests.leave(guest.name)
            return Blocked(
                message=f"Ray does not give the shares on {place.node} that are planned. They are asked again."
            )
        self._shares[epoch] = guest.name, shares
        if is_scoring:
            self._scorings.add(epoch)
        return Placed(
            node=place.node,
            devices=tuple(seat.device for seat in place.seats),
            epoch=epoch,
            uuids=tuple(
                uuid for uuid, seat in zip(place.device_uuids, place.seats, strict=True) if "/gpu-" in seat.device
            ),
        )

    async def free(self, placed: Placed) -> None:
        name, shares = self._shares.pop(placed.epoch, ("", []))
        self._scorings.discard(placed.epoch)
        for share in shares:
            ray.kill(share)
        if name:
            self._guests.leave(name)

    async def _held(self, seats: Sequence[Seat], *, num_bytes: int, name: str) -> list[Any] | None:
        shares: list[Any] = []
        try:
            for index, seat in enumerate(seats):
                shares.append(await asyncio.to_thread(hold_share, seat, num_bytes=num_bytes, name=f"{name}-{index}"))
            async with asyncio.timeout(_SHARE_S):
                await asyncio.gather(*(share.ping.remote() for share in shares))
        except (TimeoutError, FleetUnready, ValueError, ray.exceptions.RayError) as error:
            _log.warning("Ray does not give a job's shares", job=name, error=repr(error))
            for share in shares:
                ray.kill(share)
            return None
        return shares


class JobDesk:
    """`observers` hear of checkpoints and of ends."""

    def __init__(
        self,
        *,
        store: Store,
        home: Path,
        roots: Sequence[Path],
        guests: Guests,
        fleet: FleetLink,
        metrics: JobMetrics,
        observers: Sequence[JobObserver],
        most: Callable[[], int],
        curriculum: Callable[[str], list[dict[str, Any]]],
    ) -> None:
        ledger = JobLedger(store.connection)
        self._fleet = fleet
        self.status = TrainingStatus(home / "status", jobs=lambda: self.service, clock=time.time)
        self.service = JobService(
            book=JobBook(ledger, now=JobClock(SystemClock(), ledger).now, changed=self.status.changed),
            placer=SharePlacer(guests=guests, store=store, most=most),
            host=RayHost(home=home, selector_of=self._selector),
            metrics=metrics,
            observers=observers,
        )
        self.calls = JobCalls(self.service, roots=roots, home=home, curriculum=curriculum)

    def unusable(self, devices: Mapping[str, str], nodes: Iterable[str]) -> None:
        """Jobs on these devices (each with its reason) go back to the queue; so do those on nodes that are gone."""
        send_back(self.service, devices, nodes)

    def _selector(self, node: str) -> Mapping[str, str] | None:
        try:
            return self._fleet.selector(node)
        except KeyError:
            return None


def send_back(service: JobService, devices: Mapping[str, str], nodes: Iterable[str]) -> None:
    """Each job hears it once, however often it is said. Raises: sqlite3.Error; then it runs on."""
    for device, why in devices.items():
        for job in service.running_on(device):
            if job.stop is None and service.preempt(job.id, message=f"{device} is {why}."):
                _log.warning("a job goes back to its queue", job=job.id, device=device, reason=why)
    for node in nodes:
        service.node_lost(node, message=f"Node {node} is gone.")


def guest_of(job: Job) -> Guest:
    return Guest(
        name=guest_name(job.id),
        num_bytes=job.spec.num_bytes,
        priority=job.spec.priority,
        num_devices=job.spec.num_devices,
    )


def guest_name(job: str) -> str:
    """Also the mark that the job's processes carry, by which wardens measure them."""
    return f"{JOB_MARK}{job}"


_log = logger("headroom.jobs")
