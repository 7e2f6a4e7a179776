"""One real vLLM on the CPU behind a replica's own HTTP face, without Ray; a program of its own.

Prints its address once it can answer; the weights are proved by then.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from placement.inventory import DeviceKind
from serve_app.engines.asgi import EngineServer
from serve_app.engines.environment import engine_environment
from serve_app.engines.protocol import EngineLaunch
from serve_app.engines.spec import EngineArguments
from serve_app.engines.weights_switch import WeightsSwitch
from serve_app.http_server import HttpServer


async def serve(checkpoint: Path, version: str, secret: str, *, model: str, dtype: str) -> None:
    arguments = EngineArguments(dtype=dtype, max_model_len=256, max_num_seqs=8, tensor_parallel=1, tool_parser="hermes")
    launch = EngineLaunch(
        model=model,
        checkpoint=checkpoint,
        arguments=arguments,
        kv_cache_bytes=32 << 20,
        device_kind=DeviceKind.HOST,
    )
    os.environ.update(engine_environment(launch))
    from serve_app.engines.vllm_engine import VllmEngine

    engine = VllmEngine(launch)
    await engine.start()
    await engine.warm_up()
    switch = WeightsSwitch(engine, model=model, path=checkpoint, version=version)
    await switch.prove(None)
    server = HttpServer(EngineServer(engine, secret=secret, switch=switch))
    await server.start(host="127.0.0.1")
    sys.stdout.write(f"serving {server.url}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # until the parent closes it, or is gone
    await server.stop()
    await engine.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    asyncio.run(serve(given.checkpoint, given.version, given.secret, model=given.model, dtype=given.dtype))
