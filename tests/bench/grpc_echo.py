"""The least a `grpc.aio` server can do: it gives back the bytes it got. `python -m tests.bench.grpc_echo --port P`."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Final

import grpc

METHOD: Final = "/bench.Echo/Echo"


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(_echo) if handler_call_details.method == METHOD else None


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def serve(port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
