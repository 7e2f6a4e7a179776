"""The search for the most valuable fill of one device: what it finds fits, and nothing is worth more than its bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.fill import Fineness, Found, Thing, best_fill

EXACT = Fineness(grid=2000, num_levels=9, bounds=True)
ROUGH = Fineness(grid=7, num_levels=2, bounds=True)


@st.composite
def things(draw: st.DrawFn) -> tuple[Thing, ...]:
    # A prime far above the exact grid, now and then, makes the grids round.
    unit = draw(st.sampled_from([1, 10_007]))
    size, start = st.integers(0, 12), st.integers(0, 5)
    return tuple(
        Thing(
            number=number,
            value=draw(st.integers(0, 20)),
            rest_bytes=draw(size) * unit + draw(st.integers(0, 1)),
            start_bytes=draw(start) * unit,
            most=draw(st.integers(0, 2)),
        )
        for number in range(draw(st.integers(1, 5)))
    )


def fits(given_things: Sequence[Thing], counts: Sequence[int], *, room: int, start: int) -> bool:
    rest = sum(thing.rest_bytes * count for thing, count in zip(given_things, counts, strict=True))
    starts = [thing.start_bytes for thing, count in zip(given_things, counts, strict=True) if count]
    return rest + max([start, *starts]) <= room


def best_value(given_things: Sequence[Thing], *, room: int, start: int) -> int:
    """By looking at every fill."""
    every = product(*(range(thing.most + 1) for thing in given_things))
    return max(
        (
            sum(thing.value * count for thing, count in zip(given_things, counts, strict=True))
            for counts in every
            if not any(counts) or fits(given_things, counts, room=room, start=start)
        ),
        default=0,
    )


def is_right(found: Found, given_things: Sequence[Thing], *, room: int, start: int) -> bool:
    counts = [dict(found.fill).get(thing.number, 0) for thing in given_things]
    value = sum(thing.value * count for thing, count in zip(given_things, counts, strict=True))
    allowed = all(count <= thing.most for thing, count in zip(given_things, counts, strict=True))
    sound = not any(counts) or fits(given_things, counts, room=room, start=start)
    best = best_value(given_things, room=room, start=start)
    return allowed and sound and value == found.value <= best and found.bound is not None and best <= found.bound


class TestBestFill:
    @given(things(), st.integers(0, 30), st.integers(0, 6), st.sampled_from([EXACT, ROUGH]))
    @settings(max_examples=200, deadline=None)
    def test_it_fits_and_its_bound_holds(self, some: tuple[Thing, ...], room: int, start: int, grid: Fineness) -> None:
        unit = 10_007 if any(thing.rest_bytes > 100 for thing in some) else 1
        found = best_fill(some, room=room * unit, start=start * unit, fineness=grid)
        assert is_right(found, some, room=room * unit, start=start * unit)

    @given(things(), st.integers(0, 30), st.integers(0, 6))
    @settings(max_examples=100, deadline=None)
    def test_on_an_exact_grid_it_is_the_best(self, some: tuple[Thing, ...], room: int, start: int) -> None:
        small = tuple(
            thing._replace(rest_bytes=thing.rest_bytes % 13, start_bytes=thing.start_bytes % 6) for thing in some
        )
        found = best_fill(small, room=room, start=start, fineness=EXACT)
        assert found.value == found.bound == best_value(small, room=room, start=start)

    def test_the_property_finds_a_search_that_forgets_starts(self) -> None:
        starting = (Thing(0, 5, 6, 3, 1), Thing(1, 4, 2, 0, 1))
        forgetful = tuple(thing._replace(start_bytes=0) for thing in starting)
        found = best_fill(forgetful, room=8, start=0, fineness=EXACT)
        assert not is_right(found, starting, room=8, start=0)

    @pytest.mark.parametrize("grid", [EXACT, ROUGH])
    def test_the_largest_start_is_paid_once(self, grid: Fineness) -> None:
        found = best_fill((Thing(0, 1, 3, 2, 9),), room=8, start=1, fineness=grid)
        assert found.fill == ((0, 2),)

    def test_without_bounds_a_rounded_grid_claims_none(self) -> None:
        some = (Thing(0, 5, 10_007, 1, 3), Thing(1, 4, 9_973, 5, 3))
        found = best_fill(some, room=50_000, start=0, fineness=ROUGH._replace(bounds=False))
        assert (found.bound, found.value > 0) == (None, True)
