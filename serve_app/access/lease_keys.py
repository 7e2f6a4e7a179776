"""The keys as `serve_app.leases` asks for them: one keyring for gRPC, ZeroMQ and, by the key's id, REST."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.access.authorize import MAX_HEADER_BYTES, NOT_KNOWN, caller_of, may_listen, satisfies
from serve_app.access.keys import KeyRecord, KeySnapshot, Role
from serve_app.access.needs import RPC_NEEDS, Anyone, Need
from serve_app.leases.keyring import ANYBODY, Asker, KeyRefused


class LeaseKeys:
    """A `Keyring`. `snapshot` gives the newest keys, `now_s` Unix time."""

    def __init__(self, *, snapshot: Callable[[], KeySnapshot], now_s: Callable[[], float], has_ray_token: bool) -> None:
        self._snapshot = snapshot
        self._now_s = now_s
        self._has_ray_token = has_ray_token

    def may_listen(self, host: str, *, encrypted: bool) -> str | None:
        has_keys = self._snapshot().is_closed
        return may_listen(host, has_keys=has_keys, has_ray_token=self._has_ray_token, is_encrypted=encrypted)

    def asker(self, key: str | None, *, rpc: str) -> Asker | KeyRefused:
        snapshot = self._snapshot()
        need = RPC_NEEDS.get(rpc, Role.ADMIN)
        if not snapshot.is_closed or need is Anyone.OPEN:
            return ANYBODY
        sent = (key or "").encode(errors="replace")
        record = snapshot.holder(sent, now_s=self._now_s()) if len(sent) <= MAX_HEADER_BYTES else None
        return _asker(record, need)

    def named(self, key_id: str, *, need: Need) -> Asker | KeyRefused:
        """The same for a key that a gateway has checked, by its id: it may have been revoked since.

        Empty while there are no keys. Once there are, a request without one is refused here as well.
        """
        snapshot = self._snapshot()
        return _asker(snapshot.named(key_id, now_s=self._now_s()), need) if snapshot.is_closed else ANYBODY


def _asker(record: KeyRecord | None, need: Need) -> Asker | KeyRefused:
    if record is None:
        return KeyRefused(message=NOT_KNOWN.message)
    if not satisfies(record.grant, need):
        return KeyRefused(message=f"This needs a key of the role '{need}'.", is_valid=True)
    return Asker(tenant=caller_of(record).tenant, within=record.grant.tenant)
