"""When a replica is ejected, for how long, and how it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.breakers import BreakerPolicy, Breakers, BreakerState, Verdict

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.UNKNOWN
THREE = {"a": "m", "b": "m", "c": "m"}


def breakers(groups: dict[str, str] | None = None, **policy: float) -> Breakers:
    made = Breakers(BreakerPolicy(**policy))  # type: ignore[arg-type]  # counts and seconds alike
    made.keep(groups or THREE)
    return made


def fail(on: Breakers, replica: str, times: int = 5, now_s: float = 0.0) -> None:
    for _ in range(times):
        on.ended(replica, BAD, now_s)


class TestABreaker:
    @pytest.mark.parametrize(
        ("verdicts", "state"),
        [
            ([BAD] * 4, BreakerState.CLOSED),
            ([BAD] * 5, BreakerState.OPEN),
            ([BAD] * 4 + [GOOD] + [BAD] * 4, BreakerState.CLOSED),
            ([BAD] * 4 + [UNKNOWN] + [BAD], BreakerState.OPEN),
            ([UNKNOWN] * 50, BreakerState.CLOSED),
            ([GOOD, BAD] * 9, BreakerState.CLOSED),
            ([GOOD, BAD] * 10, BreakerState.OPEN),
            ([GOOD, GOOD, BAD] * 20, BreakerState.CLOSED),
        ],
        ids=[
            "four",
            "five in a row",
            "a good one between",
            "a lost client",
            "only lost clients",
            "18",
            "half of 20",
            "third",
        ],
    )
    def test_opens_by_failures_in_a_row_or_by_their_part(self, verdicts: list[Verdict], state: BreakerState) -> None:
        on = breakers()
        for verdict in verdicts:
            on.ended("a", verdict, 0.0)
        assert on.state("a", 0.0) is state

    def test_stays_open_for_its_time_and_admits_one_probe_then(self) -> None:
        on = breakers()
        fail(on, "a")
        assert (on.state("a", 29.9), on.admits("a", 29.9)) == (BreakerState.OPEN, False)
        assert on.state("a", 30.0) is BreakerState.HALF_OPEN
        assert on.began("a", 30.0)
        assert (on.admits("a", 31.0), on.began("a", 31.0)) == (False, False)

    def test_is_closed_by_a_good_probe_and_by_nothing_else(self) -> None:
        on = breakers()
        fail(on, "a")
        assert on.began("a", 30.0)
        on.ended("a", GOOD, 31.0)  # one that was begun before it opened
        assert on.state("a", 31.0) is BreakerState.HALF_OPEN
        on.ended("a", GOOD, 32.0, probe=True)
        assert on.state("a", 32.0) is BreakerState.CLOSED

    def test_gets_another_probe_when_the_first_proved_nothing(self) -> None:
        on = breakers()
        fail(on, "a")
        assert on.began("a", 30.0)
        on.ended("a", UNKNOWN, 31.0, probe=True)
        assert on.began("a", 31.0)

    def test_opens_for_longer_each_time_up_to_the_cap(self) -> None:
        on, now_s, opened_s = breakers(), 0.0, []
        fail(on, "a")
        for _ in range(12):
            began_s = now_s
            while on.state("a", now_s) is BreakerState.OPEN:
                now_s += 1.0
            opened_s.append(now_s - began_s)
            on.ended("a", BAD, now_s, probe=on.began("a", now_s))
        assert opened_s == [30.0 * min(number, 10) for number in range(1, 13)]

    def test_is_forgiven_by_intervals_spent_closed(self) -> None:
        on = breakers()
        fail(on, "a")
        on.ended("a", GOOD, 30.0, probe=on.began("a", 30.0))
        on.ended("a", GOOD, 45.0)
        fail(on, "a", now_s=46.0)
        assert on.state("a", 46.0 + 30.0) is BreakerState.HALF_OPEN, "as if for the first time"


class TestTheLastOne:
    def test_is_never_ejected_but_known_to_fail(self) -> None:
        on = breakers({"a": "m"})
        fail(on, "a", 50)
        assert (on.state("a", 0.0), on.fails("a")) == (BreakerState.CLOSED, True)

    def test_of_each_model_counts_for_itself(self) -> None:
        on = breakers({"a": "m", "b": "m", "c": "other"})
        fail(on, "a")
        fail(on, "c")
        assert (on.state("a", 0.0), on.state("c", 0.0)) == (BreakerState.OPEN, BreakerState.CLOSED)

    @given(
        groups=st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["m", "n"]), min_size=1),
        events=st.lists(
            st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(Verdict), st.floats(0, 20)), max_size=200
        ),
    )
    def test_of_any_group_stays_in_whatever_happens(
        self, groups: dict[str, str], events: list[tuple[str, Verdict, float]]
    ) -> None:
        on, now_s = breakers(groups, num_consecutive=2), 0.0
        for replica, verdict, later_s in events:
            now_s += later_s
            on.ended(replica, verdict, now_s, probe=on.began(replica, now_s))
            for group in set(groups.values()):
                states = [on.state(one, now_s) for one, of in groups.items() if of == group]
                assert any(state is not BreakerState.OPEN for state in states)

    @given(events=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=100))
    def test_probe_is_the_only_one_under_way(self, events: list[tuple[str, bool]]) -> None:
        on = breakers()
        fail(on, "a")
        probes = 0
        for replica, ends in events:
            if ends and replica == "a" and probes:
                on.ended("a", UNKNOWN, 60.0, probe=True)
                probes = 0
            else:
                probes += replica == "a" and on.began(replica, 60.0)
            assert probes <= 1
