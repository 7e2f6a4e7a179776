"""`headroom keys` against what the controller answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from serve_app.access.keys import EVERYTHING
from serve_app.access.rest import answer_keys
from serve_app.api.control_routes import ControlAsked
from serve_app.cli import main
from tests.serve_app.access.makers import NOW_S, grant, key_store, made
from tests.serve_app.cli.loopback import answering


def answered(store: Any, method: str, path: str, by: str, body: bytes = b"{}") -> dict[str, Any]:
    asked = ControlAsked(method=method, path=path, body=body, key_id=by)
    told: dict[str, Any] = orjson.loads(answer_keys(store, asked, now_s=NOW_S).body)
    return told


def keys(routes: dict[str, object], *arguments: str) -> Result:
    with answering(routes) as address:
        return CliRunner().invoke(main, ["keys", *arguments, "--address", address])


class TestKeys:
    def test_create_prints_the_key_alone_on_stdout(self) -> None:
        told = answered(key_store(), "POST", "/admin/keys", "", b'{"roles":["admin"]}')
        result = keys({"/admin/keys": told}, "create", "--role", "admin")
        assert (result.exit_code, result.stdout) == (0, f"{told['key']}\n")
        assert "shown this once" in result.stderr

    def test_list_shows_bounds_and_no_secret(self) -> None:
        store = key_store()
        root, text = made(store, EVERYTHING)
        made(store, grant(models=frozenset({"mini"}), requests_per_min=60), by=root.id)
        result = keys({"/admin/keys?limit=100": answered(store, "GET", "/admin/keys", root.id)}, "list")
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert "000000000001 valid admin all all – – never –" in lines
        assert f"000000000002 valid inference acme mini 60 – never {root.id}" in lines
        assert text.decode()[16:] not in result.stdout

    def test_an_unknown_key_is_told_by_its_sentence(self) -> None:
        error = answered(key_store(), "GET", "/admin/keys/nobody", "")
        with answering({"/admin/keys/nobody": error}, status=404) as address:
            result = CliRunner().invoke(main, ["keys", "show", "nobody", "--address", address])
        assert (result.exit_code, result.stderr) == (1, "Error: There is no key 'nobody'.\n")

    @pytest.mark.parametrize("wrong", [["--expires", "soon"], ["--rate", "0"], ["--role", "root"]])
    def test_bad_usage_is_exit_code_two(self, wrong: list[str]) -> None:
        assert keys({}, "create", "--role", "jobs", *wrong).exit_code == 2
