"""`modelops.ModelOps` on an own `grpc.aio` server: reflection, health service, TLS, keys, limits.

Ray Serve's gRPC proxy is not used: it binds all interfaces and knows neither TLS nor interceptors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # ships no types

from placement.lease import DEFAULT_TTL_S, MB, Hold, Lease, LeaseRefusal, LeaseRequest
from serve_app.errors import AlreadyRunning
from serve_app.leases.codes import CODES
from serve_app.leases.grpc_keys import KeyCheck, key_of, key_status, only
from serve_app.leases.infer_wire import InferRequest, Sender
from serve_app.leases.keyring import Asker, KeyRefused, Keyring, LoopbackOnly, check_listener
from serve_app.leases.rpcs import SERVICE, Handlers, RpcError, messages_and_services
from serve_app.leases.service import LeaseService
from serve_app.leases.wire import DEFAULT_PAGE, ListRequest, acquired, page, parsed, shown
from tracing.propagation import TRACEPARENT

GRPC_PORT: Final = 7212
MAX_MESSAGE_BYTES: Final = 4 << 20
MAX_METADATA_BYTES: Final = 16 << 10
MAX_CALLS: Final = 1024
MAX_CALL_S: Final = 600.0
"""For calls of other parts that come without a deadline of their own."""
GRACE_S: Final = 5.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM texts of the server's key and its certificate chain."""

    private_key: bytes = field(repr=False)
    certificate_chain: bytes


