"""Rows 1 to 5 and 14: a process is killed or stopped under steady clients, on either side."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import psutil

from tests.bench.faults.clients import Clients, Ending
from tests.bench.faults.outcome import Outcome, counted
from tests.bench.faults.sides import Side
from tests.integration.waiting import eventually

Pick = Callable[[Side], list[psutil.Process]]
_WHOLE_S = 150.0
_BEFORE = 12
_AFTER_S = 6.0
_STOPPED_S = 45.0


def replica(side: Side) -> list[psutil.Process]:
    return side.replicas()


def core(side: Side) -> list[psutil.Process]:
    return side.cores()


def named(*parts: str) -> Pick:
    return lambda side: side.titled(*parts)


@contextlib.contextmanager
def steady(side: Side, *, stream: bool) -> Iterator[Clients]:
    """Everything is there and answers."""
    eventually(side.is_whole, deadline_s=_WHOLE_S, what=f"both engines of {side.name}")
    with Clients(side.url, stream=stream) as clients:
        eventually(lambda: clients.num_good_since(0) >= _BEFORE, deadline_s=60, what="steady answers")
        yield clients


def killed(pick: Pick, *, stream: bool = False, times: int = 1) -> Callable[[Side], Outcome]:
    """One of what `pick` finds gets SIGKILL, `times` times, each when the last has been replaced."""

    def happen(side: Side) -> Outcome:
        with steady(side, stream=stream) as clients:
            first_s = time.monotonic()
            took_s = [_kill_one(side, pick) for _ in range(times)]
            _go_on(clients)
        note = "" if None not in took_s else f"not whole within {_WHOLE_S:.0f} s"
        longest_s = max((one for one in took_s if one is not None), default=None)
        return counted(clients.answers, fault_s=first_s, whole_after_s=longest_s, note=note)

    return happen


def _kill_one(side: Side, pick: Pick) -> float | None:
    """Seconds until there are as many as before and both engines serve; None: not in time."""
    before = pick(side)
    victim = before[0]
    killed_s = time.monotonic()
    victim.kill()

    def back() -> bool:
        now = pick(side)
        return victim not in now and len(now) >= len(before) and side.is_whole()

    try:
        eventually(back, deadline_s=_WHOLE_S, what="all of it again")
    except AssertionError:
        return None
    return time.monotonic() - killed_s


def _go_on(clients: Clients) -> None:
    """Some more answers, good or bad, so that what comes late is counted."""
    until_s = time.monotonic() + _AFTER_S
    num = len(clients.answers)
    eventually(lambda: time.monotonic() > until_s and len(clients.answers) > num, deadline_s=60, what="more answers")


def stopped(side: Side) -> Outcome:
    """One engine core gets SIGSTOP for 45 s: it hangs while its replica says that it is healthy."""
    with steady(side, stream=True) as clients:
        victim = side.cores()[0]
        stopped_s = time.monotonic()
        victim.suspend()
        try:
            eventually(
                lambda: time.monotonic() > stopped_s + _STOPPED_S, deadline_s=2 * _STOPPED_S, what="the end of the hang"
            )
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGCONT)
        _go_on(clients)
    hung = [one.began_s - stopped_s for one in clients.answers if one.ending is not Ending.WHOLE]
    note = f"last request given to it {max(hung, default=0.0):.0f} s after it hung; it hung for {_STOPPED_S:.0f} s"
    return counted(clients.answers, fault_s=stopped_s, note=note)
