"""Ways of the official `openai` client beyond plain calls: its stream helper, tools, parsing, time-outs and retries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import APIError, APITimeoutError, AsyncOpenAI, InternalServerError, OpenAI, RateLimitError
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, ValidationError

from serve_app.engines.scripted import SCRIPTED, Behaviour
from tests.serve_app.gateway.serving import Stage, stage, until
from tests.serve_app.gateway.test_access import closed

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Answer(BaseModel):
    text: str


def trying(on: Stage, max_retries: int, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{on.url}/v1", api_key="unused", max_retries=max_retries, **options)


class Impatient(AsyncOpenAI):
    """Retries at once, and remembers the `Retry-After` that it would have obeyed."""

    def __init__(self, on: Stage, *, max_retries: int, api_key: str = "unused") -> None:
        super().__init__(base_url=f"{on.url}/v1", api_key=api_key, max_retries=max_retries)
        self.told_s: list[str | None] = []

    def _calculate_retry_timeout(self, remaining_retries: int, options: Any, response_headers: Any = None) -> float:
        obeyed_s = super()._calculate_retry_timeout(remaining_retries, options, response_headers)
        told_s = response_headers.get("retry-after") if response_headers is not None else None
        assert told_s is None or obeyed_s == float(told_s)
        self.told_s.append(told_s)
        return 0.0


class TestTheStreamHelper:
    async def test_gathers_the_events_to_the_whole_answer(self) -> None:
        async with stage("mini") as on, on.client() as client:
            async with client.chat.completions.stream(model="mini", messages=HI) as stream:
                kinds = [event.type async for event in stream]
                whole = await stream.get_final_completion()
            assert kinds.count("content.delta") == 9
            assert kinds[-1] == "content.done"
            assert (whole.choices[0].message.content or "").startswith(SCRIPTED)

    async def test_left_early_frees_the_engine(self) -> None:
        async with stage("mini", num_words=500, token_s=0.01) as on, on.client() as client:
            async with client.chat.completions.stream(model="mini", messages=HI) as stream:
                await anext(aiter(stream))
            await until(lambda: on.engine.counts.num_running == 0)
            assert on.engine.counts.num_aborted == 1

    async def test_raises_what_breaks_midway(self) -> None:
        async with stage("mini") as on, on.client() as client:
            on.engine.behaviour = Behaviour.ERROR_EVENT
            stream = await client.chat.completions.create(model="mini", messages=HI, stream=True)
            with pytest.raises(APIError):
                [chunk async for chunk in stream]


class TestTools:
    async def test_reach_the_engine_as_they_were_given(self) -> None:
        async with stage("mini") as on, on.client() as client:
            await client.chat.completions.create(
                model="mini",
                messages=HI,
                tools=[WEATHER],
                tool_choice={"type": "function", "function": {"name": "weather"}},
                parallel_tool_calls=False,
            )
            (body,) = on.engine.counts.bodies
            assert body["tools"] == [WEATHER]
            assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
            assert body["parallel_tool_calls"] is False

    async def test_results_are_sent_on_in_their_messages(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
        messages: list[Any] = [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ]
        async with stage("mini") as on, on.client() as client:
            await client.chat.completions.create(model="mini", messages=messages, tools=[WEATHER])
            assert on.engine.counts.bodies[0]["messages"][2]["tool_call_id"] == "c1"


class TestStructuredOutput:
    async def test_asks_the_engine_for_the_schema_of_the_class(self) -> None:
        """The scripted engine answers with words, which the client's own parser then refuses."""
        async with stage("mini") as on, on.client() as client:
            with pytest.raises(ValidationError):
                await client.chat.completions.parse(model="mini", messages=HI, response_format=Answer)
            asked = on.engine.counts.bodies[0]["response_format"]
            assert asked["type"] == "json_schema"
            assert asked["json_schema"]["schema"]["properties"] == {"text": {"title": "Text", "type": "string"}}


