"""A server as a process of its own, for measurements: started, waited for, its CPU time read, ended by its id."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

_START_S = 30.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    url: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """User and system time the process has used."""
        times = self.process.cpu_times()
        return times.user + times.system

    def pss_bytes(self) -> int:
        """Proportional set size: a page that several processes share counts for each of them in part."""
        found: int = self.process.memory_full_info().pss
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def python_server(module: str, *arguments: str, port: int | None = None) -> Iterator[ServerProcess]:
    """Run `python -m module --port P arguments` until the block ends; `port` None: a free one.

    Raises RuntimeError if it never listens.
    """
    port = port or free_port()
    command = [sys.executable, "-m", module, "--port", str(port), *arguments]
    with subprocess.Popen(command) as process:
        try:
            _wait_for(port, process)
            yield ServerProcess(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server on port {port} did not start")