class ModelOps:
    """The RPCs. Named as in the .proto file, because gRPC finds them by name."""

    def __init__(self, service: LeaseService, handlers: Handlers, keyring: Keyring) -> None:
        self._service = service
        self._handlers = handlers
        self._keyring = keyring
        self._pb, _ = messages_and_services()

    async def AcquireGpuLease(self, asked: Any, context: Context) -> Any:  # noqa: N802
        asker = await self._asker("AcquireGpuLease", context)
        request = LeaseRequest(
            client=asked.client,
            model_name=asked.model_name,
            num_bytes=asked.vram_estimate_mb * MB,
            priority=asked.priority,
            ttl_s=asked.ttl_seconds if asked.HasField("ttl_seconds") else DEFAULT_TTL_S,
            key=asked.idempotency_key if asked.HasField("idempotency_key") else None,
            tenant=asker.tenant,
        )
        answer = await self._service.acquire(request)
        if isinstance(answer, LeaseRefusal):
            await _abort_unless_answer(answer, context)
        return self._pb.AcquireGpuLeaseAnswer(**acquired(answer, now_s=self._service.now_s()))

    async def RenewGpuLease(self, asked: Any, context: Context) -> Any:  # noqa: N802
        hold = _hold(asked, await self._asker("RenewGpuLease", context), acknowledges_notice=asked.acknowledges_notice)
        answer = await self._service.renew(hold)
        return self._lease(await _granted(answer, context))

    async def ReleaseGpuLease(self, asked: Any, context: Context) -> Any:  # noqa: N802
        hold = _hold(asked, await self._asker("ReleaseGpuLease", context))
        lease = await _granted(await self._service.release(hold), context)
        return self._pb.ReleaseGpuLeaseAnswer(released=True, lease_id=lease.lease_id)

    async def ListGpuLeases(self, asked: Any, context: Context) -> Any:  # noqa: N802
        asker = await self._asker("ListGpuLeases", context)
        fields = {
            "client": asked.client,
            "device": asked.device,
            "state": asked.state or None,
            "page_size": asked.page_size or DEFAULT_PAGE,
            "page_token": asked.page_token,
        }
        request = parsed(ListRequest, fields)
        if isinstance(request, str):
            return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request)
        found = page(await self._service.held(), request, asker, now_s=self._service.now_s())
        leases = [self._pb.GpuLease(**lease) for lease in found.pop("leases")]
        return self._pb.ListGpuLeasesAnswer(leases=leases, **found)

    async def WatchGpuLeases(self, asked: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802
        asker = await self._asker("WatchGpuLeases", context)
        with self._service.watching(asked.client or None, tenant=asker.within) as watcher:
            if watcher is None:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watchers. Try again later.")
            await context.send_initial_metadata(())  # the caller knows now that nothing is missed from here on
            async for told in watcher:
                await self._asker("WatchGpuLeases", context)  # a key may be revoked while its holder watches
                lease = self._lease(told.change.lease)
                yield self._pb.GpuLeaseEvent(kind=told.change.kind.value, lease=lease, num_lost=told.num_lost)

    async def GetHealth(self, asked: Any, context: Context) -> Any:  # noqa: N802
        told = {"status": "ok", "num_leases": self._service.num_held()}
        if "GetHealth" in self._handlers.by_rpc:
            told |= await self._handled("GetHealth", {}, context)
        return self._pb.GetHealthAnswer(**told)

    async def Infer(self, asked: Any, context: Context) -> Any:  # noqa: N802
        async with _refusals_as_status(context):
            answer = await self._handlers.infer().answer(_infer(asked), _sender(context), limit_s=_limit_s(context))
        return self._pb.InferAnswer(**answer)

    async def InferStream(self, asked: Any, context: Context) -> None:  # noqa: N802
        async def tell(chunk: dict[str, Any]) -> None:
            await context.write(self._pb.InferChunk(**chunk))

        async with _refusals_as_status(context):
            infer = self._handlers.infer()
            await infer.stream(_infer(asked), _sender(context), tell, limit_s=_limit_s(context))

    async def LoadModel(self, asked: Any, context: Context) -> Any:  # noqa: N802
        return self._pb.ModelAnswer(**await self._handled("LoadModel", {"model_name": asked.model_name}, context))

    async def UnloadModel(self, asked: Any, context: Context) -> Any:  # noqa: N802
        return self._pb.ModelAnswer(**await self._handled("UnloadModel", {"model_name": asked.model_name}, context))

    async def SubmitJob(self, asked: Any, context: Context) -> Any:  # noqa: N802
        return self._pb.SubmitJobAnswer(**await self._handled("SubmitJob", {"body": asked.body}, context))

    async def _handled(self, rpc: str, fields: dict[str, Any], context: Context) -> dict[str, Any]:
        limit_s = _limit_s(context)
        try:
            async with _refusals_as_status(context), asyncio.timeout(limit_s):
                return await self._handlers.of(rpc)(fields)
        except TimeoutError:
            return await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{rpc} took longer than {limit_s:.0f} s.")

    async def _asker(self, rpc: str, context: Context) -> Asker:
        """Asked here as well as before every RPC: whose leases these are must not be lost on the way."""
        asker = self._keyring.asker(key_of(context.invocation_metadata()), rpc=rpc)
        if isinstance(asker, KeyRefused):
            await context.abort(key_status(asker), asker.message)
        assert isinstance(asker, Asker), "abort raises"
        return asker

    def _lease(self, lease: Lease) -> Any:
        return self._pb.GpuLease(**shown(lease, now_s=self._service.now_s()))


def _hold(asked: Any, asker: Asker, *, acknowledges_notice: bool = False) -> Hold:
    return Hold(
        client=asked.client,
        lease_id=asked.lease_id,
        epoch=asked.epoch,
        acknowledges_notice=acknowledges_notice,
        tenant=asker.within,
    )


def _infer(asked: Any) -> InferRequest:
    """Raises: RpcError."""
    fields = {field.name: value for field, value in asked.ListFields()}
    fields["messages"] = [{"role": message.role, "content": message.content} for message in asked.messages]
    request = parsed(InferRequest, fields | {"stop": [*asked.stop]})
    if isinstance(request, str):
        raise RpcError(code="INVALID_ARGUMENT", message=request, reason="malformed")
    return request


def _sender(context: Context) -> Sender:
    metadata = context.invocation_metadata()
    return Sender(key=key_of(metadata), traceparent=only(metadata, TRACEPARENT))


def _limit_s(context: Context) -> float:
    return min(context.time_remaining() or MAX_CALL_S, MAX_CALL_S)  # None where the caller gave none


@contextlib.asynccontextmanager
async def _refusals_as_status(context: Context) -> AsyncIterator[None]:
    """A refusal's sentence as the details of a status, what programs read of it as trailing metadata."""
    try:
        yield
    except RpcError as error:
        told = {
            "headroom-error-code": error.reason,
            "headroom-error-field": error.field or "",
            "retry-after-ms": str(error.retry_after_ms or ""),
            "x-trace-id": error.trace_id,
        }
        metadata = tuple(
            (name, value) for name, value in told.items() if value and value.isascii() and value.isprintable()
        )
        await context.abort(grpc.StatusCode[error.code], error.message, metadata)


async def _granted(answer: Lease | LeaseRefusal, context: Context) -> Lease:
    if isinstance(answer, LeaseRefusal):
        await context.abort(CODES[answer.reason][0], answer.message)
    assert isinstance(answer, Lease), "abort raises"
    return answer


async def _abort_unless_answer(refusal: LeaseRefusal, context: Context) -> None:
    code = CODES[refusal.reason][0]
    if code is not grpc.StatusCode.OK:
        await context.abort(code, refusal.message)


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A server that listens. `port` is the one it got."""

    port: int
    _server: grpc.aio.Server
    _health: Any
    _service: LeaseService

    async def close(self) -> None:
        """Ends all watching, and lets calls end for a few seconds."""
        await self._health.enter_graceful_shutdown()
        self._service.end_watching()
        await self._server.stop(GRACE_S)


async def serve_grpc(
    service: LeaseService,
    *,
    host: str = "127.0.0.1",
    port: int = GRPC_PORT,
    handlers: Handlers | None = None,
    keyring: Keyring | None = None,
    tls: Tls | None = None,
) -> GrpcServer:
    """Raises: ListenerRefused where the keyring does not let it listen, AlreadyRunning where the port is taken."""
    keyring = keyring or LoopbackOnly()
    check_listener(keyring, host, encrypted=tls is not None)
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls
    ]
    server = grpc.aio.server(interceptors=[KeyCheck(keyring)], options=options, maximum_concurrent_rpcs=MAX_CALLS)
    _, services = messages_and_services()
    services.add_ModelOpsServicer_to_server(ModelOps(service, handlers or Handlers(), keyring), server)
    health_service = health.aio.HealthServicer()
    await health_service.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = _bound(server, f"{host}:{port}", tls)
    await server.start()
    return GrpcServer(bound, server, health_service, service)


def _bound(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    try:
        if tls is None:
            return server.add_insecure_port(address)
        pair = (tls.private_key, tls.certificate_chain)
        return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise AlreadyRunning(
            f"The lease server cannot listen on {address}.",
            expected="A free port of this machine.",
            advice="Look at what listens there with `ss -ltnp`, or name another port.",
        ) from error
