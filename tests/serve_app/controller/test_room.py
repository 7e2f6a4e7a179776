"""Which idle models go to sleep: as few and as unimportant as make room, by the real solver."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from placement.demand import Demand
from placement.inventory import Inventory
from placement.plan import Plan
from placement.policy import Policy
from placement.solver import solve
from serve_app.controller.room import refused, who_goes
from tests.placement.builders import demand, fleet

ONE = fleet("n: 1x10GiB")
"""8 GiB above headroom."""


def planner(inventory: Inventory, *demands: Demand) -> object:
    def plan_without(gone: frozenset[str]) -> Plan:
        return solve(inventory, [one for one in demands if one.model not in gone], Policy())

    return plan_without


def goes(inventory: Inventory, *demands: Demand, needed: str, candidates: list[str]) -> set[str]:
    return set(who_goes(planner(inventory, *demands), needed={needed}, candidates=candidates))  # type: ignore[arg-type]


class TestWhoGoes:
    def test_nobody_where_there_is_room(self) -> None:
        assert goes(ONE, demand("a", gib=3), demand("new", gib=3), needed="new", candidates=["a"]) == set()

    def test_the_first_candidate_that_makes_room(self) -> None:
        demands = (demand("a", gib=4, priority=9), demand("b", gib=4, priority=9), demand("new", gib=4, priority=1))
        assert goes(ONE, *demands, needed="new", candidates=["b", "a"]) == {"b"}

    def test_none_that_need_not_go(self) -> None:
        demands = (demand("crumb", gib=1), demand("loaf", gib=6), demand("new", gib=5, priority=1))
        assert goes(ONE, *demands, needed="new", candidates=["crumb", "loaf"]) == {"loaf"}

    def test_nobody_when_all_of_them_do_not_make_room(self) -> None:
        demands = (demand("busy", gib=6, priority=9), demand("a", gib=1), demand("new", gib=7, priority=1))
        assert goes(ONE, *demands, needed="new", candidates=["a"]) == set()

    def test_a_busy_model_never_loses_its_place_for_it(self) -> None:
        demands = (demand("busy", gib=4, priority=1), demand("idle", gib=4), demand("new", gib=4, priority=9))
        assert goes(ONE, *demands, needed="new", candidates=["idle"]) == {"idle"}

    def test_not_the_newcomer_itself(self) -> None:
        demands = (demand("a", gib=6), demand("new", gib=6, priority=1))
        assert goes(ONE, *demands, needed="new", candidates=["new"]) == set()

    @given(st.data())
    def test_makes_room_whenever_any_set_of_candidates_does(self, data: st.DataObject) -> None:
        """Fails when the binary search begins at the wrong end, or the pruning drops one that is needed."""
        sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) <= 8))
        old = [demand(f"m{number}", gib=size, priority=5) for number, size in enumerate(sizes)]
        new = demand("new", gib=data.draw(st.integers(1, 7)), priority=1)
        running = [one.model for one in old]
        plan_without = planner(ONE, *old, new)
        others = refused(plan_without(frozenset({"new"})))  # type: ignore[operator]
        chosen = goes(ONE, *old, new, needed="new", candidates=running)
        subsets = [frozenset(some) for size in range(len(running) + 1) for some in combinations(running, size)]
        enough = [some for some in subsets if refused(plan_without(some)) <= others]  # type: ignore[operator]
        if not enough:
            assert not chosen
        else:
            assert frozenset(chosen) in enough
            assert not any(some < chosen for some in enough), "one of them need not have gone"
