"""`headroom cache ttl` against what the controller answers, and against none."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from tests.serve_app.cli.loopback import answering, silent_address

PINNED = {"mode": "fast", "ttl_seconds": 90.0, "source": "pinned"}


def ttl(*arguments: str, answer: object = PINNED) -> Result:
    with answering({"/admin/cache/ttl": answer}) as address:
        return CliRunner().invoke(main, ["cache", "ttl", *arguments, "--address", address])


class TestCacheTtl:
    def test_says_what_is_in_force_and_who_says_so(self) -> None:
        result = ttl("fast", "90")
        assert (result.exit_code, result.stdout) == (0, "fast: 90 s, pinned\n")

    def test_gives_back_with_auto(self) -> None:
        result = ttl("fast", "auto", answer={"mode": "fast", "ttl_seconds": 300.0, "source": "configured"})
        assert (result.exit_code, result.stdout) == (0, "fast: 300 s, configured\n")

    def test_is_json_when_asked(self) -> None:
        assert json.loads(ttl("fast", "90", "--json").stdout) == PINNED

    def test_refused_is_exit_code_one_with_the_sentence(self) -> None:
        result = ttl("nobody", "90", answer={"error": {"message": "Unknown mode 'nobody'."}})
        assert (result.exit_code, result.stdout) == (1, "")
        assert "Unknown mode 'nobody'." in result.stderr

    @pytest.mark.parametrize("seconds", ["soon", "", "9O"])
    def test_what_is_no_number_is_bad_usage(self, seconds: str) -> None:
        assert ttl("fast", seconds).exit_code == 2

    def test_of_nobody_is_exit_code_three(self) -> None:
        with silent_address() as address:
            assert CliRunner().invoke(main, ["cache", "ttl", "fast", "90", "--address", address]).exit_code == 3
