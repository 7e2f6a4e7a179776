"""vLLM as an engine: `AsyncLLM` with vLLM's own OpenAI request, response and serving classes.

The only file that imports vLLM. Import it after `engine_environment` has been applied.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
import psutil
from pydantic import ValidationError
from starlette.datastructures import State
from starlette.requests import Request
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from placement.inventory import DeviceKind
from placement.units import GIB
from serve_app.engines.protocol import Endpoint, EngineLaunch, Reloaded, ReloadFailed, ReloadNotBegun, Stream, Unary
from serve_app.fleet.measurements import HeldBytes
from tracing.vllm_spans import spare_statistics, use_process_provider

_EXIT_WAIT_S = 10.0


def engine_arguments(launch: EngineLaunch) -> list[str]:
    """Command line that `vllm serve` would take for the same engine.

    `--gpu-memory-utilization` only has to be below what is free: with the KV bytes pinned it sizes nothing.
    Source: vLLM 0.32 `config/cache.py`.
    """
    own = launch.arguments
    arguments = {
        "--model": str(launch.checkpoint),
        "--served-model-name": launch.model,
        "--dtype": own.dtype,
        "--max-model-len": str(own.max_model_len),
        "--max-num-seqs": str(own.max_num_seqs),
        "--kv-cache-memory-bytes": str(launch.kv_cache_bytes),
        "--tensor-parallel-size": str(own.tensor_parallel),
        "--gpu-memory-utilization": "0.01",
        "--load-format": "safetensors",
        "--worker-extension-cls": "serve_app.engines.worker_extension.WorkerExtension",
        **launch.trace_arguments,
    }
    if own.offload_bytes:
        arguments["--cpu-offload-gb"] = f"{own.offload_bytes / GIB:.6f}"
    if own.reasoning_parser is not None:
        arguments["--reasoning-parser"] = own.reasoning_parser
    if own.tool_parser is not None:
        arguments["--tool-call-parser"] = own.tool_parser
    # vLLM makes its request spans from these statistics; nothing else of ours reads them.
    flags = [] if launch.trace_arguments else ["--disable-log-stats"]
    if own.tool_parser is not None:
        flags.append("--enable-auto-tool-choice")
    if launch.device_kind is not DeviceKind.CUDA:
        flags.append("--enforce-eager")  # without it the CPU build wants a C++ compiler
    return [item for pair in arguments.items() for item in pair] + flags


_ENGINE_DEAD = Unary(
    HTTPStatus.SERVICE_UNAVAILABLE,
    orjson.dumps(
        {
            "error": {
                "message": "The engine died during this request.",
                "type": "engine_dead",
                "param": None,
                "code": 503,
            }
        }
    ),
)


class VllmEngine:
    """One vLLM engine: front end in this process, engine core in a child process."""

    def __init__(self, launch: EngineLaunch) -> None:
        self._launch = launch
        self._state = State()
        self._llm: AsyncLLM | None = None

    async def start(self) -> None:
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(engine_arguments(self._launch))
        use_process_provider(os.environ)
        llm = await asyncio.to_thread(AsyncLLM.from_engine_args, AsyncEngineArgs.from_cli_args(args))
        spare_statistics(llm)
        self._llm = llm
        if self._launch.device_kind is not DeviceKind.CUDA:
            await llm.collective_rpc("commit_kv_cache")
        tasks = await llm.get_supported_tasks()
        await init_app_state(llm, self._state, args, tasks)

    async def held_bytes(self) -> HeldBytes | None:
        """Of the rank that holds most."""
        if self._llm is None:
            return None
        ranks = await self._llm.collective_rpc("held_bytes")
        weights, kv_cache = max(ranks, key=lambda rank: (rank[0] or 0) + rank[1])
        return HeldBytes(weights_bytes=weights, kv_cache_bytes=kv_cache)

    async def warm_up(self) -> None:
        """Unary and streamed, alone and together, so that every code path has run once."""
        chat = {"model": self._launch.model, "messages": [{"role": "user", "content": "1+1"}], "max_tokens": 8}
        await self._drain(chat)
        await self._drain({**chat, "stream": True})
        await asyncio.gather(*(self._drain(chat) for _ in range(min(8, self._launch.arguments.max_num_seqs))))
        for _ in range(3):
            await self._drain(chat)

    async def _drain(self, body: Mapping[str, Any]) -> None:
        answer = await self.answer(Endpoint.CHAT, orjson.dumps(body), {})
        if isinstance(answer, Unary):
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(f"warm-up of {self._launch.model!r} failed: {answer.body.decode(errors='replace')}")
            return
        async for _ in answer.chunks:
            pass

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        raw_request = _starlette_request(endpoint, headers)
        try:
            if endpoint is Endpoint.CHAT:
                chat = ChatCompletionRequest.model_validate_json(body)
                result = await self._state.openai_serving_chat.create_chat_completion(chat, raw_request)
            else:
                completion = CompletionRequest.model_validate_json(body)
                result = await self._state.openai_serving_completion.create_completion(completion, raw_request)
        except ValidationError as error:
            return _unary(create_error_response(_first_problem(error), param=_first_location(error)))
        except Exception as error:  # noqa: BLE001 - vLLM maps each of its exceptions to a status itself
            return _unary(create_error_response(error)) if self.alive() else _ENGINE_DEAD
        if isinstance(result, ErrorResponse):
            return _unary(result) if self.alive() else _ENGINE_DEAD
        if hasattr(result, "model_dump_json"):
            return Unary(HTTPStatus.OK, result.model_dump_json().encode())
        return Stream(self._encoded(result))

    async def _encoded(self, chunks: AsyncIterator[str]) -> AsyncIterator[bytes]:
        """vLLM ends a stream well even when its engine died; ours breaks off, and the gateway says what happened."""
        async for chunk in chunks:
            if not self.alive():
                return
            yield chunk.encode()

    async def reload(self, checkpoint: Path, *, drain_s: float) -> Reloaded:
        """Never with vLLM's `mode="keep"`: it finishes running answers with the new weights."""
        if self._llm is None:
            raise ReloadFailed("The engine is not running.")
        began_s = time.monotonic()
        await self._pause(self._llm, drain_s)
        paused_s = time.monotonic()
        try:
            await self._llm.collective_rpc("reload_checkpoint", args=(str(checkpoint),))
            await self._llm.reset_prefix_cache()
            reloaded_s = time.monotonic()
            await self._llm.resume_generation()
        except Exception as error:
            raise ReloadFailed(f"The engine could not read {checkpoint}: {error}") from error
        return Reloaded(
            pause_s=paused_s - began_s, reload_s=reloaded_s - paused_s, resume_s=time.monotonic() - reloaded_s
        )

    async def _pause(self, llm: AsyncLLM, drain_s: float) -> None:
        try:
            async with asyncio.timeout(drain_s):
                await llm.pause_generation(mode="wait")
        except TimeoutError as error:
            await llm.resume_generation()
            raise ReloadNotBegun(f"Requests still ran after {drain_s:g} s.") from error

    def alive(self) -> bool:
        return self._llm is not None and not self._llm.errored

    def process_ids(self) -> tuple[int, ...]:
        own = psutil.Process()
        return (own.pid, *(child.pid for child in own.children(recursive=True)))

    async def stop(self) -> None:
        """Abort what runs, end the engine core, and wait until its processes are gone."""
        children = psutil.Process().children(recursive=True)
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None
        await asyncio.to_thread(_end_processes, children)


def _end_processes(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=_EXIT_WAIT_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_EXIT_WAIT_S)


def _starlette_request(endpoint: Endpoint, headers: Mapping[str, str]) -> Request:
    raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": endpoint.value, "headers": raw_headers})


def _unary(response: ErrorResponse) -> Unary:
    return Unary(response.error.code, orjson.dumps(response.model_dump()))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: {problem['msg']}"


def _first_location(error: ValidationError) -> str | None:
    location = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
    return str(location[0]) if location else None
