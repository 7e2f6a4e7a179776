"""Where a request goes: mode, model, body and cache, decided without clock, network or load."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from serve_app.gateway.decide import Bypass
from tests.serve_app.gateway.builders import backend, catalog, chat, decided, model_settings, not_decided, settings

ALL = tuple(backend(model) for model in ("mini", "small", "base"))


def _body(decision: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(decision.body)
    return body


class TestTheMode:
    def test_is_taken_from_the_model_name(self) -> None:
        decision = decided(chat("creative"), catalog(*ALL))
        assert (decision.mode, decision.model) == ("creative", "mini")

    def test_is_taken_from_the_header_when_no_model_is_named(self) -> None:
        assert decided(chat(None), catalog(*ALL), mode="balanced").mode == "balanced"

    def test_of_the_header_holds_for_a_model_named_by_its_id(self) -> None:
        decision = decided(chat("base"), catalog(*ALL), mode="creative")
        assert (decision.mode, decision.model) == ("creative", "base")
        assert _body(decision)["temperature"] == 0.9

    def test_is_none_for_a_model_named_alone(self) -> None:
        decision = decided(chat("base"), catalog(*ALL))
        assert (decision.mode, decision.key, decision.bypass) == ("none", None, Bypass.NO_MODE)

    def test_that_nobody_knows_is_404_and_names_the_valid_ones(self) -> None:
        error = not_decided(chat("mini"), catalog(*ALL), mode="turbo")
        assert (error.status, error.code) == (404, "mode_not_found")
        assert "fast, balanced, creative" in error.message

    def test_asked_for_twice_and_differently_is_refused(self) -> None:
        error = not_decided(chat("fast"), catalog(*ALL), mode="creative")
        assert (error.status, error.code) == (400, "conflict")

    def test_asked_for_twice_alike_is_fine(self) -> None:
        assert decided(chat("fast"), catalog(*ALL), mode="fast").mode == "fast"


class TestTheModel:
    def test_that_nobody_knows_is_404_and_names_models_and_modes(self) -> None:
        error = not_decided(chat("gpt-9"), catalog(*ALL))
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert all(name in error.message for name in ("mini", "small", "base", "fast", "balanced", "creative"))

    def test_must_be_named_when_no_mode_is(self) -> None:
        assert not_decided(chat(None), catalog(*ALL)).param == "model"

    def test_is_the_first_candidate_that_is_ready(self) -> None:
        known = catalog(backend("small"), backend("base"))
        assert decided(chat("fast"), known).model == "small"

    def test_named_by_its_id_is_never_replaced(self) -> None:
        error = not_decided(chat("mini"), catalog(backend("small")))
        assert (error.status, error.code) == (503, "model_not_ready")
        assert "'mini'" in error.message
        assert error.retry_after_s

    def test_that_is_refused_says_why_and_asks_nobody_to_come_back(self) -> None:
        error = not_decided(chat("mini"), catalog(backend("small"), refusals={"mini": "No room: it needs 9 GiB."}))
        assert (error.status, error.code, error.retry_after_s) == (503, "model_refused", None)
        assert "No room: it needs 9 GiB." in error.message

    def test_of_a_mode_with_one_refused_and_one_late_candidate_is_worth_waiting_for(self) -> None:
        known = catalog(of=settings(candidates={"fast": ("mini", "small")}), refusals={"mini": "No room."})
        assert not_decided(chat("fast"), known).code == "model_not_ready"

    def test_of_a_mode_without_any_ready_candidate_is_503_naming_them_all(self) -> None:
        of = settings(candidates={"fast": ("mini", "small")})
        error = not_decided(chat("fast"), catalog(backend("base"), of=of))
        assert (error.status, error.retry_after_s) == (503, 5)
        assert "'mini', 'small'" in error.message

    def test_id_stands_in_the_body_the_engine_gets(self) -> None:
        assert _body(decided(chat("fast"), catalog(*ALL)))["model"] == "mini"

    def test_unknown_to_the_settings_is_never_served(self) -> None:
        assert not_decided(chat("ghost"), catalog(backend("ghost"))).status == 404


class TestTheBody:
    def test_has_the_mode_defaults_only_where_the_request_is_silent(self) -> None:
        body = _body(decided(chat("creative", temperature=0.1), catalog(*ALL)))
        assert (body["temperature"], body["max_tokens"]) == (0.1, 64)

    def test_has_no_second_token_limit_beside_the_callers(self) -> None:
        assert "max_tokens" not in _body(decided(chat("fast", max_completion_tokens=5), catalog(*ALL)))

    def test_of_a_model_named_alone_is_the_callers_own(self) -> None:
        assert _body(decided(chat("base"), catalog(*ALL))) == chat("base")

    def test_of_a_stream_asks_the_engine_for_usage(self) -> None:
        decision = decided(chat("fast", stream=True), catalog(*ALL))
        assert _body(decision)["stream_options"] == {"include_usage": True}
        assert not decision.include_usage

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "min_tokens"])
    def test_with_more_tokens_than_the_model_takes_is_refused_with_the_limit(self, name: str) -> None:
        error = not_decided(chat("mini") | {name: 513}, catalog(*ALL))
        assert (error.status, error.param) == (400, name)
        assert "512" in error.message
        assert _body(decided(chat("mini") | {name: 512}, catalog(*ALL)))[name] == 512


class TestTheCache:
    def test_is_asked_in_a_mode(self) -> None:
        decision = decided(chat("fast"), catalog(*ALL))
        assert (len(decision.key or b""), decision.bypass, decision.cache_ttl_s) == (32, None, 300.0)

    def test_is_not_asked_where_the_mode_has_none(self) -> None:
        known = catalog(*ALL, of=settings(ttl_s={"fast": 0.0}))
        assert decided(chat("fast"), known).bypass is Bypass.MODE_HAS_NO_CACHE

    def test_is_neither_read_nor_filled_with_no_store(self) -> None:
        decision = decided(chat("fast"), catalog(*ALL), no_store=True)
        assert (decision.key, decision.bypass) == (None, Bypass.NO_STORE)

    def test_is_filled_but_not_read_with_no_cache(self) -> None:
        decision = decided(chat("fast"), catalog(*ALL), no_cache=True)
        assert decision.key == decided(chat("fast"), catalog(*ALL)).key
        assert decision.bypass is Bypass.NO_CACHE


class TestBackends:
    def test_of_one_request_all_have_the_same_weights(self) -> None:
        mixed = [backend("mini", number=number, version="old" if number < 2 else "new") for number in range(5)]
        decision = decided(chat("mini"), catalog(*mixed))
        assert {one.weights_version for one in decision.backends} == {"new"}

    def test_max_length_is_the_shortest_of_the_serving(self) -> None:
        known = catalog(backend("mini"), backend("mini", number=1, max_model_len=128))
        assert "128" in not_decided(chat("mini", max_tokens=200), known).message
        assert model_settings(settings(), "mini").max_model_len == 512
