"""A process of its own that polls the devices of this node: a call that hangs in the driver hangs nobody else.

`PollProcess` is the parent's end. The child is this file run as a module; it ends when the parent closes its end, or
dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import cast

from placement.inventory import DeviceKind
from placement.signals import Poll

Known = Mapping[str, str | None]
"""Ids of devices that must be there, and their UUIDs; None where the UUID was never read."""
READY = "ready"


class NoAnswer(Exception):
    """The process did not answer. Its text is the reason, for people."""


class PollProcess:
    """One child. After `NoAnswer` only `end` may be called, except where `is_starting` says that it still comes up."""

    def __init__(self, kind: DeviceKind, node: str, *, host_total_bytes: int | None = None) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), kind.value, node, str(host_total_bytes or 0)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=environment
            )
        self.is_starting = True

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, known: Known, *, timeout_s: float) -> tuple[Poll, ...]:
        """One poll. Raises NoAnswer when it takes longer, or the process has ended."""
        deadline_s = time.monotonic() + timeout_s
        late = f"within {round(timeout_s, 1):g} s"
        try:
            if self.is_starting:
                self._receive(deadline_s, late=f"the poller (process {self.pid}) has not started {late}")
                self.is_starting = False
            self._connection.send(dict(known))
            return cast("tuple[Poll, ...]", self._receive(deadline_s, late=f"no answer {late}"))
        except (EOFError, OSError) as error:
            self.is_starting = False
            raise NoAnswer(f"the poller (process {self.pid}) has ended") from error

    def end(self) -> None:
        """Kill it. It may outlive this call: a process that hangs in the kernel goes when the driver lets it."""
        self._connection.close()
        self._process.kill()

    def has_ended(self, *, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _receive(self, deadline_s: float, *, late: str) -> object:
        if not self._connection.poll(max(0.0, deadline_s - time.monotonic())):
            raise NoAnswer(late)
        return self._connection.recv()


def _poll_function(kind: DeviceKind, node: str, host_total_bytes: int | None) -> Callable[[Known], tuple[Poll, ...]]:
    """Imports only what the kind needs."""
    if kind is DeviceKind.HOST:
        from serve_app.fleet.host_signals import HostWatch

        watch = HostWatch(node, total_bytes=host_total_bytes)
        return lambda _known: watch.poll()
    from serve_app.fleet.nvml_watch import NvmlWatch

    return NvmlWatch(node).poll


def _answer(parent: Connection[object, Known], poll: Callable[[Known], tuple[Poll, ...]]) -> None:
    """For as long as the other end asks."""
    parent.send(READY)
    while True:
        parent.send(poll(parent.recv()))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    descriptor, kind, node, host_total_bytes = sys.argv[1:]
    poll = _poll_function(DeviceKind(kind), node, int(host_total_bytes) or None)
    with Connection(int(descriptor)) as parent:
        try:
            _answer(parent, poll)
        except (EOFError, ConnectionError):
            pass  # the parent has closed its end, or is dead


if __name__ == "__main__":
    main()
