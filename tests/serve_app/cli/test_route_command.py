"""`headroom route explain` against what the gateway answers, and against none."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from serve_app.cli import main
from tests.serve_app.cli.loopback import answering, silent_address

ASKED = '{"model": "creative", "messages": [{"role": "user", "content": "2+2"}]}'
TOLD: dict[str, Any] = {
    "mode": "creative",
    "model": "small",
    "outcome": "downshifted",
    "weights_version": "0123456789ab",
    "cache": "miss",
    "steps": [
        {"mode": "creative", "model": "base", "why_not": "queue"},
        {"mode": "creative", "model": "small", "why_not": None},
    ],
    "replicas": [
        {
            "replica": "base#0",
            "deployment": "base@node-1",
            "rank": None,
            "in_flight": 0,
            "max_num_seqs": 64,
            "breaker": "open",
            "passed_over": "breaker_open",
        },
        {
            "replica": "base#1",
            "deployment": "base@node-2",
            "rank": 0,
            "in_flight": 64,
            "max_num_seqs": 64,
            "breaker": "closed",
            "passed_over": None,
        },
    ],
}


def explain(*arguments: str) -> Result:
    with answering({"/admin/route/explain": TOLD}) as address:
        return CliRunner().invoke(main, ["route", "explain", "--address", address, *arguments])


class TestRouteExplain:
    def test_says_where_and_why_and_puts_the_first_choice_first(self) -> None:
        lines = [" ".join(line.split()) for line in explain(ASKED).stdout.splitlines()]
        assert lines[0] == "mode creative, model small (downshifted), weights 0123456789ab, cache miss"
        assert "creative base passed over: queue" in lines
        assert lines[-2:] == [
            "0 base#1 base@node-2 64 of 64 closed first choice",
            "– base#0 base@node-1 0 of 64 open breaker_open",
        ]

    def test_is_json_as_it_was_told(self) -> None:
        assert json.loads(explain(ASKED, "--json").stdout) == TOLD

    def test_wants_a_json_object(self) -> None:
        assert explain("{").exit_code == explain("[]").exit_code == 2

    def test_says_when_nothing_answers(self) -> None:
        with silent_address() as address:
            result = CliRunner().invoke(main, ["route", "explain", ASKED, "--address", address])
        assert result.exit_code == 3
