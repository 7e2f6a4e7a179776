"""A child process with two pipes, under asyncio, whose end is seen at once.

asyncio's own waits until the pipes are closed as well, which a grandchild that lives on can hold open for ever
(CPython 3.11, `base_subprocess.py`); and it needs a watcher for children, of which a thread of Ray's has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from serve_app.ops.parent_death import dying_with_us


class Child:
    """In a process group of its own; killed when the thread that started it ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pipes: list[asyncio.ReadTransport] = []
        self._pidfd = os.pidfd_open(process.pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended.set)

    @classmethod
    async def start(
        cls, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> tuple[Child, asyncio.StreamReader, asyncio.StreamReader]:
        """The child, and what it writes to stdout and to stderr."""
        process = subprocess.Popen(  # noqa: S603, ASYNC220  # the user's own command, no shell; returns at once
            dying_with_us(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        child = cls(process)
        assert process.stdout is not None
        assert process.stderr is not None
        return child, await child._reader(process.stdout), await child._reader(process.stderr)

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> int:
        """Its exit status; negative for a signal."""
        await self._ended.wait()
        return self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """To its whole group, also what is left of it after its own end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def close(self) -> None:
        """Kills what is left, and lets go of everything."""
        self.signal(signal.SIGKILL)
        await self.wait()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        for pipe in self._pipes:
            pipe.close()

    async def _reader(self, pipe: IO[bytes]) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._pipes.append(transport)
        return reader
