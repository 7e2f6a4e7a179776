"""A model asked as callers ask it: by chat, through a gateway of the cluster, greedily and past the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

import aiohttp
import stamina
from pydantic import BaseModel, ValidationError

from serve_app.compare.live_runs import Answer
from serve_app.errors import BadAnswer, HeadroomError, NotRunning
from serve_app.training.self_correction import Message

ATTEMPTS: Final = 4
FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 30.0
_ANSWER_S: Final = 60.0
_SHOWN_CHARS: Final = 300
_HEADERS: Final = {"cache-control": "no-store", "x-headroom-downshift": "no", "content-type": "application/json"}
_PASSING: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
"""Who is busy is asked again later: callers go first."""


class LiveApi:
    """`address` gives a gateway's own, None while there is none; `secret` is the cluster's, and stands for a key."""

    def __init__(self, *, address: Callable[[], str | None], secret: str, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._address = address
        self._headers = {**_HEADERS, "x-headroom-internal": secret}
        self._first_wait_s = first_wait_s

    async def ask(self, model: str, messages: Sequence[Message], *, max_tokens: int) -> Answer:
        """Raises: NotRunning when nothing answers or the cluster stays busy, HeadroomError when it refuses."""
        body = {
            "model": model,
            "messages": [dict(message) for message in messages],
            "temperature": 0,
            "max_tokens": max_tokens,
            "logprobs": True,
        }
        attempts = stamina.retry_context(
            on=NotRunning,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._first_wait_s,
            wait_max=LONGEST_WAIT_S,
            wait_jitter=0.0,
        )
        async for attempt in attempts:
            with attempt:
                return await self._answered(json.dumps(body).encode())
        raise AssertionError("the last attempt returns or raises")

    async def _answered(self, body: bytes) -> Answer:
        address = self._address()
        if address is None:
            raise NotRunning("No gateway has registered yet.")
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(f"{address}/v1/chat/completions", data=body) as answer,
            ):
                told = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotRunning(f"The gateway at {address} does not answer ({type(error).__name__}).") from error
        if answer.status != HTTPStatus.OK:
            said = f"The gateway answered with status {answer.status}: {told[:_SHOWN_CHARS].decode(errors='replace')}"
            raise NotRunning(said) if answer.status in _PASSING else HeadroomError(said)
        return _read(told, answer.headers.get("x-headroom-weights-version", ""))


def _read(body: bytes, weights_version: str) -> Answer:
    try:
        choice = _Answer.model_validate_json(body).choices[0]
    except (ValidationError, IndexError) as error:
        raise BadAnswer("The gateway answered with what is no chat completion.") from error
    tokens = choice.logprobs.content if choice.logprobs is not None else None
    return Answer(
        text=choice.message.content or "",
        logprobs=tuple(token.logprob for token in tokens or ()),
        weights_version=weights_version,
    )


class _Token(BaseModel):
    logprob: float


class _Tokens(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    logprobs: _Tokens | None = None


class _Answer(BaseModel):
    """What is read of an answer; engines say more."""

    choices: list[_Choice]
