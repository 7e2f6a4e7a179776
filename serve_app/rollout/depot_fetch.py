"""Bytes of a checkpoint that another node offers: one connection per file, from any offset on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.rollout.depot_server import STALL_S, Offer
from serve_app.rollout.depot_wire import Answer, Asked, Hello, proof_of, read_line, send_line
from serve_app.rollout.ship_errors import ShipFailed, broke_off
from serve_app.rollout.ship_parcel import refused
from serve_app.rollout.ship_pump import Readable


class StreamSource:
    """`node` is for messages. `deadline_s`, by `clock`, is when everything must have arrived."""

    def __init__(
        self,
        offer: Offer,
        *,
        node: str,
        deadline_s: float,
        stall_s: float = STALL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._offer = offer
        self._node = node
        self._deadline_s = deadline_s
        self._stall_s = stall_s
        self._clock = clock

    @contextmanager
    def read(self, name: str, offset: int) -> Iterator[Readable]:
        with self._connected(name, offset) as connection:
            yield _Received(connection, self._left_s, self._broke_off)

    def _connected(self, name: str, offset: int) -> socket.socket:
        try:
            connection = socket.create_connection(self._offer.address, timeout=self._left_s())
        except OSError as error:
            raise self._broke_off(error) from error
        try:
            answer = self._ask(connection, name, offset)
        except (OSError, ValueError) as error:
            connection.close()
            raise self._broke_off(error) from error
        if answer.refused is not None:
            connection.close()
            raise refused(f"node {self._node!r} does not give {name}: {answer.refused}")
        return connection

    def _broke_off(self, error: Exception) -> ShipFailed:
        host, port = self._offer.address
        return broke_off(f"Node {self._node!r} at {host}:{port} stopped giving the checkpoint", error)

    def _ask(self, connection: socket.socket, name: str, offset: int) -> Answer:
        hello = Hello.model_validate_json(read_line(connection))
        proof = proof_of(self._offer.secret, nonce=hello.nonce, offer=self._offer.offer, name=name, offset=offset)
        send_line(connection, Asked(offer=self._offer.offer, name=name, offset=offset, proof=proof))
        return Answer.model_validate_json(read_line(connection))

    def _left_s(self) -> float:
        """What a single wait may take. Raises: TimeoutError past the deadline."""
        left_s = self._deadline_s - self._clock()
        if left_s <= 0:
            raise TimeoutError("the time for shipping is over")
        return min(left_s, self._stall_s)


class _Received:
    def __init__(
        self, connection: socket.socket, left_s: Callable[[], float], broke_off: Callable[[Exception], ShipFailed]
    ) -> None:
        self._connection = connection
        self._left_s = left_s
        self._broke_off = broke_off

    def readinto(self, buffer: memoryview, /) -> int:
        """As much as fits, so that chunks are full; less only at the end."""
        done = 0
        try:
            self._connection.settimeout(self._left_s())
            while done < len(buffer) and (count := self._connection.recv_into(buffer[done:])):
                done += count
        except OSError as error:
            raise self._broke_off(error) from error
        return done
