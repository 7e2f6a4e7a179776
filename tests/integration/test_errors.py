"""Requests that are wrong: each refused at once, in OpenAI's form, with what would have been right."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.integration.asking import ENDLESS, chat, error_of, post_chat, user

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FIELDS = {"message", "type", "param", "code"}


class TestNames:
    def test_an_unknown_model_is_not_found_and_the_valid_ones_are_named(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            chat(client, "gpt-4", "What is 1 + 1?")
        assert refused.value.code == "model_not_found"
        assert refused.value.param == "model"
        assert all(name in refused.value.message for name in ("gpt-4", "mini", "small", "base", "fast", "creative"))

    def test_an_unknown_mode_is_not_found_and_the_valid_ones_are_named(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            chat(client, "mini", "What is 1 + 1?", extra_headers={"x-headroom-mode": "slow"})
        assert refused.value.code == "mode_not_found"
        assert "fast, balanced, creative" in refused.value.message

    def test_a_request_that_names_neither_is_refused(self, http: httpx.Client) -> None:
        answer = post_chat(http, {"messages": user("What is 1 + 1?")})
        assert answer.status_code == 400
        assert error_of(answer)["param"] == "model"

    def test_an_unknown_path_names_the_known_ones(self, http: httpx.Client) -> None:
        answer = http.get("/v2/chat")
        assert answer.status_code == 404
        assert "/v1/chat/completions" in error_of(answer)["message"]

    def test_a_wrong_method_names_the_right_one(self, http: httpx.Client) -> None:
        answer = http.get("/v1/chat/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


class TestBodies:
    @pytest.mark.parametrize("body", [b"", b"{", b'{"model": "mini", "messages": [', b"\xff\xfe", b"[]", b'"mini"'])
    def test_what_is_no_json_object_is_refused(self, http: httpx.Client, body: bytes) -> None:
        answer = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert error_of(answer).keys() >= FIELDS
        assert error_of(answer)["code"] == "invalid_json"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("messages", []),
            ("messages", "hello"),
            ("messages", [{"role": "wizard", "content": "hello"}]),
            ("temperature", "hot"),
            ("temperature", 3),
            ("max_tokens", -1),
            ("max_tokens", 0),
            ("max_tokens", 1.5),
            ("n", 0),
            ("n", 10**9),
            ("stream", "yes"),
            ("top_p", 0),
            ("prompt_embeds", "AAAA"),
            ("colour", "red"),
        ],
    )
    def test_a_wrong_value_is_refused_by_the_name_of_its_field(
        self, client: openai.OpenAI, field: str, value: Any
    ) -> None:
        asked = {"model": "mini", "messages": user("What is 1 + 1?"), field: value}
        with pytest.raises(openai.BadRequestError) as refused:
            client.post("/chat/completions", body=asked, cast_to=object)
        assert refused.value.type == "invalid_request_error"
        assert str(refused.value.param).startswith(field)
        assert field in refused.value.message

    def test_a_body_above_the_limit_is_too_large(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as refused:
            chat(client, "mini", "7" * (2 << 20))
        assert refused.value.status_code == 413
        assert str(1 << 20) in refused.value.message

    def test_a_body_just_below_the_limit_is_read(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            chat(client, "mini", "7" * ((1 << 20) - 200))


class TestLengths:
    def test_a_prompt_longer_than_the_model_takes_is_refused_with_the_limit(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="512"):
            chat(client, "mini", "7 " * 600)

    def test_prompt_and_answer_share_the_models_limit(self, client: openai.OpenAI) -> None:
        usage = chat(client, "base", "What is 1 + 1?", max_tokens=512, extra_body=ENDLESS).usage
        assert usage is not None
        assert usage.total_tokens == 512

    @pytest.mark.parametrize("limit", [513, 10**9, 2**62])
    def test_more_tokens_than_the_model_takes_are_refused_with_the_limit(
        self, client: openai.OpenAI, limit: int
    ) -> None:
        with pytest.raises(openai.BadRequestError, match="512") as refused:
            chat(client, "small", "What is 1 + 1?", max_tokens=limit)
        assert refused.value.param == "max_tokens"

    def test_a_wrong_request_is_refused_as_one_body_when_a_stream_was_asked_for(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="512"):
            chat(client, "mini", "7 " * 600, stream=True)
