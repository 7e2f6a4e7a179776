"""The routing table: kept by the controller, long-polled by the gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from serve_app.access.keys import NO_KEYS, KeySnapshot
from serve_app.gateway.routing_table import Backend, Canary, Offer, Peer, RoutingTable

_PEER_SILENT_S = 15.0


class Publisher:
    """One version for backends and peers together; every change wakes all who wait.

    `first_version` must differ between controllers, so that a gateway is told of a new one's table.
    """

    def __init__(self, *, secret: str, first_version: int) -> None:
        self.secret = secret
        self._version = first_version
        self._backends: tuple[Backend, ...] = ()
        self._refusals: tuple[tuple[str, str], ...] = ()
        self._wakeable: tuple[str, ...] = ()
        self._access = NO_KEYS
        self._canaries: tuple[Canary, ...] = ()
        self._offer: Offer | None = None
        self._peers: dict[str, Peer] = {}
        self._seen_s: dict[str, float] = {}
        self._changed = asyncio.Event()

    def table(self) -> RoutingTable:
        return RoutingTable(
            version=self._version,
            backends=self._backends,
            peers=tuple(self._peers[name] for name in sorted(self._peers)),
            internal_secret=self.secret,
            refusals=self._refusals,
            wakeable=self._wakeable,
            canaries=self._canaries,
            access=self._access,
            offer=self._offer,
        )

    def gateway_urls(self) -> tuple[str, ...]:
        """Where the gateways that live now are asked by their peers, and by us."""
        return tuple(self._peers[name].url for name in sorted(self._peers))

    def show_access(self, access: KeySnapshot) -> None:
        """Keys of now; gateways refuse what was revoked with the next table."""
        if access != self._access:
            self._access = access
            self._bump()

    def show(
        self,
        backends: Sequence[Backend],
        refusals: Mapping[str, str],
        offer: Offer | None = None,
        *,
        wakeable: tuple[str, ...] = (),
        canaries: tuple[Canary, ...] = (),
    ) -> None:
        """What serves, why the rest does not, which of it a request may bring, and what may be asked for."""
        ordered = tuple(sorted(backends, key=lambda backend: backend.replica))
        shown = ordered, tuple(sorted(refusals.items())), offer, wakeable, canaries
        if shown != (self._backends, self._refusals, self._offer, self._wakeable, self._canaries):
            self._backends, self._refusals, self._offer, self._wakeable, self._canaries = shown
            self._bump()

    def add_peer(self, peer: Peer, *, now_s: float) -> None:
        self._seen_s[peer.replica] = now_s
        if self._peers.get(peer.replica) != peer:
            self._peers[peer.replica] = peer
            self._bump()

    def drop_silent_peers(self, *, now_s: float) -> bool:
        """Forget gateways that have not registered again in time; True when there were any."""
        silent = [name for name, seen_s in self._seen_s.items() if now_s - seen_s > _PEER_SILENT_S]
        for name in silent:
            del self._seen_s[name]
            del self._peers[name]
        if silent:
            self._bump()
        return bool(silent)

    async def newer(self, known_version: int, *, timeout_s: float) -> RoutingTable | None:
        if known_version == self._version:
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), timeout=timeout_s)
            except TimeoutError:
                return None
        return self.table()

    def _bump(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()
