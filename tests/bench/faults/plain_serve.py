"""The base: a model on plain Ray Serve, as its documentation shows one. `serve run` imports `build`.

Serve's defaults but for `max_ongoing_requests`, which is what the engine takes at a time: with Serve's 5 the base would
look worse than it is. The engine is vLLM by the very class that Headroom uses, or scripted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from ray import serve

from placement.inventory import DeviceKind
from serve_app.engines.environment import engine_environment
from serve_app.engines.protocol import Endpoint, EngineLaunch, Stream, Unary
from serve_app.engines.scripted_answers import unary_answer
from serve_app.engines.spec import EngineArguments

api = FastAPI()


class Answering(Protocol):
    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream: ...

    def alive(self) -> bool: ...


class Scripted:
    """Answers after a fixed time, in words; with `is_bad` every answer is a 500."""

    def __init__(self, *, answer_s: float, num_words: int, is_bad: bool) -> None:
        self._answer_s = answer_s
        self._words = [f"word{number} " for number in range(num_words)]
        self._is_bad = is_bad

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        if self._is_bad:
            return Unary(500, b'{"error":{"message":"Scripted refusal."}}')
        await asyncio.sleep(self._answer_s)
        return Unary(200, orjson.dumps(unary_answer(endpoint, "mini", orjson.loads(body), self._words)))

    def alive(self) -> bool:
        return True


class Plain:
    """One replica: an engine behind OpenAI's chat route."""

    async def __init__(self, engine: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        self._engine = scripted(engine) if engine["kind"] == "scripted" else await vllm(engine)

    @api.get("/replica")
    async def replica(self) -> int:
        """Which process answers: so a caller learns how many replicas serve."""
        return os.getpid()

    @api.post(Endpoint.CHAT.value)
    async def chat(self, request: Request) -> Response:
        answer = await self._engine.answer(Endpoint.CHAT, await request.body(), {})
        if isinstance(answer, Unary):
            return Response(answer.body, answer.status, media_type="application/json")
        return StreamingResponse(answer.chunks, media_type="text/event-stream")

    def check_health(self) -> None:
        """As in `ray.serve.llm`: Serve replaces a replica that fails this three times."""
        if not self._engine.alive():
            raise RuntimeError("the engine is dead")


def scripted(engine: Mapping[str, Any]) -> Answering:
    """Of the replicas with one `first_is_bad` file, the one that makes it is bad."""
    is_bad = False
    if engine.get("first_is_bad"):
        try:
            Path(engine["first_is_bad"]).touch(exist_ok=False)
            is_bad = True
        except FileExistsError:
            pass
    return Scripted(answer_s=engine["answer_s"], num_words=engine["num_words"], is_bad=is_bad)


async def vllm(engine: Mapping[str, Any]) -> Answering:
    launch = EngineLaunch(
        model="mini",
        checkpoint=Path(engine["checkpoint"]),
        arguments=EngineArguments(
            dtype=engine["dtype"],
            max_model_len=engine["max_model_len"],
            max_num_seqs=engine["max_num_seqs"],
            tensor_parallel=1,
        ),
        kv_cache_bytes=engine["kv_cache_bytes"],
        device_kind=DeviceKind.HOST,
    )
    os.environ.update(engine_environment(launch))
    from serve_app.engines.vllm_engine import VllmEngine

    class AsVllmSaysIt(VllmEngine):
        """Without what Headroom's engine does to a stream whose engine has died."""

        async def _encoded(self, chunks: AsyncIterator[str]) -> AsyncIterator[bytes]:
            async for chunk in chunks:
                yield chunk.encode()

    made = AsVllmSaysIt(launch)
    await made.start()
    await made.warm_up()
    return made


def build(args: Mapping[str, Any]) -> serve.Application:
    deployment = serve.deployment(serve.ingress(api)(Plain)).options(
        name="plain",
        num_replicas=args["num_replicas"],
        max_ongoing_requests=args["num_seqs"],
        ray_actor_options={"num_cpus": 0},  # two cores are few
    )
    return deployment.bind(args["engine"])
