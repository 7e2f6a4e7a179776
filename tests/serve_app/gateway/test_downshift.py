"""One step down under pressure: when, where to, and that it is never hidden."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import orjson
import pytest

from serve_app.config.settings import Settings
from serve_app.gateway.pressure import CALM_S, MIN_TIMED, WINDOW_S, Pressure, RecentTimes, Signs, Why, ways_down
from tests.serve_app.gateway.builders import chat, settings
from tests.serve_app.gateway.serving import Stage, stage, until

CANDIDATES = {"fast": ("mini",), "balanced": ("small", "mini"), "creative": ("base", "small")}
NAMES = ("x-headroom-model", "x-headroom-mode", "x-headroom-downshifted-from")


def stairs() -> Settings:
    of = settings(candidates=CANDIDATES)
    below = {"creative": "balanced", "balanced": "fast"}
    modes = tuple(dataclasses.replace(mode, downshift_to=below.get(mode.name)) for mode in of.modes)
    return dataclasses.replace(of, modes=modes)


def signs(num_queued: int = 0, **more: object) -> Signs:
    return Signs(num_queued=num_queued, limit=10, **more)  # type: ignore[arg-type]  # by name


class TestPressure:
    @pytest.mark.parametrize(
        ("seen", "why"),
        [
            (signs(), None),
            (signs(5), None),
            (signs(6), Why.QUEUE),
            (signs(p95_s=3.0, target_s=2.5), Why.LATENCY),
            (signs(p95_s=2.0, target_s=2.5), None),
            (signs(p95_s=9.0), None),
            (signs(fails=True), Why.FAILING),
        ],
    )
    def test_is_judged_by_queue_latency_and_breakers(self, seen: Signs, why: Why | None) -> None:
        assert Pressure().see("base", "creative", seen, 0.0) is why

    def test_once_there_goes_only_when_all_is_well_for_a_while(self) -> None:
        on = Pressure()
        told = [
            on.see("base", "creative", signs(num_queued), now_s)
            for num_queued, now_s in [(6, 0.0), (3, 1.0), (1, 2.0), (0, 5.9), (0, 6.0), (3, 6.1), (5, 7.0)]
        ]
        calming = Why.CALMING
        assert told == [Why.QUEUE, Why.QUEUE, calming, calming, None, None, None]
        assert CALM_S == 5.0

    def test_of_one_mode_is_not_that_of_another(self) -> None:
        on = Pressure()
        on.see("base", "creative", signs(6), 0.0)
        assert on.see("base", "balanced", signs(), 0.0) is None


class TestRecentTimes:
    def test_say_nothing_until_there_are_enough_and_forget_the_old(self) -> None:
        times = RecentTimes()
        for _ in range(MIN_TIMED - 1):
            times.add(1.0, 0.0)
        assert times.p95_s(0.0) is None
        times.add(1.0, 1.0)
        assert times.p95_s(1.0) == 1.0
        assert times.p95_s(WINDOW_S + 1.1) is None


class TestTheWayDown:
    def test_is_the_rest_of_the_mode_and_then_the_modes_below_without_the_model_itself(self) -> None:
        modes = {mode.name: mode for mode in stairs().modes}
        steps = [(mode.name, model) for mode, model in ways_down(modes["creative"], "base", modes)]
        assert steps == [("creative", "small"), ("balanced", "small"), ("balanced", "mini"), ("fast", "mini")]

    def test_of_the_lowest_mode_is_none(self) -> None:
        modes = {mode.name: mode for mode in stairs().modes}
        assert list(ways_down(modes["fast"], "mini", modes)) == []


@contextlib.asynccontextmanager
async def pressed(*under: str) -> AsyncIterator[Stage]:
    """Three models, those of `under` with their queues over the mark."""
    async with stage("mini", "small", "base", of=stairs()) as on:
        gates = []
        for engine in on.engines:
            if engine.model in under:
                engine.gate = asyncio.Event()
                gates.append(engine.gate)
        stuck = [asyncio.create_task(on.chat(chat(model, text=str(n)))) for model in under for n in range(13)]
        bulkheads = on.gateway._inference._engines.bulkheads
        for model in under:
            await until(lambda model=model: bulkheads.num_queued(f"{model}@v1") == 5)  # type: ignore[misc]  # early bound
        try:
            yield on
        finally:
            for gate in gates:
                gate.set()
            await asyncio.gather(*stuck)


class TestAnAnswer:
    @pytest.mark.parametrize(
        ("under", "asked", "told"),
        [
            (("base",), "creative", ("small", "creative", "base")),
            (("base", "small"), "creative", ("mini", "balanced", "creative")),
            (("small",), "balanced", ("mini", "balanced", "small")),
            (("mini",), "balanced", ("small", "balanced", None)),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_names_the_model_that_gave_it_and_what_was_passed_over(
        self, under: tuple[str, ...], asked: str, told: tuple[str, str, str | None], stream: bool
    ) -> None:
        async with pressed(*under) as on:
            answer = await on.chat(chat(asked, text="new", stream=stream))
            assert tuple(answer.headers.get(name) for name in NAMES) == told
            pieces = answer.content.split(b"\n\n") if stream else [answer.content]
            bodies = [piece.removeprefix(b"data: ") for piece in pieces if piece and b"[DONE]" not in piece]
            assert {orjson.loads(body)["model"] for body in bodies} == {told[0]}

    async def test_is_never_stored(self) -> None:
        async with pressed("base") as on:
            for _ in range(2):
                answer = await on.chat(chat("creative", text="new"))
                assert answer.headers["x-headroom-cache"] == "bypass"
            assert (await on.cache_row("creative"))["entries"] == 0

    async def test_from_the_cache_is_given_though_the_model_is_under_pressure(self) -> None:
        async with stage("mini", "small", "base", of=stairs()) as on:
            await on.chat(chat("creative", text="known"))
            on.gateway._steering._pressure._bad_until_s["base", "creative"] = float("inf")
            known = await on.chat(chat("creative", text="known"))
            assert (known.headers["x-headroom-cache"], known.headers["x-headroom-model"]) == ("hit", "base")

    async def test_waits_for_its_own_model_when_the_caller_refuses_another(self) -> None:
        async with pressed("base") as on:
            asked = asyncio.create_task(on.chat(chat("creative", text="new"), x_headroom_downshift="no"))
            bulkheads = on.gateway._inference._engines.bulkheads
            await until(lambda: bulkheads.num_queued("base@v1") == 6)
            for engine in on.engines:
                if engine.gate:
                    engine.gate.set()
            answer = await asked
            assert tuple(answer.headers.get(name) for name in NAMES) == ("base", "creative", None)

    async def test_of_a_model_named_by_its_id_is_that_models(self) -> None:
        async with pressed("base") as on:
            asked = asyncio.create_task(on.chat(chat("base", text="new"), x_headroom_mode="creative"))
            bulkheads = on.gateway._inference._engines.bulkheads
            await until(lambda: bulkheads.num_queued("base@v1") == 6)
            asked.cancel()

    async def test_is_refused_for_a_header_that_is_neither_yes_nor_no(self) -> None:
        async with stage("mini") as on:
            answer = await on.chat(chat(), x_headroom_downshift="maybe")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-headroom-downshift")


class TestTheFigures:
    async def test_of_downshifts_stand_on_their_page_and_in_the_metrics(self) -> None:
        async with pressed("base", "small") as on:
            await on.chat(chat("creative", text="new"))
            page = (await on.http.get("/admin/downshift/stats")).json()
            assert page["downshifts"] == [{"from": "creative", "to": "balanced", "reason": "queue", "count": 1}]
            assert on.counted("headroom_downshifts_total", "creative", "balanced") == 1


class TestAnExplanation:
    async def test_says_where_a_request_would_go_and_why_and_sends_nothing(self) -> None:
        async with pressed("base") as on:
            await until(lambda: on.engines[2].counts.num_started == 8)
            num_started = [engine.counts.num_started for engine in on.engines]
            answer = await on.http.post("/admin/route/explain", json={"request": chat("creative", text="new")})
            told = answer.json()
            assert (told["model"], told["outcome"], told["cache"]) == ("small", "downshifted", "miss")
            assert [(step["model"], step["why_not"]) for step in told["steps"]][:2] == [
                ("base", "queue"),
                ("small", None),
            ]
            assert told["replicas"][0]["in_flight"] == 8
            assert [engine.counts.num_started for engine in on.engines] == num_started

    async def test_of_a_bad_request_is_its_refusal(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.post("/admin/route/explain", json={"request": {"model": "fast"}})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
