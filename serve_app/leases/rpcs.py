"""The names of modelops.proto, and what other parts of the product answer behind them."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from serve_app.leases.infer import Inference

SERVICE: Final = "modelops.ModelOps"
_ROOT: Final = Path(__file__).parents[2]
_PROTO: Final = "serve_app/leases/modelops.proto"


class Services:
    """`ModelOpsStub(channel)` and `add_ModelOpsServicer_to_server(servicer, server)`, as protoc would write them."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def ModelOpsStub(self, channel: Any) -> Any:  # noqa: N802  # as protoc names it
        """An object with one callable per RPC; `channel` may be synchronous or not."""
        return SimpleNamespace(**{method.name: self._call(channel, method) for method in self._service.methods})

    def add_ModelOpsServicer_to_server(self, servicer: Any, server: Any) -> None:  # noqa: N802  # as protoc names it
        import grpc

        handlers = {method.name: _handler(servicer, method) for method in self._service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self._service.full_name, handlers),))

    def _call(self, channel: Any, method: Any) -> Any:
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        return kind(
            f"/{self._service.full_name}/{method.name}",
            request_serializer=_class(method.input_type).SerializeToString,
            response_deserializer=_class(method.output_type).FromString,
        )


def _handler(servicer: Any, method: Any) -> Any:
    import grpc

    streaming, unary = grpc.unary_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
    make: Any = streaming if method.server_streaming else unary
    serializer = _class(method.output_type).SerializeToString
    return make(getattr(servicer, method.name), _class(method.input_type).FromString, serializer)


def _class(descriptor: Any) -> Any:
    from google.protobuf import message_factory  # type: ignore[import-untyped]  # ships no types

    return message_factory.GetMessageClass(descriptor)


@functools.cache
def messages_and_services() -> tuple[Any, Services]:
    """Message classes by name, and `Services`; compiled from the .proto file on the first call, some 200 ms.

    In a process of its own: protoc's library and OR-Tools abort one they share (grpcio-tools 1.81, OR-Tools 9.15), so
    `grpc.protos_and_services` cannot be used here. Raises: CalledProcessError if the .proto file is wrong.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_ROOT}", f"--descriptor_set_out={out}", _PROTO]
        subprocess.run(command, check=True)  # noqa: S603  # our own compiler and file
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.Default()  # where reflection looks
    file = pool.AddSerializedFile(files.file[0].SerializeToString())
    messages = {name: _class(message) for name, message in file.message_types_by_name.items()}
    return SimpleNamespace(**messages), Services(file.services_by_name["ModelOps"])


class RpcError(Exception):
    """What a handler raises to refuse: `code` is the name of a gRPC status, such as NOT_FOUND.

    `reason` is a finer word, as OpenAI's `code`; `field` the one at fault; `retry_after_ms` None: waiting helps not.
    """

    def __init__(
        self,
        *,
        code: str,
        message: str,
        reason: str | None = None,
        field: str | None = None,
        retry_after_ms: int | None = None,
        trace_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or code.lower()
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.trace_id = trace_id


Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""From the fields of the request message to those of the answer. Raises: RpcError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """RPCs that belong to other parts, by name: LoadModel, UnloadModel, SubmitJob; GetHealth is optional.

    `inference` answers Infer and InferStream.
    """

    by_rpc: dict[str, Handler] = field(default_factory=dict)
    inference: Inference | None = None

    def of(self, rpc: str) -> Handler:
        """Raises: RpcError while nobody has given one."""
        handler = self.by_rpc.get(rpc)
        if handler is None:
            raise _not_served(rpc)
        return handler

    def infer(self) -> Inference:
        """Raises: RpcError while nobody has given one."""
        if self.inference is None:
            raise _not_served("Infer")
        return self.inference


def _not_served(rpc: str) -> RpcError:
    message = f"{rpc} is not served here: this server was started for leases alone. Ask a running cluster."
    return RpcError(code="UNIMPLEMENTED", message=message)
