"""What two depots say to each other: who asks proves that it knows a secret, without telling it.

    source  ->  {"nonce": ...}                                           one line
    asker   ->  {"offer", "name", "offset", "proof"}                     one line; proof is an HMAC over nonce and rest
    source  ->  {"refused": null} and the file from there to its end, or {"refused": why}

The secret is made for one shipment to one node. The bytes are neither encrypted nor trusted: their digests came
another way, through the controller.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

LONGEST_LINE: Final = 4096


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hello(_Line):
    nonce: str


class Asked(_Line):
    offer: str
    name: str
    offset: Annotated[int, Field(ge=0)]
    proof: str


class Answer(_Line):
    """The bytes follow, unless `refused` says why not."""

    refused: str | None = None


class Garbled(ValueError):
    """What came is no line of this protocol."""


def proof_of(secret: str, *, nonce: str, offer: str, name: str, offset: int) -> str:
    text = json.dumps([nonce, offer, name, offset]).encode()
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def send_line(connection: socket.socket, line: _Line) -> None:
    connection.sendall(line.model_dump_json().encode() + b"\n")


def read_line(connection: socket.socket) -> bytes:
    """Byte by byte, so that nothing after the line is taken; empty at the end of the connection.

    Raises: Garbled for a line without end.
    """
    line = bytearray()
    while len(line) < LONGEST_LINE:
        one = connection.recv(1)
        if not one:
            return b""
        if one == b"\n":
            return bytes(line)
        line += one
    raise Garbled(f"a line of more than {LONGEST_LINE} bytes")
