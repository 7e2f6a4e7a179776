"""The standalone lease server as a process of its own, which can be killed and started again on the same ledger."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class LeaseProcess:
    """`port` stays the same over restarts."""

    def __init__(self, ledger: Path, device: str, *options: str) -> None:
        named = ["--ledger", str(ledger), "--simulated-device", device]
        self._arguments = [sys.executable, "-m", "serve_app.leases.standalone", *named, *options]
        self.port = 0
        self.start()

    def start(self) -> None:
        """Returns once it says that it listens."""
        ports = ["--port", str(self.port), "--zeromq-port", "0"]
        self._process = subprocess.Popen([*self._arguments, *ports], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("leases on grpc "):
            raise RuntimeError(f"the lease server did not start: {line!r}")
        self.port = int(line.split()[3])

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def lease_process(ledger: Path, device: str, *options: str) -> Iterator[LeaseProcess]:
    server = LeaseProcess(ledger, device, *options)
    try:
        yield server
    finally:
        server.end()
