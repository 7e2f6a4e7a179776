"""Steady requests in threads of their own, each answer noted: what a fault costs is what these see."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from tests.integration.asking import user

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` 0: no HTTP answer, and `reason` says why; `model` is who answered, with which `weights`.

    Times on the monotonic clock.
    """

    status: int
    model: str = ""
    weights: str = ""
    text: str = ""
    reason: str
    began_s: float
    ended_s: float


class Traffic:
    """Context manager: `num_clients` ask `model` one question after the other until the block ends.

    Always past the cache, so that every question reaches an engine.
    """

    def __init__(
        self, url: str, model: str, *, num_clients: int = 2, max_tokens: int = 24, pause_s: float = 0.0
    ) -> None:
        self._url = url
        self._body = {
            "model": model,
            "messages": user("What is 3 + 4?"),
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0,  # the same weights say the same
        }
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]
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

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def num_good_since(self, moment_s: float) -> int:
        """Questions asked after `moment_s` and answered with 200."""
        return sum(answer.status == 200 and answer.began_s > moment_s for answer in self.answers)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=_TIMEOUT_S) as client:
            while not self._stop.is_set():
                answer = self._ask(client)
                self._answers.append(answer)
                self._stop.wait(self._pause_s if answer.status == 200 else 0.05)

    def _ask(self, client: httpx.Client) -> Answer:
        began_s = time.monotonic()
        try:
            response = client.post("/v1/chat/completions", json=self._body, headers={"cache-control": "no-store"})
        except httpx.HTTPError as error:
            return Answer(status=0, reason=repr(error), began_s=began_s, ended_s=time.monotonic())
        return Answer(
            status=response.status_code,
            model=response.headers.get("x-headroom-model", ""),
            weights=response.headers.get("x-headroom-weights-version", ""),
            text=_text(response),
            reason="" if response.status_code == 200 else response.text[:300],
            began_s=began_s,
            ended_s=time.monotonic(),
        )


def _text(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"]) if response.status_code == 200 else ""
