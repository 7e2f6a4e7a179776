"""`AsyncClient`: Headroom for programs with an event loop. `synchronous` is its twin."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from serve_app.client.errors import ClientError
from serve_app.client.synchronous import next_named, translated
from serve_app.client.terms import (
    Answer,
    Message,
    Terms,
    again_in_s,
    answer_of,
    body_of,
    delta_of,
    messages_of,
    terms_of,
)

if TYPE_CHECKING:
    import httpx
    from openai import AsyncOpenAI


class AsyncClient:
    """One cluster, of one event loop. Close it, or use it as an asynchronous context manager."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.terms = terms or terms_of()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Connections are opened by the first request, and closed here if there was one."""
        for name in ("openai", "_http"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                await (opened.close() if name == "openai" else opened.aclose())

    @cached_property
    def openai(self) -> AsyncOpenAI:
        """The SDK itself, for what `chat` does not cover."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        trust = self.terms.trust
        transport = None if trust is True else DefaultAsyncHttpxClient(verify=trust)
        return AsyncOpenAI(**self.terms.sdk(), http_client=transport)

    async def chat(self, messages: str | Sequence[Message], *, model: str = "fast", **options: Any) -> Answer:
        """One whole answer. `model` is a mode or a model; `options` as `chat.completions.create` takes them.

        Raises: ClientError.
        """
        with translated():
            raw = await self.openai.chat.completions.with_raw_response.create(
                model=model, messages=cast("Any", messages_of(messages)), stream=False, **options
            )
            return answer_of(raw.parse(), raw.headers)

    async def stream(
        self, messages: str | Sequence[Message], *, model: str = "fast", **options: Any
    ) -> AsyncGenerator[str, None]:
        """The text of an answer piece by piece. Leaving it early ends the answer in the engine.

        Raises: ClientError, also in the midst of it.
        """
        with translated():
            chunks = await self.openai.chat.completions.create(
                model=model, messages=cast("Any", messages_of(messages)), stream=True, **options
            )
            async with chunks:
                async for chunk in chunks:
                    text = delta_of(chunk)
                    if text:
                        yield text

    async def get_model_info(self, model: str | None = None) -> dict[str, Any]:
        """`/models/info`: of all, or the entry of one. Raises: ClientError."""
        info = await self._asked("GET", "/models/info")
        return info if model is None else next_named(info, model)

    async def reload_model(self, model: str, **options: Any) -> dict[str, Any]:
        """`/models/reload`: new weights while it serves. Raises: ClientError."""
        return await self._asked("POST", "/models/reload", {"model": model, **options})

    async def health_check(self) -> dict[str, Any]:
        """`/health`; one that is not well is an answer too. Raises: ClientError when nothing answers."""
        return await self._asked("GET", "/health", also=(HTTPStatus.SERVICE_UNAVAILABLE,))

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(**self.terms.http())

    async def _asked(self, method: str, path: str, body: object = None, *, also: Sequence[int] = ()) -> dict[str, Any]:
        for attempt in range(self.terms.num_retries + 1):
            try:
                with translated():
                    return body_of(await self._http.request(method, path, json=body), also=also)
            except ClientError as error:
                jitter = random.random()  # noqa: S311  # spreads retries, hides nothing
                wait_s = again_in_s(error, attempt=attempt, idempotent=method == "GET", jitter=jitter)
                if wait_s is None or attempt == self.terms.num_retries:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")
