"""Asks an engine its test set by the path that answers callers, and makes a score of what it says.

The loss is taken from a second request per question: question and right answer as one conversation, of whose prompt
vLLM gives the log-probability token by token (`prompt_logprobs`, and `return_token_ids` to know where the answer
begins). Nothing here starts engines.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic import BaseModel, ValidationError

from serve_app.compare.questions import Question, has_form, is_right, questions_digest
from serve_app.compare.score import CheckpointScore
from serve_app.engines.ask_fingerprint import Asked, fingerprint_of
from serve_app.engines.protocol import Endpoint, Stream
from serve_app.errors import BadAnswer
from serve_app.training.checkpoints import Verified

_SHOWN_BYTES: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One question as it was answered. `loss` and `num_tokens` are of the right answer; None: not measured."""

    text: str
    latency_s: float
    loss: float | None
    num_tokens: int


async def measure(
    engine: Asked,
    verified: Verified,
    *,
    model: str,
    step: int,
    questions: Sequence[Question],
    concurrency: int,
    clock: Callable[[], float],
    on_answer: Callable[[], None],
) -> CheckpointScore:
    """The whole test set, `concurrency` questions at once; `clock` in seconds.

    Raises: BadAnswer when the engine refuses a question.
    """
    fingerprint = await fingerprint_of(engine, model)
    room = asyncio.Semaphore(concurrency)

    async def ask(question: Question) -> Reply:
        async with room:
            reply = await _reply(engine, model, question, clock)
        on_answer()
        return reply

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(question)) for question in questions]
    except* BadAnswer as refusals:
        raise _first(refusals) from refusals
    replies = [one.result() for one in asked]
    pairs = list(zip(questions, replies, strict=True))
    return CheckpointScore(
        model=model,
        weights_version=verified.weights_version,
        step=step,
        path=str(verified.path),
        right=tuple(is_right(question, reply.text) for question, reply in pairs),
        loss=mean_loss(replies),
        format_share=sum(has_form(question, reply.text) for question, reply in pairs) / len(pairs),
        latency_s=statistics.median(reply.latency_s for reply in replies),
        fingerprint=fingerprint,
        test_set=questions_digest(questions),
    )


def mean_loss(replies: Sequence[Reply]) -> float | None:
    """Nats per token over all tokens of all right answers; None unless every one was measured."""
    losses = [reply.loss for reply in replies if reply.loss is not None]
    num_tokens = sum(reply.num_tokens for reply in replies)
    if len(losses) < len(replies) or not num_tokens:
        return None
    return sum(losses) / num_tokens


def answer_loss(
    question_ids: Sequence[int], whole_ids: Sequence[int], logprobs: Sequence[Mapping[int, float] | None]
) -> tuple[float, int] | None:
    """Sum of the negative log-probabilities of what follows the question in `whole_ids`, and how many tokens that is.

    What the chat template puts behind an answer, such as its end mark, counts too. None where the template writes a
    question otherwise once it is answered, and where a token has no log-probability that is a number.
    """
    start = len(question_ids)
    if list(whole_ids[:start]) != list(question_ids) or not start < len(whole_ids) == len(logprobs):
        return None
    each = [(logprobs[place] or {}).get(whole_ids[place], math.nan) for place in range(start, len(whole_ids))]
    return (-sum(each), len(each)) if all(map(math.isfinite, each)) else None


def _first(errors: BaseExceptionGroup[BadAnswer]) -> BadAnswer:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _reply(engine: Asked, model: str, question: Question, clock: Callable[[], float]) -> Reply:
    asked = {"role": "user", "content": question.prompt}
    request = {"model": model, "messages": [asked], "temperature": 0, "return_token_ids": True}
    began_s = clock()
    answer = await _answer(engine, {**request, "max_tokens": question.max_tokens})
    latency_s = clock() - began_s
    told = {"role": "assistant", "content": question.answer}
    whole = await _answer(
        engine,
        {
            **request,
            "messages": [asked, told],
            "add_generation_prompt": False,
            "prompt_logprobs": 0,
            "max_tokens": 1,
        },
    )
    found = answer_loss(answer.prompt_token_ids or (), whole.prompt_token_ids or (), whole.logprobs)
    loss, num_tokens = found if found is not None else (None, 0)
    return Reply(text=answer.text, latency_s=latency_s, loss=loss, num_tokens=num_tokens)


async def _answer(engine: Asked, body: Mapping[str, Any]) -> _Answer:
    answer = await engine.answer(Endpoint.CHAT, orjson.dumps(body), {})
    if isinstance(answer, Stream):
        raise BadAnswer("The engine streams an answer that was asked for whole.")
    if answer.status != HTTPStatus.OK:
        shown = answer.body[:_SHOWN_BYTES].decode(errors="replace")
        raise BadAnswer(f"The engine refused a question of the test set with status {answer.status}: {shown}")
    try:
        return _Answer.model_validate_json(answer.body)
    except ValidationError as error:
        raise BadAnswer("The engine answered a question of the test set with what is no chat completion.") from error


class _Logprob(BaseModel):
    logprob: float


class _Said(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Said


class _Answer(BaseModel):
    """What is read of an answer; engines may say more."""

    choices: list[_Choice]
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[int, _Logprob] | None] | None = None

    @property
    def logprobs(self) -> list[dict[int, float] | None]:
        return [
            None if here is None else {token: one.logprob for token, one in here.items()}
            for here in self.prompt_logprobs or ()
        ]

    @property
    def text(self) -> str:
        return (self.choices[0].message.content or "") if self.choices else ""
