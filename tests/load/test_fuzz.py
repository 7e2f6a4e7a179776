"""The fuzzing run: its target is whole and closed, and it says what is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest

from serve_app.access.keys import KeySnapshot
from serve_app.api.control_routes import ControlAsked
from tests.load.fuzz import command, main
from tests.load.fuzz_target import PartsOfAController
from tests.serve_app.gateway.serving import stage


class TestTheTarget:
    async def test_answers_pages_of_the_controller_by_the_products_own_code(self, tmp_path: Path) -> None:
        shown: list[KeySnapshot] = []
        control = PartsOfAController(tmp_path, changed=shown.append)
        await control.start()
        pages = ("/v1/jobs", "/v1/goals", "/v1/leases", "/v1/rollouts", "/admin/scaling", "/admin/keys")
        told = {path: (await control.ask(ControlAsked(method="GET", path=path))).status for path in pages}
        assert told == dict.fromkeys(pages, 200)
        pinned = b'{"mode": "fast", "ttl_seconds": 1}'
        assert (await control.ask(ControlAsked(method="POST", path="/admin/cache/ttl", body=pinned))).status == 200
        assert (await control.ask(ControlAsked(method="GET", path="/v1/fleet"))).status == 404

    async def test_asks_for_a_key_once_it_has_one(self, tmp_path: Path) -> None:
        async with stage("mini") as on:
            known = on.gateway._table
            assert known is not None
            control = PartsOfAController(
                tmp_path, changed=lambda keys: on.gateway.update(dataclasses.replace(known, version=9, access=keys))
            )
            made = control.access.answer(ControlAsked(method="POST", path="/admin/keys", body=b'{"roles": ["admin"]}'))
            headers = {"authorization": f"Bearer {orjson.loads(made.body)['key']}"}
            assert (await on.http.get("/openapi.json")).status_code == 401
            assert (await on.http.get("/openapi.json", headers=headers)).status_code == 200


class TestTheCommand:
    def test_checks_for_faults_and_for_open_routes(self) -> None:
        (checks,) = [one for one in command("st", url="http://x", key="k", examples=1, seed=1) if "--checks" in one]
        assert {"not_a_server_error", "ignored_auth"} <= set(checks.removeprefix("--checks=").split(","))

    def test_says_plainly_when_schemathesis_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--schemathesis", "no-such-program"]) == 2
        assert "schemathesis is not installed" in capsys.readouterr().err
