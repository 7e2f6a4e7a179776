"""Load on a running cluster: three modes, prompts by Zipf's law, half of the answers streamed.

Needs Locust, which is no part of the lock: `pip install locust`. `make load` writes `bench-results/load.html`.
The first byte of a stream is a row of its own, so that waiting and answering are seen apart.
"""

from __future__ import annotations

import os
import random
import time
from itertools import accumulate
from typing import Any

from locust import HttpUser, constant, task  # type: ignore[import-not-found,unused-ignore]  # not in the lock

NUM_PROMPTS = 1000
EXPONENT = 1.1
_WEIGHTS = list(accumulate(1 / rank**EXPONENT for rank in range(1, NUM_PROMPTS + 1)))
_RANKS = range(NUM_PROMPTS)
MODES = ("fast", "balanced", "creative")
MAX_TOKENS = 32


class Caller(HttpUser):  # type: ignore[misc,unused-ignore]  # Locust is not always installed
    """Asks again as soon as it is answered."""

    wait_time = constant(0)

    def on_start(self) -> None:
        key = os.environ.get("HEADROOM_KEY")
        if key:
            self.client.headers["authorization"] = f"Bearer {key}"

    @task  # type: ignore[untyped-decorator,unused-ignore]
    def whole(self) -> None:
        body = _body(stream=False)
        name = f"{body['model']} whole"
        with self.client.post("/v1/chat/completions", json=body, name=name, catch_response=True) as answer:
            if answer.status_code == 200 and not answer.json().get("choices"):
                answer.failure("200 without a choice")

    @task  # type: ignore[untyped-decorator,unused-ignore]
    def streamed(self) -> None:
        body, began_s = _body(stream=True), time.perf_counter()
        name = f"{body['model']} streamed"
        with self.client.post("/v1/chat/completions", json=body, name=name, stream=True, catch_response=True) as answer:
            lines = [line for line in self._lines(answer, name, began_s) if line]
            if answer.status_code == 200 and (not lines or lines[-1] != b"data: [DONE]"):
                answer.failure("the stream ended without its end mark")

    def _lines(self, answer: Any, name: str, began_s: float) -> list[bytes]:
        lines: list[bytes] = []
        for line in answer.iter_lines():
            if not lines:
                first_ms = (time.perf_counter() - began_s) * 1000
                self.environment.events.request.fire(
                    request_type="FIRST", name=name, response_time=first_ms, response_length=0, exception=None
                )
            lines.append(line)
        return lines


def _body(*, stream: bool) -> dict[str, Any]:
    (rank,) = random.choices(_RANKS, cum_weights=_WEIGHTS)
    content = f"Question {rank}: what is {rank} plus {rank}?"
    return {
        "model": random.choice(MODES),
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "stream": stream,
    }
