"""The address as OpenAI's own client sees it: models, modes, answers, streams, and what a request may ask for."""

from __future__ import annotations

import asyncio
from typing import Literal

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.integration.asking import ENDLESS, chat, post_chat, text_of, user
from tests.integration.live_cluster import LiveCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MODELS = ["mini", "small", "base"]
MODES = {"fast": "mini", "balanced": "small", "creative": "base"}
NO_STORE = {"Cache-Control": "no-store"}


class Parity(BaseModel):
    parity: Literal["even", "odd"]


PARITY: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "parity", "parameters": Parity.model_json_schema()},
}


class TestModelList:
    def test_it_names_every_model_and_every_mode(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == [*MODELS, *MODES]

    def test_one_model_and_one_mode_can_be_looked_up(self, client: openai.OpenAI) -> None:
        assert client.models.retrieve("base").id == "base"
        assert client.models.retrieve("fast").id == "fast"

    def test_one_that_is_not_there_is_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match=r"mini, small, base.*fast, balanced, creative"):
            client.models.retrieve("huge")


class TestChat:
    @pytest.mark.parametrize("model", MODELS)
    def test_every_model_answers_by_its_name(self, client: openai.OpenAI, model: str) -> None:
        answer = chat(client, model, "What is 3 + 4?", temperature=0, max_tokens=16)
        assert answer.model == model
        assert answer.object == "chat.completion"
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert text_of(answer)

    @pytest.mark.parametrize(("mode", "model"), MODES.items())
    def test_a_mode_is_asked_for_as_a_model(self, client: openai.OpenAI, mode: str, model: str) -> None:
        raw = client.chat.completions.with_raw_response.create(model=mode, messages=user("Repeat the word: sun"))
        assert raw.parse().model == model
        assert (raw.headers["x-headroom-mode"], raw.headers["x-headroom-model"]) == (mode, model)

    def test_a_mode_is_asked_for_by_header_alone(self, http: httpx.Client) -> None:
        answer = post_chat(http, {"messages": user("Even or odd: 8")}, x_headroom_mode="balanced")
        assert answer.status_code == 200
        assert answer.headers["x-headroom-model"] == "small"
        assert answer.json()["model"] == "small"

    def test_a_named_model_is_kept_in_the_mode_of_the_header(self, client: openai.OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(
            model="base", messages=user("Even or odd: 9"), extra_headers={"x-headroom-mode": "fast"}
        )
        assert (raw.headers["x-headroom-mode"], raw.headers["x-headroom-model"]) == ("fast", "base")

    def test_usage_adds_up(self, client: openai.OpenAI) -> None:
        usage = chat(client, "mini", "What comes after 41?", max_tokens=7, extra_body=ENDLESS).usage
        assert usage is not None
        assert usage.prompt_tokens > 0
        assert usage.completion_tokens == 7
        assert usage.total_tokens == usage.prompt_tokens + 7

    def test_every_answer_names_its_weights_and_its_trace(self, client: openai.OpenAI, cluster: LiveCluster) -> None:
        (mini,) = [one for one in cluster.get("/models/info").json()["models"] if one["id"] == "mini"]
        raw = client.chat.completions.with_raw_response.create(model="mini", messages=user("Even or odd: 2"))
        assert raw.headers["x-headroom-weights-version"] == mini["weights_version"]
        assert raw.headers["x-headroom-checkpoint-step"] == str(mini["checkpoint_step"])
        assert raw.headers["x-headroom-cache"] == "bypass"
        assert int(raw.headers["x-trace-id"], 16)

    def test_it_carries_the_callers_request_id_once(self, http: httpx.Client) -> None:
        answer = post_chat(http, {"model": "mini", "messages": user("Even or odd: 2")}, x_request_id="my-own-id-1")
        assert answer.headers.get_list("x-request-id") == ["my-own-id-1"]


class TestCompletion:
    def test_a_model_goes_on_with_a_text(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="mini", prompt="What is 3 + 4?", max_tokens=8, extra_body=ENDLESS)
        assert answer.object == "text_completion"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8

    def test_a_mode_does_too(self, client: openai.OpenAI) -> None:
        assert client.completions.create(model="fast", prompt="Even or odd: 7").model == "mini"

    def test_it_streams(self, client: openai.OpenAI) -> None:
        asked = {"max_tokens": 12, "temperature": 0, **ENDLESS}
        whole = client.completions.create(model="small", prompt="Even or odd: 7", extra_body=asked).choices[0].text
        pieces = list(client.completions.create(model="small", prompt="Even or odd: 7", stream=True, extra_body=asked))
        assert len(pieces) > 2
        assert "".join(piece.choices[0].text for piece in pieces) == whole

    def test_log_probabilities_come_with_their_alternatives_at_once(self, client: openai.OpenAI) -> None:
        """Nothing is compiled for them at their first use, which took half a minute and a C++ compiler."""
        answer = client.with_options(timeout=10).completions.create(
            model="mini", prompt="Even or odd: 7", max_tokens=4, logprobs=3
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        assert all(one <= 0 for one in logprobs.token_logprobs)
        assert logprobs.top_logprobs is not None
        assert all(len(one) >= 3 for one in logprobs.top_logprobs)


class TestStream:
    def test_its_pieces_are_the_whole_answer(self, client: openai.OpenAI) -> None:
        whole = text_of(chat(client, "base", "Reverse the word: stone", temperature=0))
        pieces = list(chat_stream(client, "base", "Reverse the word: stone", temperature=0))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
        assert pieces[0].choices[0].delta.role == "assistant"
        assert pieces[-1].choices[0].finish_reason == "stop"

    def test_a_mode_streams(self, client: openai.OpenAI) -> None:
        pieces = list(chat_stream(client, "creative", "Repeat the word: river"))
        assert {piece.model for piece in pieces} == {"base"}

    def test_usage_comes_last_when_asked_for(self, client: openai.OpenAI) -> None:
        pieces = list(
            chat_stream(
                client,
                "mini",
                "Even or odd: 4",
                max_tokens=6,
                extra_body=ENDLESS,
                stream_options={"include_usage": True},
            )
        )
        assert pieces[-1].choices == []
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.completion_tokens == 6

    def test_usage_is_silent_when_not_asked_for(self, client: openai.OpenAI) -> None:
        assert all(piece.usage is None for piece in chat_stream(client, "mini", "Even or odd: 4"))

    def test_it_is_sent_as_it_is_made(self, http: httpx.Client) -> None:
        body = {"model": "base", "messages": user("Go on."), "stream": True, "max_tokens": 200, **ENDLESS}
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert len([chunk for chunk in answer.iter_raw() if chunk]) > 5


class TestSampling:
    def test_the_same_seed_gives_the_same_answer(self, client: openai.OpenAI) -> None:
        asked = {"temperature": 1.5, "max_tokens": 40, "extra_body": ENDLESS}
        texts = [text_of(chat(client, "mini", "Go on.", seed=seed, **asked)) for seed in (7, 7, 8, 9)]
        assert texts[0] == texts[1]
        assert len(set(texts)) > 1

    def test_two_choices_are_two_answers(self, client: openai.OpenAI) -> None:
        asked = {"temperature": 1.5, "max_tokens": 30, "extra_body": ENDLESS}
        answer = chat(client, "small", "Go on.", n=2, **asked)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.choices[0].message.content != answer.choices[1].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 60

    def test_log_probabilities_come_with_their_alternatives(self, client: openai.OpenAI) -> None:
        answer = chat(client, "mini", "What is 2 + 2?", max_tokens=3, logprobs=True, top_logprobs=2, temperature=0)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in logprobs.content)

    def test_an_answer_ends_before_a_stop_string(self, client: openai.OpenAI) -> None:
        asked = {"temperature": 0, "max_tokens": 24, "extra_body": ENDLESS}
        whole = text_of(chat(client, "base", "Repeat the word: planet", **asked))
        stop = whole[4:6]
        stopped = chat(client, "base", "Repeat the word: planet", stop=[stop], **asked)
        assert stopped.choices[0].finish_reason == "stop"
        assert text_of(stopped) == whole[: whole.index(stop)]


@pytest.mark.slow
class TestTheStreamHelper:
    def test_gathers_its_events_to_the_whole_answer(self, client: openai.OpenAI) -> None:
        whole = text_of(chat(client, "small", "Reverse the word: stone", temperature=0))
        with client.chat.completions.stream(
            model="small", messages=user("Reverse the word: stone"), temperature=0
        ) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert "".join(deltas) == text_of(final) == whole

    def test_gives_log_probabilities_token_by_token(self, client: openai.OpenAI) -> None:
        pieces = chat_stream(
            client,
            "mini",
            "What is 3 + 4?",
            max_tokens=4,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
            extra_body=ENDLESS,
        )
        told = [one.choices[0].logprobs for one in pieces if one.choices and one.choices[0].delta.content]
        assert told
        assert all(one is not None and one.content and one.content[0].logprob <= 0 for one in told)


@pytest.mark.slow
class TestTools:
    def test_left_to_the_model_are_refused_by_the_engine_and_said_to_be(self, client: openai.OpenAI) -> None:
        """The default models know no form of calls, so cluster.yaml names no `tool_parser` for them."""
        with pytest.raises(openai.BadRequestError) as refused:
            chat(client, "small", "Even or odd: 8", tools=[PARITY], tool_choice="auto")
        assert isinstance(refused.value.body, dict)
        assert refused.value.body["origin"] == "engine"


@pytest.mark.slow
class TestTheClientsOwnWays:
    def test_a_time_out_is_its_own_error_and_frees_the_engine(self, client: openai.OpenAI) -> None:
        hasty = client.with_options(timeout=0.05)
        with pytest.raises(openai.APITimeoutError):
            chat(hasty, "base", "Go on.", max_tokens=400, extra_body=ENDLESS, extra_headers=NO_STORE)
        assert text_of(chat(client, "base", "Even or odd: 3"))

    def test_a_raw_response_has_the_heads_and_the_answer(self, client: openai.OpenAI) -> None:
        with client.chat.completions.with_streaming_response.create(
            model="mini", messages=user("What is 3 + 4?"), temperature=0
        ) as raw:
            assert raw.status_code == 200
            assert raw.headers["x-headroom-model"] == "mini"
            assert text_of(raw.parse())

    def test_many_at_once_in_an_event_loop_are_all_answered(self, cluster: LiveCluster) -> None:
        async def ask_all() -> list[str]:
            transport = openai.DefaultAsyncHttpxClient(trust_env=False)
            async with openai.AsyncOpenAI(
                base_url=f"{cluster.url}/v1", api_key="none", timeout=60, http_client=transport
            ) as client:
                asked = (
                    client.chat.completions.create(model="mini", messages=user(f"What comes after {number}?"))
                    for number in range(16)
                )
                return [answer.choices[0].finish_reason for answer in await asyncio.gather(*asked)]

        assert set(asyncio.run(ask_all())) <= {"stop", "length"}


class TestModeDefaults:
    """A mode speaks only where the request is silent."""

    def test_the_length_is_the_modes_when_the_request_names_none(self, client: openai.OpenAI) -> None:
        usage = chat(client, "fast", "Go on.", extra_body=ENDLESS, extra_headers=NO_STORE).usage
        assert usage is not None
        assert usage.completion_tokens == 64

    def test_the_length_is_the_requests_when_it_names_one(self, client: openai.OpenAI) -> None:
        usage = chat(client, "fast", "Go on.", max_tokens=5, extra_body=ENDLESS, extra_headers=NO_STORE).usage
        assert usage is not None
        assert usage.completion_tokens == 5

    def test_a_model_by_its_name_has_only_its_own_limit(self, client: openai.OpenAI) -> None:
        usage = chat(client, "mini", "Go on.", extra_body=ENDLESS).usage
        assert usage is not None
        assert usage.total_tokens == 512

    def test_temperature_is_the_modes_when_the_request_names_none(self, client: openai.OpenAI) -> None:
        asked = {"max_tokens": 48, "extra_body": ENDLESS, "extra_headers": NO_STORE}
        greedy = {text_of(chat(client, "fast", "Go on.", **asked)) for _ in range(3)}
        creative = {text_of(chat(client, "creative", "Go on.", **asked)) for _ in range(6)}
        assert len(greedy) == 1
        assert len(creative) > 1, "six answers at the temperature of the mode, and all alike"

    def test_temperature_is_the_requests_when_it_names_one(self, client: openai.OpenAI) -> None:
        asked = {"max_tokens": 48, "temperature": 0, "extra_body": ENDLESS, "extra_headers": NO_STORE}
        assert len({text_of(chat(client, "creative", "Go on.", **asked)) for _ in range(3)}) == 1


def chat_stream(client: openai.OpenAI, model: str, text: str, **more: object) -> openai.Stream:  # type: ignore[type-arg]
    stream: openai.Stream = client.chat.completions.create(  # type: ignore[type-arg,call-overload]
        model=model, messages=user(text), stream=True, **more
    )
    return stream
