"""What a body must be: everything else is refused in the gateway, with the field's name, before any engine sees it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.errors import ApiError
from serve_app.api.fields import CHAT_FIELDS, REFUSED_FIELDS
from serve_app.api.messages import _KEYS as _MESSAGE_KEYS
from serve_app.api.requests import InferenceRequest, parse_request
from serve_app.engines.protocol import Endpoint
from tests.serve_app.gateway.builders import chat, parsed, refused

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_NESTED: dict[str, Any] = {}
for _ in range(40):
    _NESTED = {"properties": {"a": _NESTED}}


class TestABodyThatIsNoRequest:
    @pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[]", b'"text"', b"null", b"12", b"[" * 5000])
    def test_is_refused_with_400(self, raw: bytes) -> None:
        error = refused(raw)
        assert (error.status, error.type, error.code) == (400, "invalid_request_error", "invalid_json")

    def test_has_an_openai_error_body_with_its_origin(self) -> None:
        error = orjson.loads(refused(chat(temperature=9)).body())["error"]
        assert error.keys() == {"message", "type", "param", "code", "origin"}
        assert (error["param"], error["origin"]) == ("temperature", "gateway")


class TestAField:
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [{"role": "user"}]}, "messages[0]"),
            ({"messages": [{"role": "owner", "content": "x"}]}, "messages[0]"),
            ({"messages": [{"role": {}, "content": "x"}]}, "messages[0]"),
            ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0]"),
            ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": 5}]}, "messages[1]"),
            ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0]"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": 1.5}, "max_tokens"),
            ({"max_tokens": "5"}, "max_tokens"),
            ({"max_tokens": True}, "max_tokens"),
            ({"max_completion_tokens": 0}, "max_completion_tokens"),
            ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
            ({"temperature": -0.1}, "temperature"),
            ({"temperature": 2.1}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"top_p": 1.01}, "top_p"),
            ({"n": 0}, "n"),
            ({"n": 9}, "n"),
            ({"n": 1_000_000_000}, "n"),
            ({"stream": "yes"}, "stream"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"stream": True, "stream_options": {"continuous": True}}, "stream_options"),
            ({"stop": ["a"] * 17}, "stop"),
            ({"stop": [""]}, "stop"),
            ({"top_logprobs": 3}, "top_logprobs"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            ({"model": 5}, "model"),
            ({"min_tokens": -1}, "min_tokens"),
            ({"logit_bias": {"5": 101}}, "logit_bias"),
            ({"tools": []}, "tools"),
            ({"tool_choice": {"type": "function", "function": {"name": "f", "more": [[]]}}}, "tool_choice"),
            ({"response_format": {"type": "regex"}}, "response_format"),
        ],
    )
    def test_with_a_bad_value_is_refused_by_name(self, fields: dict[str, Any], param: str) -> None:
        error = refused(chat() | fields)
        assert (error.status, error.param) == (400, param)

    def test_that_is_missing_is_named(self) -> None:
        assert refused({"model": "fast"}).param == "messages"
        assert refused({"model": "fast"}, Endpoint.COMPLETION).param == "prompt"

    def test_that_is_null_counts_as_not_given(self) -> None:
        request = parsed(chat(temperature=None, tools=None, stop=None))
        assert request.fields.keys() == {"model", "messages"}

    def test_that_nobody_knows_is_refused_and_the_valid_ones_are_named(self) -> None:
        error = refused(chat(temprature=1))
        assert error.param == "temprature"
        assert all(name in error.message for name in CHAT_FIELDS)

    @pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
    def test_that_is_dangerous_is_refused_with_the_reason(self, name: str) -> None:
        error = refused(chat(**{name: "x"}))
        assert (error.status, error.param, error.code) == (400, name, "refused_parameter")
        assert REFUSED_FIELDS[name] in error.message

    @pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
    def test_part_that_would_make_the_engine_fetch_something_is_refused(self, kind: str) -> None:
        part = {"type": kind, kind: {"url": "http://127.0.0.1:1/secret"}}
        error = refused({"model": "fast", "messages": [{"role": "user", "content": [part]}]})
        assert error.status == 400
        assert kind in error.message

    def test_that_clients_send_for_others_is_accepted_and_not_forwarded(self) -> None:
        assert "user" not in parsed(chat(user="somebody", metadata={"a": "b"}, store=False)).fields

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string", "pattern": "(a+)+$"},
            {"type": "string", "pattern": "a" * 300},
            {"type": "string", "pattern": "[a-z]{1,100000}"},
            {"type": "array", "maxItems": 10**9},
            {"$ref": "http://127.0.0.1/schema"},
            {"enum": list(range(5000))},
            _NESTED,
        ],
    )
    def test_schema_that_would_burst_is_refused(self, schema: dict[str, Any]) -> None:
        formatted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert refused(chat(response_format=formatted)).param == "response_format"
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        assert refused(chat(tools=[tool])).param == "tools"


class TestAGoodRequest:
    @pytest.mark.parametrize(
        "fields",
        [
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
            {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b", "name": "n"}]},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
            {"response_format": {"type": "json_object"}},
            {"stream": True, "stream_options": {"include_usage": True}},
            {"logprobs": True, "top_logprobs": 5, "n": 8, "seed": -3, "stop": "x"},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ],
    )
    def test_is_taken_as_it_is(self, fields: dict[str, Any]) -> None:
        assert parsed(chat() | fields).fields.items() >= fields.items()

    def test_with_tool_calls_and_their_results_is_taken(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]
        assert parsed(chat() | {"messages": messages}).fields["messages"] == messages

    @pytest.mark.parametrize("prompt", ["hi", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
    def test_takes_each_form_of_prompt(self, prompt: Any) -> None:
        assert parsed({"model": "fast", "prompt": prompt}, Endpoint.COMPLETION).fields["prompt"] == prompt

    @pytest.mark.parametrize("prompt", ["", [], [""], ["a", 1], [[]], [[1], "a"], ["a"] * 33, {"a": 1}, [-1]])
    def test_needs_a_prompt_that_is_not_empty(self, prompt: Any) -> None:
        assert refused({"model": "fast", "prompt": prompt}, Endpoint.COMPLETION).param == "prompt"

    def test_says_how_many_choices_a_whole_answer_has(self) -> None:
        body = {"model": "fast", "prompt": ["a", "b", "c"], "n": 2}
        assert parsed(body, Endpoint.COMPLETION).num_choices == 6

    @given(
        st.lists(
            st.dictionaries(st.sampled_from(sorted(_MESSAGE_KEYS)), ANYTHING | st.just("user"), max_size=4), max_size=3
        )
    )
    def test_or_a_refusal_is_what_any_value_in_a_message_gives(self, messages: Any) -> None:
        try:
            raw = orjson.dumps(chat() | {"messages": messages})
        except TypeError:  # integers beyond 64 bits are no JSON of orjson's
            return
        request = parse_request(Endpoint.CHAT, raw)
        assert isinstance(request, InferenceRequest) or request.status == 400

    @given(ANYTHING, st.sampled_from(sorted(CHAT_FIELDS)))
    def test_or_a_refusal_is_what_any_value_of_any_field_gives(self, value: Any, name: str) -> None:
        try:
            raw = orjson.dumps(chat() | {name: value})
        except TypeError:  # integers beyond 64 bits are no JSON of orjson's
            return
        request = parse_request(Endpoint.CHAT, raw)
        assert isinstance(request, InferenceRequest | ApiError)
        if isinstance(request, ApiError):
            assert request.status == 400
