"""Requests and tokens a minute: as many as allowed, no more, and everybody told how long to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.authorize import LOCAL, Caller
from serve_app.access.rates import RateLimiter
from tests.serve_app.access.makers import grant


def caller(*, requests: int | None = None, tokens: int | None = None, key_id: str = "k") -> Caller:
    allowed = grant(requests_per_min=requests, tokens_per_min=tokens)
    return Caller(key_id=key_id, tenant="acme", grant=allowed)


class TestRequests:
    def test_are_admitted_up_to_the_rate_and_then_told_when_to_come_again(self) -> None:
        limiter, key = RateLimiter(), caller(requests=6)
        assert [limiter.admit(key, now_s=0) for _ in range(6)] == [None] * 6
        refused = limiter.admit(key, now_s=0)
        assert refused is not None
        assert (refused.status, refused.retry_after_s) == (429, 10)
        assert limiter.admit(key, now_s=10) is None
        assert limiter.admit(key, now_s=10) is not None

    def test_that_are_refused_cost_nothing(self) -> None:
        limiter, key = RateLimiter(), caller(requests=1)
        limiter.admit(key, now_s=0)
        for now_s in range(1, 60):
            assert limiter.admit(key, now_s=now_s) is not None
        assert limiter.admit(key, now_s=60) is None

    @given(st.integers(1, 20), st.lists(st.floats(0, 30), min_size=1, max_size=200), st.integers(1, 4))
    def test_never_pass_twice_the_rate_in_any_minute_and_the_rate_over_many(
        self, rate: int, gaps_s: list[float], num_gateways: int
    ) -> None:
        limiters, key = [RateLimiter(num_gateways=num_gateways) for _ in range(num_gateways)], caller(requests=rate)
        now_s, num_admitted = 0.0, 0
        for turn, gap_s in enumerate(gaps_s):
            now_s += gap_s
            num_admitted += limiters[turn % num_gateways].admit(key, now_s=now_s) is None
        # each gateway may be in debt for less than one request when its part of the rate is below one
        assert num_admitted <= rate * (1 + now_s / 60) + num_gateways + 1e-6

    def test_of_one_key_do_not_count_for_another(self) -> None:
        limiter = RateLimiter()
        assert limiter.admit(caller(requests=1, key_id="a"), now_s=0) is None
        assert limiter.admit(caller(requests=1, key_id="b"), now_s=0) is None

    def test_without_a_rate_are_all_admitted(self) -> None:
        limiter = RateLimiter()
        assert all(limiter.admit(LOCAL, now_s=0) is None for _ in range(1000))


class TestTokens:
    def test_are_charged_after_the_answer_and_a_debt_is_waited_for(self) -> None:
        limiter, key = RateLimiter(), caller(tokens=60)
        assert limiter.admit(key, now_s=0) is None
        limiter.spent(key, 90, now_s=0)
        refused = limiter.admit(key, now_s=0)
        assert refused is not None
        assert refused.retry_after_s == 31
        assert limiter.admit(key, now_s=30.9) is None

    def test_that_wait_take_no_request_away(self) -> None:
        limiter, key = RateLimiter(), caller(requests=2, tokens=60)
        limiter.spent(key, 70, now_s=0)
        assert all(limiter.admit(key, now_s=1) is not None for _ in range(5))
        assert [limiter.admit(key, now_s=20) is None for _ in range(3)] == [True, True, False]


class TestBounds:
    def test_the_buckets_are_few_and_the_oldest_leave_first(self) -> None:
        limiter = RateLimiter(max_keys=1)
        for key_id in ("a", "b", "c"):
            assert limiter.admit(caller(requests=1, key_id=key_id), now_s=0) is None
        assert limiter.admit(caller(requests=1, key_id="c"), now_s=0) is not None
        assert limiter.admit(caller(requests=1, key_id="a"), now_s=0) is None

    def test_a_clock_that_stands_or_goes_back_gives_nothing(self) -> None:
        limiter, key = RateLimiter(), caller(requests=1)
        assert limiter.admit(key, now_s=100) is None
        assert limiter.admit(key, now_s=40) is not None
