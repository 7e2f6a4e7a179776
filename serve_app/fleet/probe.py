"""Try one empty device: fill some of its memory, compute on it, and compare with what must come out.

Runs as a program of its own, so that a device that hangs or kills its user takes nothing with it:

    python -m serve_app.fleet.probe cuda GPU-<uuid>
    python -m serve_app.fleet.probe host
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from placement.inventory import DeviceKind

_NUM_WORDS = 16 << 20
"""64 MiB of 32-bit words."""
_SIDE = 512
_TAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """`reason` says what went wrong; empty when the device passed."""

    has_passed: bool
    reason: str


def probe(kind: DeviceKind, uuid: str, *, timeout_s: float) -> ProbeResult:
    """Blocks until the device has passed, failed or taken too long."""
    command = [sys.executable, "-m", __name__, kind.value, uuid]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return ProbeResult(has_passed=False, reason=f"the probe did not end within {timeout_s:g} s")
    reason = "" if done.returncode == 0 else done.stderr.strip()[-_TAIL_CHARACTERS:] or f"code {done.returncode}"
    return ProbeResult(has_passed=done.returncode == 0, reason=reason)


def probe_host() -> None:
    """Raises: SystemExit when memory does not keep what was written, or a product comes out wrong."""
    pattern = np.arange(_NUM_WORDS, dtype=np.uint32)
    if not np.array_equal(~(~pattern), pattern):
        raise SystemExit("memory did not keep what was written")
    numbers = np.arange(_SIDE * _SIDE, dtype=np.int64).reshape(_SIDE, _SIDE) % 7
    _compare((numbers @ numbers).sum(), _expected())


def probe_cuda() -> None:
    """The same on the one visible GPU. Raises: SystemExit; RuntimeError of torch when the device does not work."""
    import torch

    pattern = torch.arange(_NUM_WORDS, dtype=torch.int32, device="cuda")
    copy = pattern.clone()
    pattern.bitwise_not_().bitwise_not_()
    if not torch.equal(pattern, copy):
        raise SystemExit("memory did not keep what was written")
    numbers = (torch.arange(_SIDE * _SIDE, device="cuda") % 7).reshape(_SIDE, _SIDE).double()
    _compare(int((numbers @ numbers).sum().item()), _expected())


def _expected() -> int:
    """Sum over the product of the matrix with itself: column sums times row sums, in exact integers."""
    numbers = [[(row * _SIDE + column) % 7 for column in range(_SIDE)] for row in range(_SIDE)]
    columns = [sum(row[index] for row in numbers) for index in range(_SIDE)]
    return sum(column * sum(row) for column, row in zip(columns, numbers, strict=True))


def _compare(found: int, expected: int) -> None:
    if int(found) != expected:
        raise SystemExit(f"a product came out as {found}, expected {expected}")


if __name__ == "__main__":
    probe_cuda() if DeviceKind(sys.argv[1]) is DeviceKind.CUDA else probe_host()
