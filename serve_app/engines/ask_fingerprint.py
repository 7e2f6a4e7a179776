"""Asks an engine for its fingerprint by the path that answers callers. What one means stands in `fingerprint.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, Protocol

import orjson
from pydantic import BaseModel, FiniteFloat, ValidationError

from serve_app.engines.fingerprint import NUM_TOKENS, PROMPTS, Fingerprint, Trace
from serve_app.engines.protocol import Endpoint, Stream, Unary
from serve_app.errors import BadAnswer


class Asked(Protocol):
    """The part of an `Engine` that is needed here."""

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream: ...


async def fingerprint_of(engine: Asked, model: str) -> Fingerprint:
    """One prompt after the other, so that the same weights meet the same batches.

    Raises: BadAnswer if the engine refuses, or answers without log-probabilities.
    """
    return Fingerprint(traces=tuple([await _trace(engine, model, prompt) for prompt in PROMPTS]))


async def _trace(engine: Asked, model: str, prompt: str) -> Trace:
    answer = await engine.answer(Endpoint.CHAT, orjson.dumps(_request(model, prompt)), {})
    if isinstance(answer, Stream):
        raise _strange(model, "it streams an answer that was asked for whole")
    if answer.status != HTTPStatus.OK:
        raise _strange(model, f"status {answer.status}: {answer.body[:_SHOWN_BYTES].decode(errors='replace')}")
    try:
        tokens = _Answer.model_validate_json(answer.body).choices[0].logprobs.content
    except (ValidationError, IndexError) as error:
        raise _strange(model, "no choice with log-probabilities that are numbers") from error
    return Trace(
        prompt=prompt,
        tokens=tuple(token.token for token in tokens),
        logprobs=tuple(token.logprob for token in tokens),
        leads=_leads(tokens),
    )


def _leads(tokens: Sequence[_Token]) -> tuple[float, ...]:
    """Empty where the engine does not name the second likeliest of each."""
    seconds = [[one.logprob for one in token.top_logprobs if one.token != token.token] for token in tokens]
    if not all(seconds):
        return ()
    return tuple(token.logprob - max(second) for token, second in zip(tokens, seconds, strict=True))


def _request(model: str, prompt: str) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    likeliest = {"logprobs": True, "top_logprobs": 2}
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": NUM_TOKENS, **likeliest}


def _strange(model: str, reason: str) -> BadAnswer:
    return BadAnswer(
        f"The engine of {model!r} gave no fingerprint: {reason}.",
        expected="Expected greedy tokens with their log-probabilities.",
        advice="Do not let these weights serve.",
    )


_SHOWN_BYTES: Final = 300


class _Likely(BaseModel):
    token: str
    logprob: FiniteFloat


class _Token(_Likely):
    top_logprobs: list[_Likely] = []


class _Logprobs(BaseModel):
    content: list[_Token]


class _Choice(BaseModel):
    logprobs: _Logprobs


class _Answer(BaseModel):
    """What is read of an answer; engines may say more."""

    choices: list[_Choice]
