"""Programs that end when whoever started them is killed. Linux only."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

_SHIM: Final = """
import ctypes, os, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != parent:
    sys.exit(1)
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"'{command[0]}' cannot be started: {error.strerror}.", file=sys.stderr)
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
"""
"""Becomes the program once the kernel knows that it must end when we are killed.

A program of its own, because Python may not run between fork and exec where gRPC has threads.
"""
NOT_STARTED: Final = (126, 127)
"""Exit statuses of a program that could not be started, as shells have them."""


def dying_with_us(command: Sequence[str]) -> list[str]:
    """The command that becomes `command`, and is killed when the thread that starts it ends."""
    return [sys.executable, "-I", "-c", _SHIM, str(os.getpid()), *command]
