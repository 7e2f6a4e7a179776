"""The official `openai` client, unchanged, against the gateway over real sockets."""

from __future__ import annotations

import pytest
from openai import APIStatusError, BadRequestError, InternalServerError, NotFoundError
from openai.types.chat import ChatCompletionMessageParam

from serve_app.engines.scripted import SCRIPTED, Behaviour
from tests.serve_app.gateway.builders import SECRET, chat
from tests.serve_app.gateway.serving import stage

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


class TestTheOfficialClient:
    async def test_gets_a_whole_answer_with_usage_from_the_model_that_answered(self) -> None:
        async with stage("mini") as on, on.client() as client:
            answer = await client.chat.completions.create(model="fast", messages=HI)
            assert (answer.choices[0].message.content or "").startswith(SCRIPTED)
            assert answer.model == "mini"
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 9

    async def test_gets_a_stream_whose_text_is_the_whole_answer(self) -> None:
        async with stage("mini") as on, on.client() as client:
            whole = await client.chat.completions.create(model="mini", messages=HI)
            stream = await client.chat.completions.create(model="mini", messages=HI, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(parts) == whole.choices[0].message.content
            assert len(parts) == 9

    @pytest.mark.parametrize("asked", [True, False])
    async def test_gets_usage_in_a_stream_only_when_asked_for(self, asked: bool) -> None:
        async with stage("mini") as on, on.client() as client:
            options = {"stream_options": {"include_usage": True}} if asked else {}
            stream = await client.chat.completions.create(  # type: ignore[call-overload]
                model="mini", messages=HI, stream=True, **options
            )
            chunks = [chunk async for chunk in stream]
            assert any(chunk.usage for chunk in chunks) is asked
            assert all(chunk.choices for chunk in chunks) is not asked

    async def test_gets_n_choices_and_log_probabilities(self) -> None:
        async with stage("mini") as on, on.client() as client:
            answer = await client.chat.completions.create(model="fast", messages=HI, n=3, logprobs=True)
            assert [choice.index for choice in answer.choices] == [0, 1, 2]
            assert all(choice.logprobs for choice in answer.choices)

    async def test_completes_prompts(self) -> None:
        async with stage("mini") as on, on.client() as client:
            answer = await client.completions.create(model="fast", prompt=["a", "b"])
            assert len(answer.choices) == 2
            stream = await client.completions.create(model="fast", prompt="a", stream=True)
            assert len([chunk async for chunk in stream]) == 9

    async def test_lists_models_and_modes(self) -> None:
        async with stage("mini") as on, on.client() as client:
            names = [model.id async for model in client.models.list()]
            assert names == ["mini", "small", "base", "fast", "balanced", "creative"]
            assert (await client.models.retrieve("creative")).owned_by == "headroom"
            with pytest.raises(NotFoundError):
                await client.models.retrieve("nobody")

    async def test_asks_for_a_mode_by_header(self) -> None:
        async with stage("mini", "base") as on, on.client(default_headers={"x-headroom-mode": "creative"}) as client:
            raw = await client.chat.completions.with_raw_response.create(model="base", messages=HI)
            assert raw.headers["x-headroom-mode"] == "creative"
            assert raw.headers["x-headroom-model"] == "base"

    async def test_gets_its_own_error_classes(self) -> None:
        async with stage("mini") as on, on.client() as client:
            with pytest.raises(NotFoundError) as unknown:
                await client.chat.completions.create(model="gpt-9", messages=HI)
            assert unknown.value.code == "model_not_found"
            with pytest.raises(BadRequestError) as bad:
                await client.chat.completions.create(model="fast", messages=[])
            assert bad.value.param == "messages"
            with pytest.raises(InternalServerError) as starting:
                await client.chat.completions.create(model="small", messages=HI)
            assert starting.value.status_code == 503
            assert starting.value.response.headers["retry-after"] == "5"

    async def test_sees_an_engines_refusal_as_the_engines(self) -> None:
        async with stage("mini") as on, on.client() as client:
            on.engine.behaviour = Behaviour.ERROR_400
            with pytest.raises(APIStatusError) as refused:
                await client.chat.completions.create(model="fast", messages=HI)
            assert refused.value.status_code == 400
            assert refused.value.body["origin"] == "engine"  # type: ignore[index]


class TestEveryAnswer:
    async def test_names_model_mode_cache_weights_step_trace_and_request(self) -> None:
        async with stage("mini") as on:
            answer = await on.chat(chat("fast"))
            assert {name: answer.headers[f"x-headroom-{name}"] for name in ("model", "mode", "cache")} == {
                "model": "mini",
                "mode": "fast",
                "cache": "miss",
            }
            assert answer.headers["x-headroom-weights-version"] == "v1"
            assert answer.headers["x-headroom-checkpoint-step"] == "400"
            assert len(answer.headers["x-trace-id"]) == 32
            assert answer.headers["x-request-id"]

    async def test_belongs_to_the_trace_of_its_caller(self) -> None:
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        async with stage("mini") as on:
            answer = await on.chat(chat("fast"), traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
            assert answer.headers["x-trace-id"] == trace_id
            assert on.engine.counts.headers[0]["traceparent"].startswith(f"00-{trace_id}-")

    async def test_keeps_a_plain_request_id_and_replaces_any_other(self) -> None:
        async with stage("mini") as on:
            assert (await on.chat(chat("fast"), x_request_id="abc-1")).headers["x-request-id"] == "abc-1"
            assert (await on.chat(chat("fast"), x_request_id="a b\tc")).headers["x-request-id"] != "a b\tc"

    async def test_is_asked_of_the_engine_with_the_secret_and_nothing_of_the_callers_headers(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat("fast"), authorization="Bearer mine", cookie="a=b", x_other="1")
            sent = on.engine.counts.headers[0]
            assert sent["x-headroom-internal"] == SECRET
            assert sent.keys() <= {
                *("host", "x-headroom-internal", "content-type", "content-length", "x-request-id", "traceparent"),
            }
