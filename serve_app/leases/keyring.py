"""Who may call, and where a server may listen. Until there are keys: anybody on this machine, nobody else."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Protocol

from placement.lease import LOCAL_TENANT
from serve_app.errors import HeadroomError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who calls. What it acquires is its `tenant`'s; it may see and touch what is of `within`, of all where None."""

    tenant: str
    within: str | None


ANYBODY: Final = Asker(tenant=LOCAL_TENANT, within=None)
"""While there are no keys: all who ask are one tenant, and nothing is hidden from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRefused:
    """`is_valid`: the key is one, but not for this."""

    message: str
    is_valid: bool = False


class Keyring(Protocol):
    """Asked once per listener and once per call, by all transports."""

    def may_listen(self, host: str, *, encrypted: bool) -> str | None:
        """None, or a sentence about why nothing may listen there."""
        ...

    def asker(self, key: str | None, *, rpc: str) -> Asker | KeyRefused:
        """Who calls this RPC with this key (None: no key was sent), or why it may not."""
        ...


class LoopbackOnly:
    """No keys: whoever can reach loopback may call, and there is no other way in."""

    def may_listen(self, host: str, *, encrypted: bool) -> str | None:
        if is_loopback(host):
            return None
        return f"'{host}' can be reached from outside, and there are no keys. Expected a loopback address: 127.0.0.1."

    def asker(self, key: str | None, *, rpc: str) -> Asker | KeyRefused:
        return ANYBODY


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
