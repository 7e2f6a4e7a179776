"""A lease server asked over gRPC from a program that is not asynchronous: the `headroom lease` commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from serve_app.errors import HeadroomError, NotRunning
from serve_app.leases.clock import SystemClock
from serve_app.leases.rpcs import messages_and_services
from serve_app.leases.tenancy import Terms

CALL_S = 5.0
_SILENCE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class LeaseLost(HeadroomError):
    """The server knows the lease no more, or not as ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A granted lease. `asked_s` is when it was asked for, on the clock that `Terms` are counted on."""

    client: str
    lease_id: str
    epoch: int
    device: str
    node: str
    vram_mb: int
    terms: Terms
    asked_s: float
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotGranted:
    reason: str
    message: str
    retry_after_ms: int


class LeaseClient:
    """Open until `close`. Calls raise NotRunning when nothing answers, LeaseLost, HeadroomError for other refusals."""

    def __init__(self, server: str, *, key: str | None = None, trusted: bytes | None = None) -> None:
        """`trusted`: PEM text of the certificates that the server's is checked against; None: it speaks no TLS."""
        self._server = server
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._pb, services = messages_and_services()
        encrypted = grpc.ssl_channel_credentials(trusted) if trusted is not None else None
        self._channel = grpc.secure_channel(server, encrypted) if encrypted else grpc.insecure_channel(server)
        self._stub = services.ModelOpsStub(self._channel)
        self._clock = SystemClock()

    def close(self) -> None:
        self._channel.close()

    def acquire(
        self, *, client: str, model_name: str, vram_mb: int, priority: int, ttl_s: float, key: str | None = None
    ) -> Grant | NotGranted:
        asked_s = self._clock.now_s()
        request = self._pb.AcquireGpuLeaseRequest(
            client=client,
            model_name=model_name,
            vram_estimate_mb=vram_mb,
            priority=priority,
            ttl_seconds=ttl_s,
            idempotency_key=key,
        )
        told = self._call(self._stub.AcquireGpuLease, request)
        if not told.granted:
            return NotGranted(reason=told.reason, message=told.message, retry_after_ms=told.retry_after_ms)
        return Grant(
            client=client,
            lease_id=told.lease_id,
            epoch=told.epoch,
            device=told.device,
            node=told.node,
            vram_mb=told.vram_reserved_mb,
            terms=Terms(expires_in_s=told.expires_in_ms / 1000),
            asked_s=asked_s,
            fields=_fields(told),
        )

    def renew(
        self, *, client: str, lease_id: str, epoch: int, acknowledges_notice: bool = False, timeout_s: float = CALL_S
    ) -> dict[str, Any]:
        request = self._pb.RenewGpuLeaseRequest(
            client=client, lease_id=lease_id, epoch=epoch, acknowledges_notice=acknowledges_notice
        )
        return _fields(self._call(self._stub.RenewGpuLease, request, timeout_s=timeout_s))

    def release(self, *, client: str, lease_id: str, epoch: int) -> None:
        request = self._pb.ReleaseGpuLeaseRequest(client=client, lease_id=lease_id, epoch=epoch)
        self._call(self._stub.ReleaseGpuLease, request)

    def leases(self, *, client: str = "", device: str = "", state: str = "") -> Iterator[dict[str, Any]]:
        """All that pass the filter, page after page."""
        token = ""
        while True:
            request = self._pb.ListGpuLeasesRequest(
                client=client, device=device, state=state, page_size=1000, page_token=token
            )
            told = self._call(self._stub.ListGpuLeases, request)
            yield from (_fields(lease) for lease in told.leases)
            token = told.next_page_token
            if not token:
                return

    def events(self, client: str) -> Any:
        """A stream of events; iterating raises grpc.RpcError when it breaks, `cancel()` ends it."""
        return self._stub.WatchGpuLeases(self._pb.WatchGpuLeasesRequest(client=client), metadata=self._metadata)

    def _call(self, method: Any, request: Any, *, timeout_s: float = CALL_S) -> Any:
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._told(error) from error

    def _told(self, error: Any) -> HeadroomError:
        code = error.code()
        if code in _SILENCE:
            return NotRunning(
                f"No lease server answers at {self._server} ({code.name}).",
                expected="A running cluster.",
                advice="Start one with `headroom up`, or name another with --server.",
            )
        gone = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION)
        return (LeaseLost if code in gone else HeadroomError)(str(error.details()))


def terms_of(fields: dict[str, Any]) -> Terms:
    """Of a lease as `renew` answers it."""
    in_ms = fields.get("deadline_in_ms")
    noticed = fields["state"] == "noticed" and in_ms is not None
    return Terms(
        expires_in_s=fields["expires_in_ms"] / 1000,
        deadline_in_s=in_ms / 1000 if noticed and in_ms is not None else None,
        reason=fields["reason"],
    )


def _fields(message: Any) -> dict[str, Any]:
    """All fields of a message with their values, optional ones only where they are set."""
    return {
        field.name: getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }
