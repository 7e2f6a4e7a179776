"""The lease RPCs as JSON in and JSON out: what ZeroMQ and REST share. No transport, no status codes of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from placement.lease import Lease, LeaseRefusal
from serve_app.leases.codes import CODES
from serve_app.leases.keyring import Asker, KeyRefused
from serve_app.leases.rpcs import Handlers, RpcError
from serve_app.leases.service import LeaseService
from serve_app.leases.wire import AcquireRequest, HoldRequest, ListRequest, WireRequest, acquired, page, parsed, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class CallError:
    """A call that got no answer. `code` is a lease refusal's reason or an `RpcError`'s; `status` is the HTTP status."""

    code: str
    message: str
    status: int
    field: str | None = None
    retry_after_ms: int | None = None
    trace_id: str = ""


JsonBody = bytes | dict[str, Any]


class LeaseCalls:
    """Each method takes one request as JSON, or as its fields, and who asks, and gives the fields of the answer."""

    def __init__(self, service: LeaseService, handlers: Handlers | None = None) -> None:
        self._service = service
        self.handlers = handlers or Handlers()
        self.by_rpc: dict[str, Callable[[JsonBody, Asker], Awaitable[dict[str, Any] | CallError]]] = {
            "AcquireGpuLease": self.acquire,
            "RenewGpuLease": self.renew,
            "ReleaseGpuLease": self.release,
            "ListGpuLeases": self.list,
            "GetHealth": self.health,
        }

    async def acquire(self, body: JsonBody, asker: Asker) -> dict[str, Any] | CallError:
        request = parsed(AcquireRequest, body)
        if isinstance(request, str):
            return malformed(request)
        answer = await self._service.acquire(request.inside(asker))
        if isinstance(answer, LeaseRefusal):
            return error_of(answer)
        return acquired(answer, now_s=self._service.now_s())

    async def renew(self, body: JsonBody, asker: Asker) -> dict[str, Any] | CallError:
        request = parsed(HoldRequest, body)
        if isinstance(request, str):
            return malformed(request)
        return self._shown(await self._service.renew(request.inside(asker)))

    async def release(self, body: JsonBody, asker: Asker) -> dict[str, Any] | CallError:
        request = parsed(HoldRequest, body)
        if isinstance(request, str):
            return malformed(request)
        answer = await self._service.release(request.inside(asker))
        return error_of(answer) if isinstance(answer, LeaseRefusal) else {"released": True, "lease_id": answer.lease_id}

    async def list(self, body: JsonBody, asker: Asker) -> dict[str, Any] | CallError:
        request = parsed(ListRequest, body)
        if isinstance(request, str):
            return malformed(request)
        return page(await self._service.held(), request, asker, now_s=self._service.now_s())

    async def health(self, body: JsonBody, asker: Asker) -> dict[str, Any] | CallError:
        request = parsed(WireRequest, body)
        if isinstance(request, str):
            return malformed(request)
        told = {"status": "ok", "reason": "", "num_leases": self._service.num_held()}
        given = self.handlers.by_rpc.get("GetHealth")
        return told | (await given({}) if given is not None else {})

    def _shown(self, answer: Lease | LeaseRefusal) -> dict[str, Any] | CallError:
        return error_of(answer) if isinstance(answer, LeaseRefusal) else shown(answer, now_s=self._service.now_s())


def malformed(message: str) -> CallError:
    return CallError(code="malformed", message=message, status=400)


def key_error(refused: KeyRefused) -> CallError:
    code, status = ("role_missing", 403) if refused.is_valid else ("invalid_api_key", 401)
    return CallError(code=code, message=refused.message, status=status)


def rpc_error(error: RpcError) -> CallError:
    """`status` says only that another part of the product refused."""
    return CallError(
        code=error.reason,
        message=error.message,
        status=501,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        trace_id=error.trace_id,
    )


def error_of(refusal: LeaseRefusal) -> CallError:
    return CallError(
        code=refusal.reason.value,
        message=refusal.message,
        status=CODES[refusal.reason][1],
        field=refusal.field,
        retry_after_ms=refusal.retry_after_ms,
    )
