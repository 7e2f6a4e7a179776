"""Polls of this node's devices, each with a deadline: a device that does not answer in time is silent, not unknown.

Usable from any one thread, inside a Ray actor or without Ray; knows neither Ray nor what follows from a poll.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll, Silence
from serve_app.fleet.cuda_devices import device_id
from serve_app.fleet.poll_process import Known, NoAnswer, PollProcess

_END_TIMEOUT_S = 5.0


class Process(Protocol):
    """What the poller needs of a process that polls; `PollProcess` is the real one."""

    @property
    def pid(self) -> int: ...
    @property
    def is_starting(self) -> bool: ...
    def ask(self, known: Known, *, timeout_s: float) -> tuple[Poll, ...]: ...
    def end(self) -> None: ...
    def has_ended(self, *, timeout_s: float) -> bool: ...


class DevicePoller:
    """Asks one process, and never has more than one: a new one starts when the one before is really gone.

    `known` maps the ids of devices that must be there to their UUIDs, as the inventory has them; what answers is added.
    A device that was known once is in every answer, as signals or as silence. A node of which nothing is known must
    have at least its first device.
    """

    def __init__(
        self,
        kind: DeviceKind,
        node: str,
        *,
        known: Mapping[str, str] | None = None,
        host_total_bytes: int | None = None,
        start: Callable[[], Process] | None = None,
    ) -> None:
        if kind is DeviceKind.SIMULATED:
            raise ValueError("simulated devices are not polled: whoever scripts them knows what they say")
        first = f"{node}/host" if kind is DeviceKind.HOST else device_id(node, 0)
        self._known: dict[str, str | None] = {**(known or {first: None})}
        self._start = start or partial(PollProcess, kind, node, host_total_bytes=host_total_bytes)
        self._process: Process | None = None
        self._dying: Process | None = None

    def poll(self, timeout_s: float) -> tuple[Poll, ...]:
        """Every device within `timeout_s`, which includes starting a process where there is none."""
        try:
            polls = self._ask(timeout_s)
        except NoAnswer as error:
            polls = tuple(Silence(device=device, reason=str(error)) for device in self._known)
        for poll in polls:
            if isinstance(poll, DeviceSignals):
                self._known[poll.device] = poll.uuid
            else:
                self._known.setdefault(poll.device, None)
        if not any(isinstance(poll, DeviceSignals) for poll in polls):
            self._renew()
        return polls

    def close(self) -> None:
        """End the process, unless it hangs in the driver: then it ends when the driver lets it."""
        for process in (self._process, self._dying):
            if process is not None:
                process.end()
                process.has_ended(timeout_s=_END_TIMEOUT_S)
        self._process = self._dying = None

    def _ask(self, timeout_s: float) -> tuple[Poll, ...]:
        deadline_s = time.monotonic() + timeout_s
        if self._dying is not None:
            if not self._dying.has_ended(timeout_s=timeout_s):
                raise NoAnswer(f"the poller before (process {self._dying.pid}) still hangs in the driver")
            self._dying = None
        if self._process is None:
            try:
                self._process = self._start()
            except OSError as error:
                raise NoAnswer(f"no process could be started to poll: {error}") from error
        return self._process.ask(self._known, timeout_s=max(0.0, deadline_s - time.monotonic()))

    def _renew(self) -> None:
        """Nothing answers: the next poll begins with a new process, which also loads a driver that was replaced."""
        if self._process is not None and not self._process.is_starting:
            self._process.end()
            self._dying, self._process = self._process, None
