"""The keys as `serve_app.leases` asks for them: one keyring for gRPC and ZeroMQ."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.access.authorize import MAX_HEADER_BYTES, NOT_KNOWN, may_listen, satisfies
from serve_app.access.keys import KeySnapshot, Role
from serve_app.access.needs import RPC_NEEDS, Anyone


class LeaseKeys:
    """A `Keyring`. `snapshot` gives the newest keys, `now_s` Unix time."""

    def __init__(self, *, snapshot: Callable[[], KeySnapshot], now_s: Callable[[], float], has_ray_token: bool) -> None:
        self._snapshot = snapshot
        self._now_s = now_s
        self._has_ray_token = has_ray_token

    def may_listen(self, host: str, *, encrypted: bool) -> str | None:
        has_keys = self._snapshot().is_closed
        return may_listen(host, has_keys=has_keys, has_ray_token=self._has_ray_token, is_encrypted=encrypted)

    def refusal(self, key: str | None, *, rpc: str) -> str | None:
        snapshot = self._snapshot()
        need = RPC_NEEDS.get(rpc, Role.ADMIN)
        if not snapshot.is_closed or need is Anyone.OPEN:
            return None
        sent = (key or "").encode()
        record = snapshot.holder(sent, now_s=self._now_s()) if len(sent) <= MAX_HEADER_BYTES else None
        if record is None:
            return NOT_KNOWN.message
        return None if satisfies(record.grant, need) else f"This needs a key of the role '{need}'."
