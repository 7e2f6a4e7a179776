"""A request for a model that sleeps: it is brought back once, and the request waits for it within bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.api.wire import ModelAction, ModelOutcome
from serve_app.config.settings import Settings
from serve_app.gateway.decide import Asleep, Terms, decide
from tests.serve_app.gateway.builders import backend, catalog, chat, decided, not_decided, parsed, settings, table
from tests.serve_app.gateway.serving import Stage, stage, until
from tracing import names

INFERENCE = names.INFERENCE_REQUESTS.name


def asleep(on: Stage, *models: str) -> None:
    """From now on these are asleep, and the others serve."""
    engines = [engine for engine in on.engines if engine.model not in models]
    serving = [backend(engine.model, url=on.urls[engine.model]) for engine in engines]
    on.gateway.update(replace(table(*serving, version=2), wakeable=models))


def back(on: Stage) -> None:
    on.gateway.update(table(*(backend(model, url=url) for model, url in on.urls.items()), version=3))


def patient(timeout_s: float) -> Settings:
    made = settings()
    return replace(made, gateway=replace(made.gateway, wake_timeout_s=timeout_s))


class TestDecision:
    def test_a_sleeping_model_is_woken_when_nobody_else_serves_the_request(self) -> None:
        known = catalog(wakeable=("small",))
        assert decide(parsed(chat("small")), Terms(tenant="t"), known) == Asleep("small")
        assert decide(parsed(chat("fast")), Terms(tenant="t"), known) == Asleep("small")

    def test_a_mode_goes_on_with_a_candidate_that_serves(self) -> None:
        assert decided(chat("fast"), catalog(backend("base"), wakeable=("mini",))).model == "base"

    def test_what_was_taken_away_is_not_woken(self) -> None:
        told = not_decided(chat("mini"), catalog(refusals={"mini": "'mini' was unloaded by hand."}))
        assert (told.code, told.retry_after_s) == ("model_refused", None)


class TestWaking:
    async def test_the_request_waits_and_is_answered(self) -> None:
        async with stage("mini") as on:
            asleep(on, "mini")
            waiting = asyncio.create_task(on.chat(chat("mini")))
            await until(lambda: bool(on.control.acted))
            assert not waiting.done()
            back(on)
            assert (await waiting).status_code == 200

    async def test_many_requests_ask_the_controller_once(self) -> None:
        async with stage("mini") as on:
            asleep(on, "mini")
            waiting = [asyncio.create_task(on.chat(chat("mini", f"{number}"))) for number in range(20)]
            await until(lambda: bool(on.control.acted))
            back(on)
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
            assert on.control.acted == [(ModelAction.WAKE, "mini")]

    async def test_past_its_patience_the_answer_is_503_and_says_when_to_come_again(self) -> None:
        async with stage("mini", of=patient(0.05)) as on:
            asleep(on, "mini")
            answer = await on.chat(chat("mini"))
            assert_unavailable(answer, code="model_waking")
            assert int(answer.headers["retry-after"]) > 0

    async def test_no_room_is_said_with_the_controllers_sentence_and_not_asked_again_at_once(self) -> None:
        async with stage("mini") as on:
            on.control.acts = ModelOutcome.REFUSED
            asleep(on, "mini")
            for _ in range(3):
                answer = await on.chat(chat("mini"))
                assert_unavailable(answer, code="model_refused")
                assert "because" in answer.json()["error"]["message"]
            assert len(on.control.acted) == 1

    async def test_while_another_change_is_under_way_it_is_asked_for_again(self) -> None:
        async with stage("mini") as on:
            on.control.acts = ModelOutcome.BUSY
            asleep(on, "mini")
            waiting = asyncio.create_task(on.chat(chat("mini")))
            await until(lambda: bool(on.control.acted))
            on.control.acts = ModelOutcome.ACCEPTED
            await until(lambda: len(on.control.acted) > 1)
            back(on)
            assert (await waiting).status_code == 200

    async def test_without_the_controller_it_is_a_503(self) -> None:
        async with stage("mini") as on:
            on.control.away = True
            asleep(on, "mini")
            assert_unavailable(await on.chat(chat("mini")), code="controller_unreachable")


class TestActions:
    @pytest.mark.parametrize(
        ("outcome", "status"),
        [("done", 200), ("accepted", 202), ("refused", 422), ("unknown", 404), ("busy", 409)],
    )
    async def test_each_outcome_has_its_status(self, outcome: str, status: int) -> None:
        async with stage("mini") as on:
            on.control.acts = ModelOutcome(outcome)
            answer = await on.http.post("/models/unload", json={"model": "mini"})
            assert (answer.status_code, answer.json()["message"]) == (status, "because")

    @pytest.mark.parametrize("body", [{}, {"model": 3}, {"model": "mini", "now": True}, []])
    async def test_a_malformed_request_is_a_400_and_reaches_nobody(self, body: Any) -> None:
        async with stage("mini") as on:
            assert (await on.http.post("/models/sleep", json=body)).status_code == 400
            assert not on.control.acted

    async def test_there_is_nothing_to_get(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.get("/models/load")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def assert_unavailable(answer: httpx.Response, *, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code), answer.text


class TestAClientThatLeaves:
    async def test_gives_its_place_up_and_nothing_runs_for_it(self) -> None:
        async with stage("mini") as on:
            asleep(on, "mini")
            waiting = asyncio.create_task(on.chat(chat("mini")))
            await until(lambda: bool(on.control.acted))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await until(lambda: on.counted(INFERENCE, "none", "none", "cancelled") == 1)
            back(on)
            assert on.engine.counts.num_started == 0