class TestLogProbabilities:
    async def test_are_typed_and_asked_for_with_their_number(self) -> None:
        async with stage("mini") as on, on.client() as client:
            answer = await client.chat.completions.create(model="mini", messages=HI, logprobs=True, top_logprobs=3)
            logprobs = answer.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.content is not None
            assert logprobs.content[0].logprob == -0.5
            assert on.engine.counts.bodies[0]["top_logprobs"] == 3


class TestTimeouts:
    async def test_of_the_client_end_the_engines_work_too(self) -> None:
        async with stage("mini") as on, on.client(timeout=0.3) as client:
            on.engine.behaviour = Behaviour.HANG
            with pytest.raises(APITimeoutError):
                await client.chat.completions.create(model="mini", messages=HI)
            await until(lambda: on.engine.counts.num_running == 0)


class TestRetries:
    async def test_of_the_client_find_a_model_that_came_back(self) -> None:
        async with stage("mini") as on, trying(on, 3) as client:
            on.engine.gate = asyncio.Event()
            on.engine.behaviour = Behaviour.ERROR_500
            asking = asyncio.ensure_future(client.chat.completions.create(model="mini", messages=HI))
            await until(lambda: on.engine.counts.num_started == 1)
            on.engine.gate.set()
            await until(lambda: on.engine.counts.num_finished >= 1)
            on.engine.behaviour = Behaviour.GOOD
            assert (await asking).model == "mini"
            assert on.engine.counts.num_started >= 2

    async def test_are_not_made_for_what_will_not_change(self) -> None:
        async with stage("mini") as on, trying(on, 3) as client:
            with pytest.raises(APIError):
                await client.chat.completions.create(model="mini", messages=[])
            assert on.engine.counts.num_started == 0

    async def test_end_with_the_last_error(self) -> None:
        async with stage("mini") as on, trying(on, 1) as client:
            on.engine.behaviour = Behaviour.ERROR_500
            with pytest.raises(InternalServerError):
                await client.chat.completions.create(model="mini", messages=HI)


class TestRetryAfter:
    async def test_of_a_model_that_starts_is_the_wait_of_the_client(self) -> None:
        async with stage("mini") as on, Impatient(on, max_retries=2) as client:
            with pytest.raises(InternalServerError):
                await client.chat.completions.create(model="small", messages=HI)
            assert client.told_s == ["5", "5"]

    async def test_of_a_key_that_asked_too_often_is_the_wait_of_the_client(self) -> None:
        async with closed() as (on, keys):
            client = Impatient(on, max_retries=1, api_key=keys.key(requests_per_min=2))
            for _ in range(2):
                await client.chat.completions.create(model="fast", messages=HI)
            with pytest.raises(RateLimitError):
                await client.chat.completions.create(model="fast", messages=HI)
            (told_s,) = client.told_s
            assert 1 <= int(told_s or 0) <= 30
            await client.close()


class TestRawResponses:
    async def test_have_the_heads_before_the_stream_is_read(self) -> None:
        async with stage("mini") as on, on.client() as client:
            async with client.chat.completions.with_streaming_response.create(
                model="fast", messages=HI, stream=True
            ) as raw:
                assert (raw.headers["x-headroom-model"], raw.headers["x-headroom-cache"]) == ("mini", "miss")
                lines = [line async for line in raw.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"


class TestManyAtOnce:
    async def test_each_get_their_own_answer(self) -> None:
        async with stage("mini") as on, on.client() as client:
            asked = (
                client.chat.completions.create(
                    model="mini", messages=[{"role": "user", "content": str(n)}], n=1 + n % 3
                )
                for n in range(30)
            )
            answers = await asyncio.gather(*asked)
            assert [len(answer.choices) for answer in answers] == [1 + n % 3 for n in range(30)]


class TestTheBlockingClient:
    async def test_streams_too(self) -> None:
        async with stage("mini") as on:

            def ask() -> list[str]:
                with OpenAI(base_url=f"{on.url}/v1", api_key="unused") as client:
                    stream = client.chat.completions.create(model="mini", messages=HI, stream=True)
                    return [chunk.choices[0].delta.content or "" for chunk in stream]

            assert len(await asyncio.to_thread(ask)) == 9
