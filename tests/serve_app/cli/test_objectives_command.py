"""`headroom objectives` against what the controller answers, and against none."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from placement.codec import to_json_value
from placement.objectives import ALERT_RESPONSE_TIME, AVAILABILITY, Bucket, burn
from serve_app.cli import main
from tests.serve_app.cli.loopback import answering, silent_address

NOW_S = 1_800_000_000.0


def told(*, num_good: int, num_total: int) -> dict[str, Any]:
    """The page as the controller makes it, with requests of the last minutes and no alerts."""
    counted = (Bucket(start_s=NOW_S - 60, num_good=num_good, num_total=num_total),)
    burns = (burn(AVAILABILITY, counted, now_s=NOW_S), burn(ALERT_RESPONSE_TIME, (), now_s=NOW_S))
    return {"objectives": [to_json_value(one) for one in burns]}


def objectives(page: dict[str, Any], *arguments: str) -> Result:
    with answering({"/v1/objectives": page}) as address:
        return CliRunner().invoke(main, ["objectives", "--address", address, *arguments])


def row(result: Result, name: str) -> str:
    (found,) = (line for line in result.stdout.splitlines() if line.strip().startswith(name))
    return " ".join(found.split())


class TestObjectives:
    def test_shows_target_counts_budget_and_burn(self) -> None:
        result = objectives(told(num_good=9_995, num_total=10_000))
        assert result.exit_code == 0
        assert row(result, "availability") == "availability 99.9 % 30 d 9995 10000 50.0% 0.5x 0.5x ok"

    def test_shows_dashes_where_nothing_was_counted(self) -> None:
        result = objectives(told(num_good=1, num_total=1))
        assert row(result, "alert_response") == "alert_response_time 99 % within 60 s 30 d 0 0 100.0% – – ok"

    def test_that_burns_is_exit_code_one(self) -> None:
        result = objectives(told(num_good=98, num_total=100))
        assert result.exit_code == 1
        assert row(result, "availability").endswith("98 100 -1900.0% 20.0x 20.0x BURNS")

    def test_is_json_with_the_same_exit_code(self) -> None:
        page = told(num_good=98, num_total=100)
        result = objectives(page, "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout) == page

    def test_of_nobody_are_exit_code_three(self) -> None:
        with silent_address() as address:
            result = CliRunner().invoke(main, ["objectives", "--address", address])
        assert (result.exit_code, result.stdout) == (3, "")
