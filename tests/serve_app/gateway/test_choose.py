"""Which replica is asked first, and what is said of the others: a table of decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.breakers import BreakerState
from serve_app.gateway.choose import Passed, Sight, choose, warm_replica
from serve_app.gateway.hangs import Pulse


def sight(replica: str, busy: int = 0, **more: object) -> Sight:
    return Sight(replica=replica, num_in_flight=busy, max_num_seqs=8, **more)  # type: ignore[arg-type]  # by name


OPEN = {"breaker": BreakerState.OPEN, "admits": False}
PROBED = {"breaker": BreakerState.HALF_OPEN, "admits": False}
TABLE: list[tuple[str, list[Sight], dict[str, object], str, dict[str, Passed]]] = [
    ("least busy", [sight("a", 2), sight("b"), sight("c", 1)], {}, "bca", {"a": Passed.BUSIER, "c": Passed.BUSIER}),
    ("open", [sight("a", **OPEN), sight("b", 7)], {}, "b", {"a": Passed.BREAKER_OPEN}),
    ("being probed", [sight("a", **PROBED), sight("b", 7)], {}, "b", {"a": Passed.PROBE_UNDER_WAY}),
    ("half open", [sight("a", breaker=BreakerState.HALF_OPEN), sight("b", 7)], {}, "ab", {"b": Passed.BUSIER}),
    ("hung", [sight("a", pulse=Pulse.HUNG), sight("b", 7)], {}, "b", {"a": Passed.HUNG}),
    ("suspect is last", [sight("a", pulse=Pulse.SUSPECT), sight("b", 7)], {}, "ba", {"a": Passed.SUSPECT}),
    ("resting is last", [sight("a", rests=True), sight("b", 7)], {}, "ba", {"a": Passed.RESTS}),
    ("full never", [sight("a", is_full=True), sight("b", 7)], {}, "b", {"a": Passed.FULL}),
    ("all ejected", [sight("a", **OPEN), sight("b", pulse=Pulse.HUNG)], {}, "ab", {"b": Passed.HUNG}),
    ("all full", [sight("a", is_full=True)], {}, "", {"a": Passed.FULL}),
    ("slow", [sight("a", latency_s=9.0), sight("b", 7)], {"target_s": 2.5}, "ba", {"a": Passed.SLOW}),
    ("no target", [sight("a", latency_s=9.0), sight("b", 7)], {}, "ab", {"b": Passed.BUSIER}),
    ("warm", [sight("a"), sight("b", 1)], {"warm": "b"}, "ba", {"a": Passed.PREFIX_ELSEWHERE}),
    ("warm but far busier", [sight("a"), sight("b", 3)], {"warm": "b"}, "ab", {"b": Passed.BUSIER}),
    ("warm but open", [sight("a"), sight("b", **OPEN)], {"warm": "b"}, "a", {"b": Passed.BREAKER_OPEN}),
]


class TestTheChoice:
    @pytest.mark.parametrize(
        ("sights", "asked", "order", "passed"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
    )
    def test_is_the_one_of_the_table(
        self, sights: list[Sight], asked: dict[str, object], order: str, passed: dict[str, Passed]
    ) -> None:
        choice = choose(sights, turn=0, **asked)  # type: ignore[arg-type]  # by name
        assert ("".join(choice.order), dict(choice.passed)) == (order, passed)

    def test_takes_turns_among_equals(self) -> None:
        equals = [sight(name) for name in "abc"]
        assert {choose(equals, turn=turn).order[0] for turn in range(3)} == set("abc")

    @given(
        st.lists(
            st.builds(
                Sight,
                replica=st.uuids().map(str),
                num_in_flight=st.integers(0, 9),
                max_num_seqs=st.integers(0, 9),
                is_full=st.booleans(),
                breaker=st.sampled_from(BreakerState),
                admits=st.booleans(),
                pulse=st.sampled_from(Pulse),
                rests=st.booleans(),
                latency_s=st.none() | st.floats(0, 9),
            ),
            max_size=6,
        ),
        st.integers(0, 99),
        st.none() | st.floats(0.1, 9),
    )
    def test_states_a_reason_for_all_but_the_first(
        self, sights: list[Sight], turn: int, target_s: float | None
    ) -> None:
        choice = choose(sights, turn=turn, target_s=target_s)
        others = {one.replica for one in sights} - set(choice.order[:1])
        assert {replica for replica, _ in choice.passed} == others
        assert bool(choice.order) == any(not one.is_full for one in sights), "the last ones are asked all the same"


class TestAPrefix:
    @given(st.binary(), st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True))
    def test_stays_where_it_was_when_another_replica_goes(self, prefix: bytes, replicas: list[str]) -> None:
        warm = warm_replica(prefix, replicas)
        gone = next(one for one in replicas if one != warm)
        assert warm_replica(prefix, [one for one in replicas if one != gone]) == warm
