"""Asks a running cluster over HTTP and times it. Every call has a deadline; decides nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from serve_app.errors import BadAnswer
from serve_app.validate.service import Reply
from tracing.propagation import format_traceparent, new_span_id, new_trace_id

CHAT: Final = "/v1/chat/completions"
_TIMEOUT_S: Final = 20.0
_LOOK_AGAIN_S: Final = 0.2
_MAX_BODY_BYTES: Final = 32 << 20

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Asker:
    """`nonce` makes the prompts of this run unlike all others, so that none of its first answers is a stored one."""

    http: httpx.AsyncClient
    nonce: str

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Reply:
        """Whatever its status. Raises: httpx.HTTPError when there is no whole answer, BadAnswer when it is endless."""
        began_s = time.perf_counter()
        first_s: float | None = None
        parts, num_bytes = [], 0
        async with self.http.stream(method, path, json=body, headers=headers, timeout=timeout_s) as answer:
            async for part in answer.aiter_bytes():
                first_s = first_s if first_s is not None else time.perf_counter() - began_s
                parts.append(part)
                num_bytes += len(part)
                if num_bytes > _MAX_BODY_BYTES:
                    raise BadAnswer(f"{method} {path} was answered with more than {_MAX_BODY_BYTES} bytes.")
        took_s = time.perf_counter() - began_s
        heads = {name.lower(): value for name, value in answer.headers.items()}
        whole = b"".join(parts)
        return Reply(status=answer.status_code, headers=heads, body=whole, first_s=first_s or took_s, took_s=took_s)

    async def page(self, form: type[M], path: str) -> M:
        """Raises: as `ask`, BadAnswer when it is no page of this form."""
        reply = await self.ask("GET", path)
        try:
            return form.model_validate_json(reply.body)
        except ValidationError as error:
            said = reply.message or f"{error.error_count()} fields are not as expected"
            raise BadAnswer(f"GET {path} was answered with status {reply.status}: {said}") from None

    async def values(self, path: str) -> dict[str, Any]:
        """A page as plain values. Raises: as `page`."""
        reply = await self.ask("GET", path)
        told = reply.json()
        if not isinstance(told, dict) or "error" in told:
            raise BadAnswer(f"GET {path} was answered with status {reply.status}: {reply.message or 'no JSON object'}")
        return told

    async def chat(self, target: str, what: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        """One token from a model or mode, to a prompt that only this run and this `what` have."""
        message = {"role": "user", "content": f"{self.nonce} {what}: 1+1="}
        body = {"model": target, "messages": [message], "max_tokens": 1, **fields}
        return await self.ask("POST", CHAT, body=body, headers=headers)

    async def connect_s(self) -> float:
        """How long a bare connection to the address takes. Raises: OSError, TimeoutError."""
        base = urlsplit(str(self.http.base_url))
        began_s = time.perf_counter()
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(
                base.hostname, base.port or (443 if base.scheme == "https" else 80)
            )
        took_s = time.perf_counter() - began_s
        writer.close()
        return took_s

    def is_local(self) -> bool:
        return urlsplit(str(self.http.base_url)).hostname in ("127.0.0.1", "::1", "localhost")


@asynccontextmanager
async def asking(
    address: str,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    trust: ssl.SSLContext | bool = True,
) -> AsyncIterator[Asker]:
    """`trust` is whom to trust at an https address, as httpx takes it."""
    given = {**(headers or {}), **({"authorization": f"Bearer {key}"} if key else {})}
    async with httpx.AsyncClient(base_url=address, headers=given, verify=trust, trust_env=False) as http:
        yield Asker(http, f"validation {uuid.uuid4().hex}")


async def until(holds: Callable[[], Awaitable[bool]], *, within_s: float) -> tuple[bool, float]:
    """Whether it came to hold in time, and after how many seconds. Looks once at least."""
    began_s = time.perf_counter()
    while True:
        if await holds():
            return True, time.perf_counter() - began_s
        spent_s = time.perf_counter() - began_s
        if spent_s >= within_s:
            return False, spent_s
        await asyncio.sleep(_LOOK_AGAIN_S)


def new_trace() -> tuple[str, dict[str, str]]:
    """A trace id, and the header that asks for it to be gone on with."""
    trace_id = new_trace_id()
    return trace_id, {"traceparent": format_traceparent(trace_id, new_span_id(), sampled=True)}
