"""Laws of the cache, told of the whole gateway: whose answer anybody may be given."""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serve_app.api.fields import CHAT_FIELDS, COMPLETION_FIELDS
from serve_app.engines.protocol import Endpoint
from tests.serve_app.access.makers import grant, key_store, made
from tests.serve_app.gateway.builders import backend, chat, parsed, table
from tests.serve_app.gateway.builders import settings as gateway_settings
from tests.serve_app.gateway.serving import Stage, served, stage, two_gateways, until

NOW_S = 1.0
TENANTS = ("ours", "theirs")
VERSIONS = ("old", "new")
FIELDS: tuple[dict[str, Any], ...] = ({}, {"seed": 1}, {"stream": True})

asked = st.lists(
    st.tuples(
        st.sampled_from(TENANTS),
        st.sampled_from(VERSIONS),
        st.sampled_from(("fast", "balanced")),
        st.integers(0, len(FIELDS) - 1),
        st.sampled_from(("", "", "no-cache", "no-store")),
    ),
    max_size=30,
)

PATIENCE_S = 120.0
PATIENT = gateway_settings(first_token_timeout_s=PATIENCE_S, between_tokens_timeout_s=PATIENCE_S)
"""For hundreds of connections on a busy machine."""
COMPARING = dataclasses.replace(
    PATIENT, modes=tuple(dataclasses.replace(mode, semantic_similarity=0.8) for mode in PATIENT.modes)
)
WEATHER, TIME = (
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("weather", "time")
)
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
SHARED: dict[str, tuple[Any, Any]] = {
    "model": ("fast", "balanced"),
    "frequency_penalty": (0.5, 0.25),
    "presence_penalty": (0.5, 0.25),
    "repetition_penalty": (1.5, 1.25),
    "logit_bias": ({"7": 1}, {"7": 2}),
    "max_tokens": (7, 8),
    "min_tokens": (1, 2),
    "n": (2, 3),
    "seed": (1, 2),
    "stop": ("a", ["a"]),
    "stop_token_ids": ([1], [2]),
    "stream": (True, False),
    "stream_options": ({"include_usage": True}, {"include_usage": False}),
    "temperature": (0.5, 0.25),
    "top_p": (0.5, 0.25),
    "top_k": (5, 6),
    "min_p": (0.5, 0.25),
    "ignore_eos": (True, False),
    "skip_special_tokens": (True, False),
    "include_stop_str_in_output": (True, False),
    "response_format": ({"type": "json_object"}, JSON_SCHEMA),
}
CHAT: dict[str, tuple[Any, Any]] = {
    **SHARED,
    "messages": ([{"role": "user", "content": "What is 3 + 4?"}], [{"role": "user", "content": "What is 3 + 5?"}]),
    "max_completion_tokens": (7, 8),
    "logprobs": (True, False),
    "top_logprobs": (1, 2),
    "tools": ([WEATHER], [TIME]),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": ("low", "high"),
}
COMPLETION: dict[str, tuple[Any, Any]] = {
    **SHARED,
    "prompt": ("a", ["a"]),
    "echo": (True, False),
    "logprobs": (1, 2),
}
NEEDED: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [WEATHER]},
    "parallel_tool_calls": {"tools": [WEATHER]},
}


class TestAnAnswer:
    @given(script=asked)
    @settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    async def test_is_given_again_exactly_to_its_tenant_for_the_same_request_of_the_same_weights(
        self, script: list[tuple[str, str, str, int, str]]
    ) -> None:
        """A model of the cache beside the gateway: what it holds is known by all that an answer depends on."""
        async with stage("mini") as one:
            store = key_store()
            root, _ = made(store, now_s=NOW_S)
            keys = {tenant: made(store, grant(tenant=tenant), by=root.id, now_s=NOW_S)[1] for tenant in TENANTS}
            held: dict[tuple[str, ...], bytes] = {}
            for number, (tenant, version, mode, field, control) in enumerate(script):
                if not number or version != script[number - 1][1]:  # an update forgets decisions: none without need
                    serving = backend("mini", url=one.urls["mini"], version=version)
                    shown = dataclasses.replace(table(serving, version=number + 2), access=store.snapshot())
                    one.gateway.update(shown)
                headers = {"authorization": f"Bearer {keys[tenant].decode()}"}
                headers |= {"cache-control": control} if control else {}  # with it no decision is remembered
                answer = await one.chat(chat(mode, **FIELDS[field]), **headers)
                same = (tenant, version, mode, str(FIELDS[field]))
                is_hit = answer.headers["x-headroom-cache"] == "hit"
                assert is_hit == (same in held and not control), same
                if is_hit:
                    assert answer.content == held[same]
                elif control != "no-store":
                    held[same] = answer.content


