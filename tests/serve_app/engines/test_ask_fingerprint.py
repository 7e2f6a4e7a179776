"""What asking an engine for its fingerprint gives, and what it refuses to take for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from serve_app.engines.ask_fingerprint import fingerprint_of
from serve_app.engines.fingerprint import NUM_TOKENS, PROMPTS
from serve_app.engines.protocol import Endpoint, Stream, Unary
from serve_app.errors import BadAnswer


class Answering:
    """An engine that answers everything alike, and keeps what it was asked."""

    def __init__(self, body: object, status: int = 200) -> None:
        self._answer = Unary(status, orjson.dumps(body))
        self.asked: list[dict[str, Any]] = []

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        assert endpoint is Endpoint.CHAT
        self.asked.append(orjson.loads(body))
        return self._answer


def said(*tokens: tuple[str, float | None]) -> dict[str, object]:
    content = [dict[str, object](token=token, logprob=likely, top_logprobs=[]) for token, likely in tokens]
    return {"id": "x", "choices": [{"index": 0, "logprobs": {"content": content}}]}


class TestFingerprint:
    async def test_it_has_one_trace_for_each_prompt_in_their_order(self) -> None:
        found = await fingerprint_of(Answering(said(("a", -0.5), ("b", -1.0))), "mini")
        assert [trace.prompt for trace in found.traces] == list(PROMPTS)
        assert {(trace.tokens, trace.logprobs) for trace in found.traces} == {(("a", "b"), (-0.5, -1.0))}

    async def test_it_is_asked_greedily_for_a_bounded_number_of_tokens(self) -> None:
        engine = Answering(said(("a", -0.5)))
        await fingerprint_of(engine, "mini")
        asked = {(one["temperature"], one["max_tokens"], one["logprobs"], one["top_logprobs"]) for one in engine.asked}
        assert asked == {(0, NUM_TOKENS, True, 2)}

    async def test_it_says_by_how_much_each_token_led_where_the_engine_tells(self) -> None:
        likeliest = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.75}]
        content = [{"token": "a", "logprob": -0.5, "top_logprobs": likeliest}]
        told = {"choices": [{"logprobs": {"content": content}}]}
        assert {one.leads for one in (await fingerprint_of(Answering(told), "mini")).traces} == {(1.25,)}
        unsaid = await fingerprint_of(Answering(said(("a", -0.5))), "mini")
        assert {one.leads for one in unsaid.traces} == {()}

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"error": {"message": "no"}}, 500),
            ({"choices": []}, 200),
            ({"choices": [{"logprobs": None}]}, 200),
            (said(("a", None)), 200),
        ],
    )
    async def test_an_answer_without_log_probabilities_is_none(self, body: object, status: int) -> None:
        with pytest.raises(BadAnswer, match="gave no fingerprint"):
            await fingerprint_of(Answering(body, status), "mini")
