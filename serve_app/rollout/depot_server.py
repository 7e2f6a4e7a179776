"""Gives files of offered checkpoints to other nodes, over TCP, to whoever knows the secret of an offer.

Threads and no event loop: `sendfile` of a file that is not in memory would hold the loop up.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from serve_app.errors import CheckpointRefused
from serve_app.logs import logger
from serve_app.rollout.depot_wire import Answer, Asked, Hello, proof_of, read_line, send_line
from serve_app.rollout.ship_open import Stamp, opened, stamp_of
from serve_app.rollout.ship_parcel import Packed

MOST_CONNECTIONS: Final = 16
MOST_OFFERS: Final = 64
STALL_S: Final = 30.0
"""Longest wait for the other side to take or say anything."""
log = logger("depot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the receiving node is told, through the controller. The secret shows in no log."""

    address: tuple[str, int]
    offer: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Offered:
    path: Path
    stamps: Mapping[str, Stamp]
    secret: str = field(repr=False)


class DepotServer:
    """Listens from the start until `close`. `host` is the address that the other nodes reach."""

    def __init__(self, host: str, *, port: int = 0, stall_s: float = STALL_S) -> None:
        self._offers: dict[str, _Offered] = {}
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._stall_s = stall_s
        self._listener = socket.create_server((host, port), backlog=MOST_CONNECTIONS)
        self._thread = threading.Thread(target=self._accepting, name="depot", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def offer(self, packed: Packed) -> Offer:
        """Good until it is withdrawn; the oldest ends when there are too many."""
        name, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        while len(self._offers) >= MOST_OFFERS:
            del self._offers[next(iter(self._offers))]
        self._offers[name] = _Offered(packed.path, dict(packed.stamps), secret)
        return Offer(address=self.address, offer=name, secret=secret)

    def withdraw(self, offer: str) -> None:
        self._offers.pop(offer, None)

    def close(self) -> None:
        """Ends listening; a file that is on its way breaks off when its connection stalls or is done."""
        self._offers.clear()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    # -- One connection ----------------------------------------------------------------------------

    def _accepting(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="depot-file", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(self._stall_s)
                nonce = secrets.token_hex(16)
                send_line(connection, Hello(nonce=nonce))
                self._answer(connection, nonce)
        except (OSError, ValueError) as error:
            log.warning("a shipment broke off at its source", error=str(error))
        finally:
            self._slots.release()

    def _answer(self, connection: socket.socket, nonce: str) -> None:
        line = read_line(connection)
        if not line:
            return
        asked = Asked.model_validate_json(line)
        offered = self._offers.get(asked.offer)
        secret = offered.secret if offered is not None else secrets.token_hex()
        proof = proof_of(secret, nonce=nonce, offer=asked.offer, name=asked.name, offset=asked.offset)
        if not hmac.compare_digest(proof, asked.proof) or offered is None:
            send_line(connection, Answer(refused="there is no such offer, or this is not its secret"))
            return
        _send(connection, offered, asked)


def _send(connection: socket.socket, offered: _Offered, asked: Asked) -> None:
    """Only files that were offered, and only while they are what they were then."""
    stamp = offered.stamps.get(asked.name)
    if stamp is None or asked.offset > stamp.num_bytes:
        send_line(connection, Answer(refused=f"{asked.name!r} from {asked.offset} on is not part of the offer"))
        return
    try:
        with opened(offered.path, asked.name) as file:
            if stamp_of(file) != stamp:
                send_line(connection, Answer(refused=f"{asked.name} was changed since it was offered"))
                return
            send_line(connection, Answer())
            if count := stamp.num_bytes - asked.offset:
                connection.sendfile(file, asked.offset, count)
    except CheckpointRefused as error:
        send_line(connection, Answer(refused=str(error)))
