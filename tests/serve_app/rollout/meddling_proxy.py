"""A TCP proxy between two depots that flips a byte, cuts, or stands still, as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from serve_app.rollout.depot_server import Offer

Meddle = Callable[[int, bytearray], bytearray | None]
"""Given the offset of a piece in the answers of one connection; None ends the connection."""


class MeddlingProxy:
    """`between(offer)` is the same offer, through the proxy. Counts the bytes that came back."""

    def __init__(self, meddle: Meddle) -> None:
        self.meddle = meddle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target: tuple[str, int] | None = None
        self._thread = threading.Thread(target=self._accepting, daemon=True)

    def __enter__(self) -> MeddlingProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def between(self, offer: Offer) -> Offer:
        self._target = offer.address
        return replace(offer, address=self._listener.getsockname()[:2])

    def _accepting(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            assert self._target is not None
            with connection, socket.create_connection(self._target) as behind:
                asking = threading.Thread(target=_pass_on, args=(connection, behind), daemon=True)
                asking.start()
                self._answering(behind, connection)
                for end in (connection, behind):
                    _shut(end)
                asking.join()

    def _answering(self, behind: socket.socket, connection: socket.socket) -> None:
        offset = 0
        try:
            while piece := behind.recv(1 << 16):
                passed = self.meddle(offset, bytearray(piece))
                if passed is None:
                    return
                connection.sendall(passed)
                offset += len(piece)
        except OSError:
            return


def _pass_on(connection: socket.socket, behind: socket.socket) -> None:
    try:
        while piece := connection.recv(1 << 16):
            behind.sendall(piece)
    except OSError:
        return


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
