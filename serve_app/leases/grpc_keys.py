"""Keys on gRPC: where one stands in a call's metadata, asked of the keyring before anything is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc

from serve_app.leases.keyring import KeyRefused, Keyring

_KEY_HEADER: Final = "authorization"
Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]


class KeyCheck(grpc.aio.ServerInterceptor):
    """Asks the keyring before any RPC, those of reflection and health included."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        asker = self._keyring.asker(
            key_of(handler_call_details.invocation_metadata), rpc=handler_call_details.method.rsplit("/", 1)[-1]
        )
        return _refusing(handler, asker) if isinstance(asker, KeyRefused) and handler is not None else handler


def key_of(metadata: Metadata | None) -> str | None:
    key = only(metadata, _KEY_HEADER)
    return None if key is None else key.removeprefix("Bearer ")


def only(metadata: Metadata | None, name: str) -> str | None:
    """None where it was not sent, or twice."""
    values = [str(value) for sent, value in metadata or () if sent == name]
    return values[0] if len(values) == 1 else None


def key_status(refused: KeyRefused) -> grpc.StatusCode:
    return grpc.StatusCode.PERMISSION_DENIED if refused.is_valid else grpc.StatusCode.UNAUTHENTICATED


def _refusing(handler: Any, refused: KeyRefused) -> Any:
    """A handler of the same kind that only refuses."""

    async def refuse(_request: Any, context: Context) -> None:
        await context.abort(key_status(refused), refused.message)

    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = kinds[handler.request_streaming, handler.response_streaming]
    return make(refuse, handler.request_deserializer, handler.response_serializer)
