"""Keys in the controller: kept in its store, shown to all gateways with the routing table, asked by the lease servers.

Make one with the store's connection and `changed=publisher.show_access`; call `changed` once with `snapshot()` at the
start too. `answer` answers `/admin/keys` and below. `keyring` and `tls()` are for `serve_grpc` and `serve_zeromq`.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable

from serve_app.access.keys import KeySnapshot
from serve_app.access.lease_keys import LeaseKeys
from serve_app.access.listening import HttpListener, http_refusal
from serve_app.access.rest import answer_keys
from serve_app.access.store import KeyStore
from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.config.settings import AccessSettings
from serve_app.errors import HeadroomError
from serve_app.leases.grpc_server import Tls


class AccessDesk:
    """`changed` takes every new snapshot at once, so that a revoked key is refused everywhere. `now_s` is Unix time."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        settings: AccessSettings,
        has_ray_token: bool,
        changed: Callable[[KeySnapshot], None],
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = KeyStore(connection, randomness=randomness)
        self._settings = settings
        self._changed = changed
        self._now_s = now_s
        self._has_ray_token = has_ray_token
        self.keyring = LeaseKeys(snapshot=self._store.snapshot, now_s=now_s, has_ray_token=has_ray_token)

    def snapshot(self) -> KeySnapshot:
        return self._store.snapshot()

    def answer(self, asked: ControlAsked) -> ControlAnswer:
        before = self._store.snapshot().version
        answer = answer_keys(self._store, asked, now_s=self._now_s())
        if self._store.snapshot().version != before:
            self._changed(self._store.snapshot())
        return answer

    def check_http(self, listener: HttpListener) -> None:
        """Raises: HeadroomError where HTTP is open to others without keys, or not encrypted as was asked for."""
        has_keys = self._store.snapshot().is_closed
        refusal = http_refusal(listener, self._settings, has_keys=has_keys, has_ray_token=self._has_ray_token)
        if refusal is not None:
            raise HeadroomError(f"Not served: {refusal}")

    def tls(self) -> Tls | None:
        """Of the lease servers; None where the configuration names no certificate.

        Raises: HeadroomError where a file cannot be read. Nothing falls back to listening unencrypted.
        """
        files = self._settings.tls
        if files is None:
            return None
        try:
            return Tls(private_key=files.key.read_bytes(), certificate_chain=files.certificate.read_bytes())
        except OSError as error:
            raise HeadroomError(
                f"The certificate for gRPC cannot be read: {error.strerror} ({error.filename}). "
                "Mend `access.certificate_file` and `access.key_file`, or leave out both."
            ) from error
