"""The OpenAPI document against the gateway it describes, over real sockets and with scripted engines."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serve_app.access.authorize import authorize
from serve_app.access.needs import Anyone, need_of
from serve_app.api.errors import ApiError
from serve_app.api.fields import CHAT_FIELDS, COMPLETION_FIELDS
from serve_app.api.openapi import FIELD_SCHEMAS, openapi_document, request_schema
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.standalone import standalone_gateway
from tests.serve_app.access.makers import NOW_S, opened
from tests.serve_app.gateway.from_schema import JSON, nearly_valid, valid
from tests.serve_app.gateway.serving import Stage, stage

NAMES = st.sampled_from(["mini", "fast", "balanced", "creative"])
GATEWAY = standalone_gateway([], secret="s")


async def document(on: Stage) -> dict[str, Any]:
    answer = await on.http.get("/openapi.json")
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


def operations(told: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method.upper(), one) for path, ways in told["paths"].items() for method, one in ways.items()]


def own_document() -> dict[str, Any]:
    async def asked() -> dict[str, Any]:
        async with stage("mini") as on:
            return await document(on)

    return asyncio.run(asked())


DOCUMENT = own_document()
OPERATIONS = operations(DOCUMENT)


def body_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    if "requestBody" not in operation:
        return None
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def asked(body: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Good bodies, bodies with one wrong part, other JSON, and no JSON."""
    objects = valid(body) | nearly_valid(body)
    named = st.builds(lambda one, name: {**one, "model": name} if "model" in one else one, objects, NAMES)
    return (objects | named | JSON).map(lambda one: json.dumps(one).encode()) | st.binary(max_size=40)


class TestTheDocument:
    def test_has_every_route_of_the_gateway(self) -> None:
        assert set(DOCUMENT["paths"]) == set(GATEWAY.paths)

    def test_names_every_field_that_is_accepted_and_no_other(self) -> None:
        assert FIELD_SCHEMAS.keys() | {"logprobs"} == CHAT_FIELDS.keys() | COMPLETION_FIELDS.keys()

    @pytest.mark.parametrize("endpoint", Endpoint)
    @given(st.data())
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_allows_of_each_field_what_its_check_does(self, endpoint: Endpoint, data: st.DataObject) -> None:
        checks = CHAT_FIELDS if endpoint is Endpoint.CHAT else COMPLETION_FIELDS
        for name, schema in request_schema(endpoint)["properties"].items():
            value = data.draw(valid(schema), label=name)
            assert checks[name](value) is None

    def test_leaves_no_route_open_but_health(self) -> None:
        store, _, _ = opened()
        for path, method, operation in OPERATIONS:
            refused = isinstance(authorize(path, method, [], store.snapshot(), now_s=NOW_S), ApiError)
            assert refused is bool(operation["security"]) is (path != "/health"), path

    def test_asks_a_key_for_what_nobody_listed(self) -> None:
        told = openapi_document(reads=["/of-tomorrow"], posts=())
        assert told["paths"]["/of-tomorrow"]["get"]["security"]
        assert need_of("/of-tomorrow", "GET") is not Anyone.OPEN


class TestTheGateway:
    @pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=[f"{m} {p}" for p, m, _ in OPERATIONS])
    @given(st.data())
    @settings(
        max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.reuse, Phase.generate]
    )
    def test_answers_everything_with_less_than_500_in_the_form_it_says(
        self, path: str, method: str, operation: dict[str, Any], data: st.DataObject
    ) -> None:
        schema = body_schema(operation)
        bodies = [b""] * 8 if schema is None else [data.draw(asked(schema)) for _ in range(8)]
        part = quote(data.draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)), safe="")
        asyncio.run(self._ask_all(path.replace("{id}", part), method, bodies))

    async def _ask_all(self, path: str, method: str, bodies: list[bytes]) -> None:
        async with stage("mini") as on:
            for body in bodies:
                headers = {"content-type": "application/json"}
                answer = await on.http.request(method, path, content=body, headers=headers)
                assert answer.status_code < 500, (body, answer.text)
                if answer.status_code >= 400:
                    error = answer.json()["error"]
                    assert error["message"]
                    assert {"type", "param", "code"} <= error.keys()
