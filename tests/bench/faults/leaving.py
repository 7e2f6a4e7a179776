"""Row 15: clients leave in the middle of long work, streamed or not; does the engine notice?"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import psutil

from tests.bench.faults.clients import PATH
from tests.bench.faults.outcome import Outcome
from tests.bench.faults.sides import Side
from tests.integration.waiting import eventually

_NUM = 16
_LOOK_S = 1.0
_IDLE_SHARE = 0.03
"""Of a core: what an engine without work takes at most. One with work takes all it gets."""
_REST_S = 45.0
_QUIET_LOOKS = 2
_LONG = {"model": "mini", "max_tokens": 480, "n": 8, "temperature": 1, "ignore_eos": True}


def left(*, stream: bool) -> Callable[[Side], Outcome]:
    """16 clients ask for eight answers of 480 tokens each, and leave once the engines work."""

    def happen(side: Side) -> Outcome:
        eventually(side.is_whole, deadline_s=150, what=f"both engines of {side.name}")
        cores = side.cores()
        eventually(lambda: not _works(cores), deadline_s=60, what="idle engines")
        connections = [_asked(side.url, number, stream=stream) for number in range(_NUM)]
        try:
            eventually(lambda: _works(cores), deadline_s=30, what="engines at work")
        finally:
            for one in connections:
                one.close()
        return _until_rest(cores)

    return happen


def _asked(url: str, number: int, *, stream: bool) -> socket.socket:
    messages = [{"role": "user", "content": f"Go on from {number}."}]
    body = json.dumps({**_LONG, "messages": messages, "stream": stream}).encode()
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=10)
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _until_rest(cores: Sequence[psutil.Process]) -> Outcome:
    left_s = time.monotonic()
    used_s = _used_s(cores)
    quiet = 0
    while time.monotonic() - left_s < _REST_S:
        quiet = 0 if _works(cores) else quiet + 1
        if quiet == _QUIET_LOOKS:
            rest_s = max(0.0, time.monotonic() - left_s - _QUIET_LOOKS * _LOOK_S)
            return _outcome(f"engines at rest {rest_s:.0f} s after all left", _used_s(cores) - used_s)
    return _outcome(f"engines still at work {_REST_S:.0f} s after all left", _used_s(cores) - used_s)


def _outcome(saw: str, used_s: float) -> Outcome:
    return Outcome(saw=f"{_NUM} clients left; {saw}, {used_s:.1f} s of processor time spent for nobody")


def _works(cores: Sequence[psutil.Process]) -> bool:
    """Over one second. Also so for an engine that another program leaves little of the processor."""
    before_s, began_s = _used_s(cores), time.monotonic()
    time.sleep(_LOOK_S)  # a measuring interval, not a wait
    return _used_s(cores) - before_s > _IDLE_SHARE * (time.monotonic() - began_s)


def _used_s(cores: Sequence[psutil.Process]) -> float:
    total_s = 0.0
    for core in cores:
        with contextlib.suppress(psutil.Error):
            times = core.cpu_times()
            total_s += times.user + times.system
    return total_s
