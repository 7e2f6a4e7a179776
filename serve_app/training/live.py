"""Asks a model its test set through the live API, with the official `openai` client.

Greedy, a bounded number of questions in flight. Grades nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from serve_app.errors import BadAnswer, HeadroomError, NotRunning

if TYPE_CHECKING:
    import openai

ANSWER_TOKENS: Final = 16
"""Longest answer that is asked for; right answers have at most eight tokens."""
QUESTION_TIMEOUT_S: Final = 60.0
RETRIES: Final = 4


class Prompted(Protocol):
    @property
    def prompt(self) -> str: ...


async def ask_all(
    tasks: Sequence[Prompted],
    *,
    model: str,
    base_url: str,
    api_key: str,
    concurrency: int,
    on_answer: Callable[[], None],
    max_tokens: int = ANSWER_TOKENS,
    trust: ssl.SSLContext | bool = True,
) -> list[str]:
    """One text per task, in order; an empty text where the model said nothing.

    `trust` is whom to trust at an https address, as httpx takes it.

    Raises: NotRunning when nothing answers, HeadroomError when the address refuses the question (an unknown
    model names the known ones), BadAnswer when what answers is not an OpenAI API.
    """
    import openai

    room = asyncio.Semaphore(concurrency)

    async def ask(task: Prompted) -> str:
        async with room:
            text = await _ask(client, model, task.prompt, max_tokens)
        on_answer()
        return text

    transport = openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False, timeout=QUESTION_TIMEOUT_S)
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key, max_retries=RETRIES, http_client=transport
    ) as client:
        try:
            await client.with_options(max_retries=0).models.list()  # nobody there is known at once, without retries
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(ask(task)) for task in tasks]
        except* (openai.OpenAIError, ValueError) as errors:
            raise await _explained(_first(errors), client, model, base_url) from errors
    return [one.result() for one in asked]


async def _ask(client: openai.AsyncOpenAI, model: str, prompt: str, max_tokens: int) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=max_tokens,
        extra_headers={"Cache-Control": "no-store"},
    )
    return (answer.choices[0].message.content or "") if answer.choices else ""


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _explained(error: BaseException, client: openai.AsyncOpenAI, model: str, base_url: str) -> HeadroomError:
    """The client's error as one of ours."""
    import openai

    if isinstance(error, openai.NotFoundError):
        known = await _known_models(client)
        return HeadroomError(
            f"{base_url} serves no model {model!r}.",
            expected=f"Expected one of: {', '.join(known)}." if known else "Expected the address of an OpenAI API.",
            advice="Choose one of these." if known else "Name it with --base-url; it ends in /v1.",
        )
    if isinstance(error, openai.APIStatusError):
        return HeadroomError(
            f"{base_url} refused a question with status {error.status_code}: {error.message}.",
            advice="See `headroom status` for what is not well.",
        )
    if isinstance(error, openai.APIConnectionError):  # a time-out is one of these
        return NotRunning(
            f"Nothing answers at {base_url} ({type(error).__name__}).",
            expected="A running cluster.",
            advice="Start one with `headroom up`, or name another with --base-url.",
        )
    return BadAnswer(f"{base_url} does not answer as an OpenAI API does: {error}.", advice="Name another address.")


async def _known_models(client: openai.AsyncOpenAI) -> list[str]:
    import openai

    try:
        return [one.id async for one in client.models.list()]
    except openai.OpenAIError:
        return []