class TestTwoGateways:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_make_one_run_for_500_equal_requests(self, stream: bool) -> None:
        async with two_gateways(of=PATIENT) as (one, other):
            await make_one_run(one, other, stream=stream)


async def make_one_run(one: Stage, other: Stage, *, stream: bool) -> None:
    """250 requests at each gateway, all before the engine says a word."""
    one.engine.gate = asyncio.Event()
    asked = [asyncio.create_task(on.chat_alone(chat(stream=stream))) for on in (one, other) for _ in range(250)]
    shared = [on.gateway._meters.cache["fast"] for on in (one, other)]
    await until(lambda: sum(counts.shared for counts in shared) == 499, deadline_s=PATIENCE_S)
    one.engine.gate.set()
    answers = await asyncio.gather(*asked)
    assert one.engine.counts.num_started == 1
    assert len({content for _, content in answers}) == 1


class TestEveryField:
    """Walked over all that is accepted, so that a new field is told to this table or fails here."""

    @pytest.mark.parametrize(("table_of", "accepted"), [(CHAT, CHAT_FIELDS), (COMPLETION, COMPLETION_FIELDS)])
    def test_of_the_accepted_is_in_the_table(self, table_of: dict[str, Any], accepted: dict[str, Any]) -> None:
        assert table_of.keys() == accepted.keys()

    @pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETION])
    async def test_that_differs_is_another_answer(self, endpoint: Endpoint) -> None:
        """Each twice as one value and once as the other: a hit, and none. Similar questions are compared too."""
        async with stage("mini", "small", of=COMPARING) as on:
            for name, (one, other) in (CHAT if endpoint is Endpoint.CHAT else COMPLETION).items():
                bodies = [body_of(endpoint, name, value) for value in (one, one, other)]
                answers = [await on.http.post(endpoint.value, json=body) for body in bodies]
                assert [answer.status_code for answer in answers] == [200, 200, 200], (name, answers[-1].text)
                assert [answer.headers["x-headroom-cache"] for answer in answers] == ["miss", "hit", "miss"], name

    @pytest.mark.parametrize("name", sorted(COMPLETION_FIELDS.keys() | CHAT_FIELDS.keys()))
    def test_left_out_of_the_key_would_be_caught(self, name: str) -> None:
        """The law fails on a broken key, field by field."""
        endpoint = Endpoint.CHAT if name in CHAT else Endpoint.COMPLETION
        values = (CHAT if name in CHAT else COMPLETION)[name]
        fields = [dict(parsed(body_of(endpoint, name, value), endpoint).fields) for value in values]
        assert fields[0] != fields[1]
        for one in fields:
            one.pop(name, None)
        alike = [field for field in fields[0] if fields[0][field] != fields[1].get(field)]
        assert alike == [], "nothing but this field tells the two apart"


def body_of(endpoint: Endpoint, name: str, value: Any) -> dict[str, Any]:
    """A request of its own for each field, so that no two fields meet in one cache."""
    text = f"What of {name}?"
    base: dict[str, Any] = {"model": "fast", **NEEDED.get(name, {})}
    content = {"messages": [{"role": "user", "content": text}]} if endpoint is Endpoint.CHAT else {"prompt": text}
    return {**base, **content, name: value}


class Played:
    """An engine that streams these bytes in these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.num_asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.num_asked += 1
        await receive()
        events = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [events]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


texts = st.text(max_size=12)
calls = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "function": st.fixed_dictionaries({"arguments": texts}, optional={"name": texts})},
    optional={"id": texts, "type": st.just("function")},
)
deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": texts | st.none(),
        "reasoning_content": texts,
        "reasoning": texts,
        "tool_calls": st.lists(calls, min_size=1, max_size=2),
    },
)


class TestAStreamedHit:
    @given(said=st.lists(deltas, min_size=1, max_size=6), cuts=st.lists(st.integers(1, 400), max_size=6))
    @settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    async def test_is_the_miss_byte_for_byte_with_tools_and_reasoning_however_it_came(
        self, said: list[dict[str, Any]], cuts: list[int]
    ) -> None:
        whole = b"".join(chunk_of(delta) for delta in said) + chunk_of({}, finish="tool_calls") + b"data: [DONE]\n\n"
        places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
        engine = Played([whole[one:other] for one, other in pairwise(places)])
        async with stage("mini") as on, served(engine) as url:
            on.gateway.update(table(backend("mini", url=url), version=2))
            miss, hit = [await on.chat(chat(stream=True)) for _ in range(2)]
        assert [answer.headers["x-headroom-cache"] for answer in (miss, hit)] == ["miss", "hit"]
        assert miss.content == hit.content == whole
        assert engine.num_asked == 1


def chunk_of(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mini", "choices": [choice]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
