"""Row 16: callers that read or send slowly, or send too much. What it costs in memory, and what they are told."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from tests.bench.faults.clients import PATH
from tests.bench.faults.deaths import steady
from tests.bench.faults.outcome import Outcome, counted
from tests.bench.faults.sides import Side

MIB = 1 << 20
BODY_BYTES = 256 * MIB
"""Not a whole GiB: the base holds it several times over, on a machine that others use."""
HEADER_BYTES = MIB
_NUM_SLOW = 16
_SLOW_READ_S = 20.0
_SLOW_BODY_S = 45.0
_LOOK_S = 0.25
_ANSWER_S = 60.0

Attack = Callable[[str], str]
"""Takes the address; says what the caller was told."""


def abused(attack: Attack) -> Callable[[Side], Outcome]:
    """The attack beside steady clients, whose answers are counted."""

    def happen(side: Side) -> Outcome:
        with steady(side, stream=False) as clients:
            began_s = time.monotonic()
            with _watched(side) as growth:
                told = attack(side.url)
        note = f"{told}; the way there grew by {growth[0] / MIB:.0f} MiB at most"
        return counted(clients.answers, fault_s=began_s, note=note)

    return happen


@contextlib.contextmanager
def _watched(side: Side) -> Iterator[list[int]]:
    """The largest growth of resident memory from proxy to replicas while the block runs."""
    before, growth, over = side.front_bytes(), [0], threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            growth[0] = max(growth[0], side.front_bytes() - before)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        over.set()
        thread.join()


def slow_readers(url: str) -> str:
    """16 streams of eight answers of 480 tokens, of which nobody reads anything."""
    asked = {"model": "mini", "max_tokens": 480, "n": 8, "temperature": 1, "ignore_eos": True, "stream": True}
    connections = []
    for number in range(_NUM_SLOW):
        body = json.dumps({**asked, "messages": [{"role": "user", "content": f"Go on from {number}."}]}).encode()
        connection = _connected(url, receive_bytes=4096)
        connection.sendall(_head(len(body)) + body)
        connections.append(connection)
    time.sleep(_SLOW_READ_S)  # the attack itself
    for connection in connections:
        connection.close()
    return f"{_NUM_SLOW} streams unread for {_SLOW_READ_S:.0f} s"


def slow_body(url: str) -> str:
    """One byte a second of a body of 1,000."""
    with _connected(url) as connection:
        connection.sendall(_head(1000))
        began_s = time.monotonic()
        connection.settimeout(1.0)
        while time.monotonic() - began_s < _SLOW_BODY_S:
            try:
                connection.sendall(b" ")
                answer = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                answer = b""
            return f"{_status(answer)} after {time.monotonic() - began_s:.0f} s"
    return f"still waited for after {_SLOW_BODY_S:.0f} s"


def large_body(url: str) -> str:
    """As fast as it is taken."""
    with _connected(url) as connection:
        sent = 0
        piece = b" " * MIB
        try:
            connection.sendall(_head(BODY_BYTES))
            while sent < BODY_BYTES and not _has_answer(connection):
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        return f"{_answer(connection)} after {sent // MIB} of {BODY_BYTES // MIB} MiB"


def header_bomb(url: str) -> str:
    """A MiB of headers of 1 KiB."""
    with _connected(url) as connection:
        bomb = b"".join(b"x-%06d: %s\r\n" % (number, b"a" * 1014) for number in range(HEADER_BYTES // 1024))
        with contextlib.suppress(OSError):
            connection.sendall(_head(2)[:-2] + bomb + b"\r\n{}")
        return _answer(connection)


def _connected(url: str, *, receive_bytes: int | None = None) -> socket.socket:
    address = urlsplit(url)
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(_ANSWER_S)
    connection.connect((address.hostname, address.port))
    return connection


def _head(length: int) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def _has_answer(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(_ANSWER_S)


def _answer(connection: socket.socket) -> str:
    try:
        return _status(connection.recv(4096))
    except TimeoutError:
        return f"no answer within {_ANSWER_S:.0f} s"
    except OSError:
        return _status(b"")


def _status(answer: bytes) -> str:
    """Of an answer's first bytes."""
    return f"status {answer.split(b' ', 2)[1].decode()}" if answer.startswith(b"HTTP/") else "cut without an answer"
