"""Steady clients, and how each answer ended as a caller sees it."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import httpx

PATH = "/v1/chat/completions"
GIVE_UP_S = 20.0
"""A client that gets no byte for so long goes away and calls it a hang."""
_PACE_S = 0.5
_UNARY_TOKENS = 60
_STREAM_TOKENS = 440
_SAID_BYTES = 300


class Ending(StrEnum):
    WHOLE = "whole"
    ERROR_EVENT = "error event"
    """A stream that says what happened and ends in good order."""
    CUT = "silent cut"
    """An answer that began, and stops without a word."""
    RETRY_LATER = "refused, Retry-After"
    REFUSED = "refused, no Retry-After"
    NO_ANSWER = "no answer"
    """No connection, or one that closed before a status."""
    HUNG = "hang"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` 0: none came; `said` is the end of what was not whole. Times on the monotonic clock."""

    ending: Ending
    status: int
    said: str = ""
    began_s: float
    ended_s: float


def ending_of(status: int, body: bytes, *, stream: bool, has_retry_after: bool) -> Ending:
    """What a complete HTTP answer is worth."""
    if status != 200:
        return Ending.RETRY_LATER if has_retry_after else Ending.REFUSED
    if not stream:
        return Ending.WHOLE if body.endswith(b"}") and b'"choices"' in body else Ending.CUT
    if any(event.startswith(b'data: {"error"') for event in body.split(b"\n\n")):
        return Ending.ERROR_EVENT
    return Ending.WHOLE if body.endswith(b"data: [DONE]\n\n") else Ending.CUT


def ask(client: httpx.Client, body: dict[str, Any]) -> Answer:
    """Past every cache."""
    began_s = time.monotonic()
    status, ending, content = 0, Ending.NO_ANSWER, b""
    try:
        with client.stream("POST", PATH, json=body, headers={"cache-control": "no-store"}) as answer:
            status = answer.status_code
            content = b"".join(answer.iter_raw())
        has_retry_after = "retry-after" in answer.headers
        ending = ending_of(status, content, stream=bool(body.get("stream")), has_retry_after=has_retry_after)
    except httpx.TimeoutException:
        ending = Ending.HUNG
    except httpx.TransportError:
        ending = Ending.CUT if status == 200 else Ending.NO_ANSWER
    said = "" if ending is Ending.WHOLE else content[-_SAID_BYTES:].decode(errors="replace")
    return Answer(ending=ending, status=status, said=said, began_s=began_s, ended_s=time.monotonic())


class Clients:
    """Context manager: each of `num` starts a question every half second, or when its last one has ended.

    Streams are long, so that some are under way whenever something happens.
    """

    def __init__(self, url: str, *, stream: bool, num: int = 4) -> None:
        self._url = url
        max_tokens = _STREAM_TOKENS if stream else _UNARY_TOKENS
        self._body = {"model": "mini", "max_tokens": max_tokens, "ignore_eos": True, "stream": stream}
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num)]
        self._answers: list[Answer] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answers(self) -> list[Answer]:
        return list(self._answers)

    def num_good_since(self, moment_s: float) -> int:
        """Whole answers to questions asked after `moment_s`."""
        return sum(answer.ending is Ending.WHOLE and answer.began_s > moment_s for answer in self.answers)

    def _run(self) -> None:
        limit = httpx.Timeout(GIVE_UP_S, connect=5.0)
        with httpx.Client(base_url=self._url, trust_env=False, timeout=limit) as client:
            while not self._stop.is_set():
                question = f"What is {next(self._numbers)} + 4?"
                answer = ask(client, {**self._body, "messages": [{"role": "user", "content": question}]})
                self._answers.append(answer)
                self._stop.wait(max(0.0, _PACE_S - (answer.ended_s - answer.began_s)))
