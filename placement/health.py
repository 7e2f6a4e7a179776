"""The health of a fleet as a state machine: polls, time, probes and people in, events and effects out.

Pure: `now_s` is a monotonic clock's. The world is never asked; `placement.health_rules` says what is judged.

    observe     polls of some devices
    tick        time alone: polls that stay out, rests that end, probes that never answer, the storm brake
    probed      the answer of a probe
    cordon, uncordon, enroll, forget, restored
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from placement.errors import InvalidProblem, UnknownDevice
from placement.health_book import Book
from placement.health_events import Outcome
from placement.health_judge import answered, silent
from placement.health_state import Cordon, FleetHealth, HealthPolicy, Record, Standing
from placement.signals import Poll, Silence

MAX_CORDONS = 32
"""People and windows that may hold one device at the same time."""


def observe(
    fleet: FleetHealth, polls: Iterable[Poll], *, planned_bytes: Mapping[str, int], now_s: float, policy: HealthPolicy
) -> Outcome:
    """`planned_bytes` of a device that is not in it are 0: whatever is used there was not planned."""
    polls = tuple(polls)
    book = Book(enroll(fleet, (poll.device for poll in polls), now_s=now_s), policy, now_s)
    for poll in polls:
        if isinstance(poll, Silence):
            silent(book, poll)
        else:
            answered(book, poll, planned_bytes=planned_bytes.get(poll.device, 0))
    return book.outcome(fleet)


def tick(fleet: FleetHealth, *, now_s: float, policy: HealthPolicy) -> Outcome:
    """Call at least once a second; nothing here waits for a poll."""
    book = Book(fleet, policy, now_s)
    for device in sorted(fleet.records):
        book.find_stale(device)
        book.end_probe_without_answer(device)
        book.quarantine_held_back(device)
        book.begin_probation(device)
    book.settle_brake()
    return book.outcome(fleet)


def probed(
    fleet: FleetHealth, device: str, *, number: int, has_passed: bool, now_s: float, policy: HealthPolicy
) -> Outcome:
    """An answer to any probe but the one that runs changes nothing. Raises: UnknownDevice."""
    rest = _known(fleet, device).standing.quarantine
    book = Book(fleet, policy, now_s)
    if rest is not None and rest.probe_by_s is not None and number == fleet.records[device].standing.num_probes:
        if has_passed and now_s < rest.probe_by_s:
            book.restore(device)
        else:
            book.strike(device)
    return book.outcome(fleet)


def cordon(fleet: FleetHealth, device: str, by: Cordon, *, now_s: float, policy: HealthPolicy) -> Outcome:
    """Replaces an earlier one of the same holder. Raises: UnknownDevice, InvalidProblem."""
    standing = _known(fleet, device).standing
    others = tuple(cordon for cordon in standing.cordons if cordon.by != by.by)
    if len(others) >= MAX_CORDONS:
        raise InvalidProblem(f"'{device}' is cordoned by {MAX_CORDONS} already. Lift one of them first.")
    book = Book(fleet, policy, now_s)
    book.put_standing(replace(standing, cordons=(*others, by)))
    return book.outcome(fleet)


def uncordon(fleet: FleetHealth, device: str, by: str, *, now_s: float, policy: HealthPolicy) -> Outcome:
    """Lifts the cordon of this holder alone, and no quarantine. Raises: UnknownDevice."""
    standing = _known(fleet, device).standing
    book = Book(fleet, policy, now_s)
    book.put_standing(replace(standing, cordons=tuple(cordon for cordon in standing.cordons if cordon.by != by)))
    return book.outcome(fleet)


def enroll(fleet: FleetHealth, devices: Iterable[str], *, now_s: float) -> FleetHealth:
    """With these devices too. Their first poll has `stale_s` to come, because the inventory has just read them."""
    new = {
        device: Record(standing=Standing(device=device), last_poll_s=now_s)
        for device in devices
        if device not in fleet.records
    }
    return replace(fleet, records={**fleet.records, **new}) if new else fleet


def forget(fleet: FleetHealth, device: str) -> FleetHealth:
    """For hardware that was taken out; a device that merely vanished must not be forgotten. Raises: UnknownDevice."""
    _known(fleet, device)
    return replace(fleet, records={name: record for name, record in fleet.records.items() if name != device})


def restored(standings: Iterable[Standing], *, now_s: float) -> FleetHealth:
    """After a restart, whose clock is another: rests begin anew, probes are asked again, what had fired still has."""
    standings = tuple(standings)
    return FleetHealth(
        records={one.device: Record(standing=_restarted(one, now_s), last_poll_s=now_s) for one in standings}
    )


def _restarted(standing: Standing, now_s: float) -> Standing:
    rest = standing.quarantine
    return replace(
        standing,
        alerts=tuple(replace(alert, since_s=now_s) for alert in standing.alerts),
        quarantine=None if rest is None else replace(rest, until_s=now_s + rest.length_s, probe_by_s=None),
        released_s=None if standing.released_s is None else now_s,
    )


def _known(fleet: FleetHealth, device: str) -> Record:
    record = fleet.records.get(device)
    if record is None:
        raise UnknownDevice(device, tuple(sorted(fleet.records)))
    return record
