"""Row B5: raised after a hundred look-ups under target, once per mode and day, never without target or when pinned."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.errors import ApiError
from serve_app.config.settings import MAX_CACHE_TTL_S, ModeSettings, TtlSource
from serve_app.gateway.cache_tuning import DAY_S, CacheTuning, TtlRequest, asked_ttl, ttl_answer
from tests.serve_app.gateway.builders import settings

FAST, BALANCED, CREATIVE = settings(ttl_s={"fast": 300, "balanced": 600, "creative": 1800}).modes
MODES = (replace(FAST, hit_rate_target=0.6), replace(BALANCED, hit_rate_target=0.6), CREATIVE)
POOR, GOOD = (59, 41), (60, 40)


def ttls(tuning: CacheTuning, modes: tuple[ModeSettings, ...] = MODES) -> tuple[float, ...]:
    return tuple(mode.cache_ttl_s for mode in tuning.applied(modes))


class TestRaising:
    def test_doubles_once_a_hundred_lookups_were_under_target(self) -> None:
        tuning = CacheTuning()
        raised = tuning.saw(MODES, {"fast": POOR, "balanced": POOR}, now_s=0)
        assert [(one.mode, one.from_s, one.to_s) for one in raised] == [("fast", 300, 600), ("balanced", 600, 1200)]
        assert ttls(tuning) == (600, 1200, 1800)
        assert tuning.applied(MODES)[0].cache_ttl_source is TtlSource.RAISED

    @pytest.mark.parametrize("lookups", [(0, 99), GOOD, (100, 0), (0, 0)])
    def test_leaves_alone_what_is_at_target_or_hardly_asked(self, lookups: tuple[int, int]) -> None:
        tuning = CacheTuning()
        assert tuning.saw(MODES, {"fast": lookups}, now_s=0) == ()
        assert ttls(tuning) == (300, 600, 1800)

    def test_never_touches_a_mode_without_target(self) -> None:
        assert CacheTuning().saw(MODES, {"creative": (0, 10_000)}, now_s=0) == ()

    def test_happens_once_a_day_and_ends_at_its_bound(self) -> None:
        tuning = CacheTuning()
        raised = [
            (at_s, one.to_s)
            for turn in range(200)
            for at_s in [turn * DAY_S / 20]
            for one in tuning.saw(MODES, {"fast": (0, 100 * (turn + 1))}, now_s=at_s)
        ]
        assert raised == [(0, 600), (DAY_S, 1200)]

    def test_judges_each_stretch_by_itself(self) -> None:
        tuning = CacheTuning()
        tuning.saw(MODES, {"fast": (10_000, 0)}, now_s=0)
        assert tuning.saw(MODES, {"fast": (10_000, 99)}, now_s=1) == ()
        (raised,) = tuning.saw(MODES, {"fast": (10_000, 100)}, now_s=2)
        assert raised.hit_rate == 0

    def test_goes_on_when_the_totals_start_anew(self) -> None:
        tuning = CacheTuning()
        tuning.saw(MODES, {"fast": (10_000, 0)}, now_s=0)
        assert len(tuning.saw(MODES, {"fast": (0, 100)}, now_s=1)) == 1

    def test_leaves_a_cache_off_that_is_off(self) -> None:
        off = (replace(MODES[0], cache_ttl_s=0.0),)
        assert CacheTuning().saw(off, {"fast": POOR}, now_s=0) == ()

    def test_ends_when_the_file_says_something_new(self) -> None:
        tuning = CacheTuning()
        tuning.saw(MODES, {"fast": POOR}, now_s=0)
        assert ttls(tuning, (replace(MODES[0], cache_ttl_s=450.0),)) == (450,)

    def test_holds_over_a_restart(self) -> None:
        before = CacheTuning()
        before.saw(MODES, {"fast": POOR}, now_s=0)
        after = CacheTuning(kept=dict(before.kept))
        assert ttls(after)[0] == 600
        assert after.saw(MODES, {"fast": POOR}, now_s=DAY_S - 1) == ()

    def test_forgets_modes_that_are_gone(self) -> None:
        tuning = CacheTuning()
        tuning.saw(MODES, {"fast": POOR}, now_s=0)
        tuning.saw(MODES[1:], {}, now_s=1)
        assert tuning.kept == {}

    @given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 2 * DAY_S)), max_size=30))
    def test_never_leaves_its_bounds_nor_comes_twice_a_day(self, story: list[tuple[int, int, float]]) -> None:
        tuning, hits, misses, now_s = CacheTuning(), 0, 0, 0.0
        raised_at: list[float] = []
        for more_hits, more_misses, wait_s in story:
            hits, misses, now_s = hits + more_hits, misses + more_misses, now_s + wait_s
            if tuning.saw(MODES[:1], {"fast": (hits, misses)}, now_s=now_s):
                raised_at.append(now_s)
            assert ttls(tuning, MODES[:1])[0] in (300, 600, 1200)
        assert all(later - sooner >= DAY_S for sooner, later in pairwise(raised_at))


class TestPinning:
    def test_holds_against_tuning_until_it_is_given_back(self) -> None:
        tuning = CacheTuning()
        pinned = tuning.pin(MODES, "fast", 30.0)
        assert isinstance(pinned, ModeSettings)
        assert ttl_answer(pinned) == {"mode": "fast", "ttl_seconds": 30.0, "source": "pinned"}
        assert tuning.saw(MODES, {"fast": POOR}, now_s=0) == ()
        back = tuning.pin(MODES, "fast", None)
        assert isinstance(back, ModeSettings)
        assert ttl_answer(back) == {"mode": "fast", "ttl_seconds": 300, "source": "configured"}

    def test_at_zero_turns_the_cache_off(self) -> None:
        tuning = CacheTuning()
        tuning.pin(MODES, "creative", 0.0)
        assert ttls(tuning)[2] == 0

    def test_of_an_unknown_mode_names_those_there_are(self) -> None:
        refused = CacheTuning().pin(MODES, "quick", 5.0)
        assert isinstance(refused, ApiError)
        assert (refused.status, refused.param) == (404, "mode")
        assert "fast, balanced, creative" in refused.message


class TestARequest:
    @pytest.mark.parametrize("ttl", ["-1", "NaN", "Infinity", "31536000", '"300"', "true", "[]", "1e300"])
    def test_with_no_sensible_time_is_refused(self, ttl: str) -> None:
        answer = asked_ttl(b'{"mode":"fast","ttl_seconds":%b}' % ttl.encode())
        assert isinstance(answer, ApiError)
        assert (answer.status, answer.param) == (400, "ttl_seconds")

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{}", b'{"mode":"fast"}', b'{"ttl_seconds":5}', b'{"mode":5,"ttl_seconds":5}']
    )
    def test_that_is_not_one_is_refused(self, body: bytes) -> None:
        assert isinstance(asked_ttl(body), ApiError)

    @pytest.mark.parametrize("ttl", [0.0, 300.0, MAX_CACHE_TTL_S])
    def test_within_bounds_is_taken(self, ttl: float) -> None:
        assert asked_ttl(b'{"mode":"fast","ttl_seconds":%r}' % ttl) == TtlRequest(mode="fast", ttl_seconds=ttl)
