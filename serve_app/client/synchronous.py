"""`Client`: Headroom for programs without an event loop. `asynchronous` is its twin."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from serve_app.client.errors import BadRequest, ClientError, mapped
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
    from openai import OpenAI


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the libraries below leave as `ClientError`."""
    try:
        yield
    except ClientError:
        raise
    except Exception as error:
        ours = mapped(error)
        if ours is None:
            raise
        raise ours from error


class Client:
    """One cluster. Thread-safe as far as the `openai` SDK and httpx are. Close it, or use it as a context manager."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.terms = terms or terms_of()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Connections are opened by the first request, and closed here if there was one."""
        for name in ("openai", "_http"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    @cached_property
    def openai(self) -> OpenAI:
        """The SDK itself, for what `chat` does not cover."""
        from openai import DefaultHttpxClient, OpenAI

        trust = self.terms.trust
        transport = None if trust is True else DefaultHttpxClient(verify=trust)
        return OpenAI(**self.terms.sdk(), http_client=transport)

    def chat(self, messages: str | Sequence[Message], *, model: str = "fast", **options: Any) -> Answer:
        """One whole answer. `model` is a mode or a model; `options` as `chat.completions.create` takes them.

        Raises: ClientError.
        """
        with translated():
            raw = self.openai.chat.completions.with_raw_response.create(
                model=model, messages=cast("Any", messages_of(messages)), stream=False, **options
            )
            return answer_of(raw.parse(), raw.headers)

    def stream(
        self, messages: str | Sequence[Message], *, model: str = "fast", **options: Any
    ) -> Generator[str, None, None]:
        """The text of an answer piece by piece. Leaving it early ends the answer in the engine.

        Raises: ClientError, also in the midst of it.
        """
        with (
            translated(),
            self.openai.chat.completions.create(
                model=model, messages=cast("Any", messages_of(messages)), stream=True, **options
            ) as chunks,
        ):
            for chunk in chunks:
                text = delta_of(chunk)
                if text:
                    yield text

    def get_model_info(self, model: str | None = None) -> dict[str, Any]:
        """`/models/info`: of all, or the entry of one. Raises: ClientError."""
        info = self._asked("GET", "/models/info")
        return info if model is None else next_named(info, model)

    def reload_model(self, model: str, **options: Any) -> dict[str, Any]:
        """`/models/reload`: new weights while it serves. Raises: ClientError."""
        return self._asked("POST", "/models/reload", {"model": model, **options})

    def health_check(self) -> dict[str, Any]:
        """`/health`; one that is not well is an answer too. Raises: ClientError when nothing answers."""
        return self._asked("GET", "/health", also=(HTTPStatus.SERVICE_UNAVAILABLE,))

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(**self.terms.http())

    def _asked(self, method: str, path: str, body: object = None, *, also: Sequence[int] = ()) -> dict[str, Any]:
        for attempt in range(self.terms.num_retries + 1):
            try:
                with translated():
                    return body_of(self._http.request(method, path, json=body), also=also)
            except ClientError as error:
                jitter = random.random()  # noqa: S311  # spreads retries, hides nothing
                wait_s = again_in_s(error, attempt=attempt, idempotent=method == "GET", jitter=jitter)
                if wait_s is None or attempt == self.terms.num_retries:
                    raise
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def next_named(info: dict[str, Any], model: str) -> dict[str, Any]:
    """Raises: BadRequest with the models there are."""
    models: dict[str, dict[str, Any]] = {one["id"]: one for one in info.get("models", ())}
    if model not in models:
        raise BadRequest(f"No model '{model}' is loaded. Loaded: {', '.join(models) or 'none'}.")
    return models[model]


def get_client(**terms: Any) -> Client:
    """A client by what is given (`Terms`), else by the environment (`terms_of`), else of this machine."""
    return Client(terms_of(**terms))
