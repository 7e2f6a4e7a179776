"""Who may call, and where a server may listen. Until there are keys: anybody on this machine, nobody else."""

from __future__ import annotations

import ipaddress
from typing import Protocol

from serve_app.errors import HeadroomError


class Keyring(Protocol):
    """Asked once per listener and once per call, by all transports."""

    def may_listen(self, host: str, *, encrypted: bool) -> str | None:
        """None, or a sentence about why nothing may listen there."""
        ...

    def refusal(self, key: str | None, *, rpc: str) -> str | None:
        """None, or a sentence about why this key (None: no key was sent) may not call this RPC."""
        ...


class LoopbackOnly:
    """No keys: whoever can reach loopback may call, and there is no other way in."""

    def may_listen(self, host: str, *, encrypted: bool) -> str | None:
        if is_loopback(host):
            return None
        return f"'{host}' can be reached from outside, and there are no keys. Expected a loopback address: 127.0.0.1."

    def refusal(self, key: str | None, *, rpc: str) -> str | None:
        return None


class ListenerRefused(HeadroomError):
    """A server was told to listen where its keyring does not let it."""


def check_listener(keyring: Keyring, host: str, *, encrypted: bool) -> None:
    """Raises: ListenerRefused."""
    reason = keyring.may_listen(host, encrypted=encrypted)
    if reason is not None:
        raise ListenerRefused(f"The lease server does not start: {reason}")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
