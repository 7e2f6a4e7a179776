"""`headroom scale` against what the controller answers, and against none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from serve_app.scaling.decision import Decision, Outcome, Record
from serve_app.scaling.page import decision_fields, scaling_page
from serve_app.scaling.policy import ScalingPolicy
from serve_app.scaling.rules import Direction
from serve_app.scaling.wire import DecisionView, ScalingView
from tests.serve_app.cli.loopback import answering, silent_address
from tests.serve_app.scaling.feeding import MINI, ROOM, Feed, sample

BLOCKED = Decision(
    target=MINI,
    direction=Direction.UP,
    from_replicas=2,
    to_replicas=3,
    reason="queue 60 > 50 for 120 s",
    outcome=Outcome.BLOCKED_BY_HEADROOM,
    message="No room for 'mini'.",
)


def page() -> dict[str, Any]:
    feed = Feed(policy=ScalingPolicy(ROOM))
    feed.hold(sample(MINI, queue=60), 60)
    record = Record(decision=BLOCKED, first_at_s=1_800_000_000, last_at_s=1_800_000_060, times=2)
    told = scaling_page(feed.policy.standings(now_s=feed.now_s), [record])
    made: dict[str, Any] = orjson.loads(orjson.dumps(told))
    return made


def scale(*arguments: str, answer: object = None) -> Result:
    with answering({"/admin/scaling": answer}) as address:
        return CliRunner().invoke(main, ["scale", *arguments, "--address", address])


class TestScale:
    def test_shows_counts_limits_signals_and_decisions(self) -> None:
        result = scale(answer=page())
        assert result.exit_code == 0
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert "mini 2 1–8 queue 60 up: queue for 60 s" in lines
        assert any(
            line.endswith("blocked by headroom 2 queue 60 > 50 for 120 s; No room for 'mini'.") for line in lines
        )

    def test_reads_exactly_what_the_page_writes(self) -> None:
        told = page()
        assert ScalingView.model_validate(told).model_dump(mode="json") == told
        assert DecisionView.model_validate(decision_fields(BLOCKED)).model_dump() == decision_fields(BLOCKED)

    def test_by_hand_says_what_became_of_it(self) -> None:
        done = replace(BLOCKED, outcome=Outcome.APPLIED, message="")
        result = scale("mini=3", answer=decision_fields(done))
        assert (result.exit_code, result.stdout) == (0, "mini: 2 → 3, applied\n")

    def test_blocked_by_headroom_is_exit_code_one_with_the_reason(self) -> None:
        result = scale("mini=3", answer=decision_fields(BLOCKED))
        assert (result.exit_code, result.stdout) == (1, "mini: 2 → 3, blocked by headroom: No room for 'mini'.\n")

    def test_refused_is_exit_code_one_with_the_sentence(self) -> None:
        result = scale("mini=9", answer={"error": {"message": "its limits are 1 to 8"}})
        assert (result.exit_code, result.stdout) == (1, "")
        assert "its limits are 1 to 8" in result.stderr

    @pytest.mark.parametrize("wish", ["mini", "mini=", "=2", "mini=-1", "mini=two", "mini=1.5", "mini=99999"])
    def test_a_malformed_wish_is_bad_usage(self, wish: str) -> None:
        assert scale(wish).exit_code == 2

    def test_of_nobody_is_exit_code_three(self) -> None:
        with silent_address() as address:
            assert CliRunner().invoke(main, ["scale", "--address", address]).exit_code == 3

    def test_is_json_when_asked(self) -> None:
        assert json.loads(scale("--json", answer=page()).stdout) == page()
