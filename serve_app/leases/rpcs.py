"""The names of modelops.proto, and what other parts of the product answer behind them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

SERVICE: Final = "modelops.ModelOps"
_PROTO: Final = "serve_app/leases/modelops.proto"


def messages_and_services() -> tuple[ModuleType, ModuleType]:
    """Compiled from the .proto file when first called, 50 ms; no generated code is kept."""
    import grpc

    compiled: tuple[ModuleType, ModuleType] = grpc.protos_and_services(_PROTO)
    return compiled


class RpcError(Exception):
    """What a handler raises to refuse: `code` is the name of a gRPC status, such as NOT_FOUND."""

    def __init__(self, *, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""From the fields of the request message to those of the answer. Raises: RpcError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """RPCs that belong to other parts, by name: Infer, LoadModel, UnloadModel, SubmitJob; GetHealth is optional."""

    by_rpc: dict[str, Handler] = field(default_factory=dict)

    def of(self, rpc: str) -> Handler:
        """Raises: RpcError while nobody has given one."""
        handler = self.by_rpc.get(rpc)
        if handler is None:
            message = f"{rpc} is not served here: this server was started for leases alone. Ask a running cluster."
            raise RpcError(code="UNIMPLEMENTED", message=message)
        return handler
