"""What a caller saw is called by its name; a table leaves nothing out."""

from __future__ import annotations

import pytest

from tests.bench.faults.clients import Answer, Ending, ending_of
from tests.bench.faults.outcome import Outcome, Row, counted, table

_EVENT = b'data: {"choices":[{"index":0}]}\n\n'
_ERROR = b'data: {"error":{"message":"x"}}\n\n'
_DONE = b"data: [DONE]\n\n"


def answer(ending: Ending, *, ended_s: float, status: int = 200) -> Answer:
    return Answer(ending=ending, status=status, began_s=0.0, ended_s=ended_s)


class TestEnding:
    @pytest.mark.parametrize(
        ("body", "ending"),
        [
            (_EVENT + _DONE, Ending.WHOLE),
            (_EVENT, Ending.CUT),
            (b"", Ending.CUT),
            (_EVENT + _ERROR, Ending.ERROR_EVENT),
            (_EVENT + _ERROR + _DONE, Ending.ERROR_EVENT),
        ],
    )
    def test_of_a_stream_is_told_by_its_last_events(self, body: bytes, ending: Ending) -> None:
        assert ending_of(200, body, stream=True, has_retry_after=False) is ending

    @pytest.mark.parametrize(("body", "ending"), [(b'{"choices":[]}', Ending.WHOLE), (b'{"choices"', Ending.CUT)])
    def test_of_a_whole_answer_is_whole_or_cut(self, body: bytes, ending: Ending) -> None:
        assert ending_of(200, body, stream=False, has_retry_after=False) is ending

    @pytest.mark.parametrize(("waits", "ending"), [(True, Ending.RETRY_LATER), (False, Ending.REFUSED)])
    def test_of_a_refusal_says_whether_waiting_helps(self, waits: bool, ending: Ending) -> None:
        assert ending_of(503, b"", stream=True, has_retry_after=waits) is ending


class TestOutcome:
    def test_counts_from_the_fault_to_the_end_of_the_last_bad_answer(self) -> None:
        answers = [
            answer(Ending.WHOLE, ended_s=30.0),
            answer(Ending.CUT, ended_s=12.0),
            answer(Ending.REFUSED, ended_s=14.5, status=500),
        ]
        outcome = counted(answers, fault_s=10.0)
        assert (outcome.asked, outcome.failed, outcome.bad_for_s) == (3, 2, 4.5)
        assert outcome.saw == "1 silent cut; 1 refused, no Retry-After (500)"

    def test_counts_one_kind_of_end_once_whatever_came_before_it(self) -> None:
        hangs = [answer(Ending.HUNG, ended_s=3.0, status=status) for status in (0, 200)]
        assert counted(hangs, fault_s=1.0).saw == "2 hang"

    def test_without_a_bad_answer_lasts_no_time(self) -> None:
        assert counted([answer(Ending.WHOLE, ended_s=3.0)], fault_s=1.0).bad_for_s == 0.0


class TestTable:
    def test_says_both_sides_and_which_engine_was_no_model(self) -> None:
        base = Outcome(saw="has none")
        product = Outcome(asked=9, failed=1, bad_for_s=0.25, whole_after_s=40.0, engine="scripted")
        last = table([Row(number=5, fault="killed", promise="→ 0", base=base, product=product)]).splitlines()[-1]
        assert last == (
            "| 5 | killed | has none | 1/9 failed; last bad answer after 0.2 s; whole again after 40.0 s; "
            "engine: scripted | → 0 |"
        )
