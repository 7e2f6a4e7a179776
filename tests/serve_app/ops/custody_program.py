"""Run by the custody tests in a process of its own: starts a family of processes, orphans it, lets custody end it.

Prints as JSON how many descendants lived before and after, and whether the shared memory they made is gone: what was
mapped until the end, and a semaphore whose owner had been killed before. `living_left`: one in use still is there.
"""

from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found]  # CPython's own, without types
import json
import os
import sys
import time
from pathlib import Path

from serve_app.ops.process_custody import Custody

_GRANDCHILD = """
import mmap, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = sys.argv[1]
with open(path, "wb") as file:
    file.truncate(4096)
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 4096)
print("up", flush=True)
time.sleep(600)
"""
_CHILD = """
import subprocess, sys, time
family = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], start_new_session=True)
time.sleep(600)
"""


def main() -> None:
    name = Path("/dev/shm") / f"headroom-test-{os.getpid()}"
    custody = Custody()
    semaphore = Path("/dev/shm") / f"sem.mp-headroom-test-{os.getpid()}"
    semaphore.touch()
    living = f"/mp-headroom-living-{os.getpid()}"
    held = _multiprocessing.SemLock(1, 1, 1, living, False)  # as multiprocessing does, without its resource tracker
    child = custody.start(
        [sys.executable, "-c", _CHILD, _GRANDCHILD, str(name)],
        environment=os.environ,
        output=Path(os.devnull),
    )
    deadline_s = time.monotonic() + 20
    while not (len(custody.descendants()) == 2 and name.exists()) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    child.kill()
    child.wait()
    before = len(custody.descendants())
    num_killed = custody.release(grace_s=0.5)
    after = len(custody.descendants())
    memory_left = name.exists() or semaphore.exists()
    living_left = Path(f"/dev/shm/sem.{living.removeprefix('/')}").exists()
    if living_left:
        _multiprocessing.sem_unlink(held.name)
    found = {"before": before, "after": after, "killed": num_killed}
    sys.stdout.write(json.dumps({**found, "memory_left": memory_left, "living_left": living_left}))


if __name__ == "__main__":
    main()
