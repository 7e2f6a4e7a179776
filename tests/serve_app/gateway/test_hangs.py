"""Hung or busy: what silence means, and who may say that an engine is back."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.scripted import Behaviour
from serve_app.gateway.breakers import BreakerState
from serve_app.gateway.hangs import HangWatch, Pulse
from tests.serve_app.gateway.builders import chat, settings
from tests.serve_app.gateway.serving import stage, until

N_S = 10.0
BUSY = {"a": 3}


def watch() -> HangWatch:
    made = HangWatch(silence_s=N_S)
    made.began("a", 0.0, is_first=True)
    return made


class TestSilence:
    def test_without_requests_means_nothing(self) -> None:
        on = watch()
        assert on.look({}, 100.0) == []
        assert on.pulse("a") is Pulse.FINE

    def test_with_requests_is_a_suspicion_and_a_question(self) -> None:
        on = watch()
        assert on.look(BUSY, N_S - 0.1) == []
        assert on.look(BUSY, N_S) == ["a"]
        assert on.pulse("a") is Pulse.SUSPECT

    def test_is_a_hang_after_twice_the_time(self) -> None:
        on = watch()
        on.look(BUSY, N_S)
        on.look(BUSY, 2 * N_S)
        assert on.pulse("a") is Pulse.HUNG

    def test_before_the_first_request_does_not_count(self) -> None:
        on = watch()
        on.began("a", 500.0, is_first=True)
        assert on.look(BUSY, 500.0 + N_S - 0.1) == []

    @given(st.lists(st.floats(0.0, N_S - 0.01), max_size=50))
    def test_of_a_busy_one_never_lasts_long_enough(self, gaps_s: list[float]) -> None:
        on, now_s = watch(), 0.0
        for gap_s in gaps_s:
            now_s += gap_s
            assert on.look(BUSY, now_s) == []
            on.heard("a", now_s)
        assert on.pulse("a") is Pulse.FINE

    def test_of_a_busy_one_that_answers_the_question_is_forgiven(self) -> None:
        on = watch()
        on.look(BUSY, N_S)
        on.answered("a", N_S + 9.0)
        assert on.look(BUSY, 2 * N_S) == []
        assert on.pulse("a") is Pulse.FINE


class TestAHungOne:
    def test_is_asked_again_and_again_though_it_holds_nothing(self) -> None:
        on = watch()
        on.look(BUSY, N_S)
        assert on.look({}, 2 * N_S) == ["a"]
        assert on.look({}, 3 * N_S) == ["a"]

    def test_comes_back_by_an_answer_only(self) -> None:
        on = watch()
        on.look(BUSY, N_S)
        on.look(BUSY, 2 * N_S)
        on.heard("a", 21.0)
        assert on.pulse("a") is Pulse.HUNG
        on.answered("a", 22.0)
        assert on.pulse("a") is Pulse.FINE


class TestTheAddress:
    async def test_sends_nothing_to_a_hung_engine_until_it_answers_again(self) -> None:
        of = settings()
        of = dataclasses.replace(of, gateway=dataclasses.replace(of.gateway, hang_after_s=0.1))
        async with stage("mini", "mini", of=of) as on:
            loads, (hung, well) = on.gateway._loads, on.engines
            hung.behaviour = Behaviour.HANG
            stuck = [asyncio.create_task(on.chat(chat("mini", text=f"stuck {number}"))) for number in range(2)]
            await until(lambda: loads.state("mini#0") is BreakerState.OPEN)
            on.gateway.show_breakers()
            before = well.counts.num_started
            assert {(await on.chat(chat("mini", text=str(number)))).status_code for number in range(6)} == {200}
            assert well.counts.num_started == before + 6
            hung.behaviour = Behaviour.GOOD
            await until(lambda: loads.state("mini#0") is BreakerState.CLOSED)
            for one in stuck:
                one.cancel()

    @pytest.mark.parametrize("stream", [False, True])
    async def test_leaves_a_slow_engine_alone_that_answers_questions(self, stream: bool) -> None:
        of = settings()
        of = dataclasses.replace(of, gateway=dataclasses.replace(of.gateway, hang_after_s=0.2))
        async with stage("mini", "mini", of=of, num_words=20, token_s=0.02) as on:
            answer = await on.chat(chat("mini", stream=stream))
            assert answer.status_code == 200
            assert on.gateway._loads.state("mini#0") is BreakerState.CLOSED
            assert on.gateway._loads.state("mini#1") is BreakerState.CLOSED
