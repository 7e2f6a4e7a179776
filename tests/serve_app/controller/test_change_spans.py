"""What can be seen of models that come and go, and of plans that are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from serve_app.controller.change_spans import (
    NOT_DONE,
    ModelChange,
    Trigger,
    change_spans,
    model_changes,
    placement_span,
)
from serve_app.controller.claims import Slot
from serve_app.controller.lifecycle import Rest, RestKind
from tests.serve_app.controller.proposals import DEMANDS, FLEET, PLAN, proposal, rests
from tests.serve_app.controller.test_ledger import slot
from tests.serve_app.controller.traced import Traced, traced
from tracing import names

ASLEEP, UNLOADED = RestKind.ASLEEP, RestKind.UNLOADED
MINI, BASE = slot("mini#0", share_bytes=10), slot("base#0", share_bytes=30)


@pytest.fixture
def seen() -> Iterator[Traced]:
    with traced() as made:
        yield made


def changes(
    to: Sequence[Slot], *, before: dict[str, Rest] | None = None, held: Sequence[Slot] = (), **resting: RestKind
) -> list[tuple[str, str, int]]:
    """Span, trigger and bytes of all that a person's change of `mini` does."""
    found = model_changes(
        proposal(*to, **resting), before=before or {}, held=held, asked="mini", trigger=Trigger.PERSON
    )
    return [(one.span, one.trigger.value, one.num_bytes) for one in found]


class TestModelChanges:
    def test_one_that_slept_wakes(self) -> None:
        assert changes([MINI], before=rests(mini=ASLEEP)) == [("wake model mini", "person", 10)]

    @pytest.mark.parametrize("before", [{}, rests(mini=UNLOADED)], ids=["refused before", "unloaded before"])
    def test_one_that_was_away_otherwise_loads(self, before: dict[str, Rest]) -> None:
        assert changes([MINI], before=before) == [("load model mini", "person", 10)]

    @pytest.mark.parametrize(("kind", "word"), [(ASLEEP, "sleep"), (UNLOADED, "unload")])
    def test_one_that_goes_says_how(self, kind: RestKind, word: str) -> None:
        assert changes([], held=[MINI], mini=kind) == [(f"{word} model mini", "person", 10)]

    def test_others_that_go_make_room_whatever_triggered_it(self) -> None:
        found = changes([MINI], before=rests(mini=ASLEEP), held=[BASE], base=ASLEEP)
        assert found == [("wake model mini", "person", 10), ("sleep model base", "room", 30)]

    def test_the_asked_model_comes_first_of_those_that_go(self) -> None:
        found = changes([], held=[BASE, MINI], base=ASLEEP, mini=UNLOADED)
        assert [span for span, _, _ in found] == ["unload model mini", "sleep model base"]

    def test_one_that_rested_before_or_holds_nothing_does_not_go(self) -> None:
        found = changes([MINI], before=rests(base=ASLEEP), held=[BASE], base=ASLEEP, large=ASLEEP)
        assert [span for span, _, _ in found] == ["load model mini"]

    def test_bytes_are_of_all_replicas_over_all_their_devices(self) -> None:
        wide = replace(slot("mini#1", share_bytes=7), seats=MINI.seats * 2)
        assert changes([MINI, wide, BASE]) == [("load model mini", "person", 10 + 2 * 7)]


WAKE = ModelChange(span="wake model mini", model="mini", trigger=Trigger.REQUEST, num_bytes=10)
SLEEP = ModelChange(span="sleep model base", model="base", trigger=Trigger.ROOM, num_bytes=30)


class TestChangeSpans:
    def test_say_who_triggered_what_and_how_it_ended(self, seen: Traced) -> None:
        with change_spans([WAKE], exporting=seen.exporting) as ended:
            ended(True)
        assert seen.facts("wake model mini") == {
            names.MODEL: "mini",
            names.TRIGGER: "request",
            names.NUM_BYTES: 10,
            names.OUTCOME: "done",
        }
        assert seen.span("wake model mini").status.is_unset

    def test_of_what_makes_room_lie_within_the_one_it_makes_room_for(self, seen: Traced) -> None:
        with change_spans([WAKE, SLEEP], exporting=seen.exporting) as ended:
            ended(True)
        wake, sleep = seen.span("wake model mini"), seen.span("sleep model base")
        assert sleep.parent is not None
        assert wake.context is not None
        assert sleep.parent.span_id == wake.context.span_id

    def test_of_what_was_put_back_are_errors(self, seen: Traced) -> None:
        with change_spans([WAKE, SLEEP], exporting=seen.exporting) as ended:
            ended(False)
        for name in ("wake model mini", "sleep model base"):
            assert (seen.facts(name)[names.OUTCOME], seen.facts(name)[names.ERROR_TYPE]) == ("put_back", NOT_DONE)
            assert not seen.span(name).status.is_ok
            assert not seen.span(name).status.is_unset

    def test_end_with_a_fault_that_nobody_foresaw(self, seen: Traced) -> None:
        with pytest.raises(ZeroDivisionError), change_spans([WAKE], exporting=seen.exporting):
            raise ZeroDivisionError
        assert seen.facts("wake model mini")[names.ERROR_TYPE] == "ZeroDivisionError"


class TestPlacementSpan:
    def test_says_what_was_planned_and_for_what(self, seen: Traced) -> None:
        with placement_span(exporting=seen.exporting) as planned:
            planned(FLEET, DEMANDS, PLAN)
        assert seen.facts("scheduler.placement") == {
            names.INVENTORY_VERSION: 7,
            names.NUM_DEMANDS: 2,
            names.NUM_REFUSED: 2,
            names.PLAN_GAP: PLAN.gap,
        }

    def test_leaves_out_a_gap_that_is_not_proven(self, seen: Traced) -> None:
        with placement_span(exporting=seen.exporting) as planned:
            planned(FLEET, DEMANDS, replace(PLAN, gap=None))
        assert names.PLAN_GAP not in seen.facts("scheduler.placement")

    def test_of_a_plan_that_could_not_be_made_is_an_error(self, seen: Traced) -> None:
        with pytest.raises(ZeroDivisionError), placement_span(exporting=seen.exporting):
            raise ZeroDivisionError
        assert seen.facts("scheduler.placement") == {names.ERROR_TYPE: "ZeroDivisionError"}
