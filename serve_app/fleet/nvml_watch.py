"""All CUDA devices of this machine, poll after poll, over one NVML session that is opened again when it fails.

Every call may hang in the driver for ever: whoever needs a deadline goes through `device_poller`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ctypes import c_void_p, cast
from dataclasses import dataclass, field
from typing import Any

import pynvml

from placement.signals import Poll, Silence
from serve_app.fleet.device_ids import device_ids
from serve_app.fleet.nvml import offered
from serve_app.fleet.nvml_signals import read_signals

MAX_EVENTS = 1000
"""Taken at one poll at most; the rest waits for the next."""
Xids = defaultdict[str, list[int]]
"""By UUID."""
NOT_LISTED = "NVML does not list this device"


class NvmlWatch:
    """Owns the session. One caller at a time."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._events: _XidEvents | None = None
        self._is_stale = False

    def poll(self, known: Mapping[str, str | None]) -> tuple[Poll, ...]:
        """What every device says now, and one entry for each known device, whatever happens.

        `known` maps the ids of devices that must be there to their UUIDs, None where the UUID was never read.
        """
        xids: Xids = defaultdict(list)
        try:
            is_whole = self._opened(xids).take_into(xids)
            polls = self._read_all(known, xids)
        except pynvml.NVMLError as error:
            self.close()
            return tuple(Silence(device=device, reason=f"NVML does not answer: {error}") for device in known)
        self._is_stale = not is_whole or any(isinstance(poll, Silence) for poll in polls)
        return polls

    def close(self) -> None:
        events, self._events = self._events, None
        for end in (events.close, pynvml.nvmlShutdown) if events else ():
            try:
                end()
            except pynvml.NVMLError:
                pass  # the driver is gone, and with it what there was to give back

    def _opened(self, xids: Xids) -> _XidEvents:
        """The open session. What one that ends here still held is added to `xids`.

        A session in which a device fell silent ends at the next poll: NVML lists its devices once for each session, and
        only a new one finds a device again that was reset.
        """
        if self._events is not None and self._is_stale:
            self._events.take_into(xids)
            self.close()
        if self._events is None:
            self._events = _open()
        return self._events

    def _read_all(self, known: Mapping[str, str | None], xids: Xids) -> tuple[Poll, ...]:
        listed = [_identified(index) for index in range(pynvml.nvmlDeviceGetCount())]
        ids = device_ids(self._node, [found[1] for found in listed], known)
        polls = (
            _read(handle, uuid, device, xids[uuid or known.get(device) or ""])
            for device, (handle, uuid) in zip(ids, listed, strict=True)
        )
        missing = ((device, uuid) for device, uuid in known.items() if device not in ids)
        silent = (_silence(device, NOT_LISTED, xids[uuid or ""]) for device, uuid in missing)
        return (*polls, *silent)


@dataclass(frozen=True, slots=True)
class _XidEvents:
    """XID events of the devices of one session. `event_set` is None where NVML has no events at all."""

    event_set: Any
    uuid_of_handle: dict[int | None, str] = field(default_factory=dict)

    def register_all(self) -> None:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                self._register(pynvml.nvmlDeviceGetHandleByIndex(index))
            except pynvml.NVMLError:
                continue  # it has no events, or is lost, which reading it tells

    def _register(self, handle: Any) -> None:
        uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self.event_set)
        self.uuid_of_handle[_pointer(handle)] = uuid

    def take_into(self, xids: Xids) -> bool:
        """Adds what has come since the last time, without waiting. False when the set is broken.

        One lost device breaks it, which must not make the others silent.
        """
        for _ in range(MAX_EVENTS if self.event_set else 0):
            try:
                event = pynvml.nvmlEventSetWait_v2(self.event_set, 0)
            except pynvml.NVMLError as error:
                return bool(error.value == pynvml.NVML_ERROR_TIMEOUT)
            uuid = self.uuid_of_handle.get(_pointer(event.device))
            if uuid is not None:
                xids[uuid].append(int(event.eventData))
        return True

    def close(self) -> None:
        if self.event_set:
            pynvml.nvmlEventSetFree(self.event_set)


def _open() -> _XidEvents:
    pynvml.nvmlInit()
    try:
        events = _XidEvents(offered(pynvml, pynvml.nvmlEventSetCreate))
        if events.event_set:
            events.register_all()
    except pynvml.NVMLError:
        pynvml.nvmlShutdown()
        raise
    return events


def _pointer(handle: Any) -> int | None:
    """Handles of one session are one pointer for each device. A lost device tells its UUID no more, but keeps it."""
    return cast(handle, c_void_p).value


def _identified(index: int) -> tuple[Any, str | None]:
    """Handle and UUID, or the error and None."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return handle, str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError as error:
        return error, None


def _read(handle: Any, uuid: str | None, device: str, xids: Sequence[int]) -> Poll:
    if uuid is None:
        return _silence(device, str(handle), xids)
    try:
        return read_signals(pynvml, handle, device=device, uuid=uuid, xids=tuple(xids))
    except pynvml.NVMLError as error:
        return _silence(device, str(error), xids)


def _silence(device: str, reason: str, xids: Sequence[int]) -> Silence:
    """XIDs go into the reason: 79 says why a device is gone."""
    return Silence(device=device, reason=f"{reason} (XID {', '.join(map(str, xids))})" if xids else reason)
