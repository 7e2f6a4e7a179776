"""The load test compiles, and asks only for what the address serves."""

from __future__ import annotations

import ast
from pathlib import Path

from serve_app.api.fields import CHAT_FIELDS
from serve_app.gateway.standalone import standalone_settings

SOURCE = ast.parse((Path(__file__).parent / "locustfile.py").read_text(encoding="utf-8"))


def constants(name: str) -> set[object]:
    """What is written in the function or assignment of this name."""
    part = next(
        one
        for one in SOURCE.body
        if getattr(one, "name", None) == name
        or (isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and one.targets[0].id == name)
    )
    return {one.value for one in ast.walk(part) if isinstance(one, ast.Constant)}


class TestTheLocustfile:
    def test_asks_in_the_modes_there_are(self) -> None:
        assert constants("MODES") == {mode.name for mode in standalone_settings(["mini"]).modes}

    def test_sends_fields_that_are_accepted(self) -> None:
        (body,) = [one for one in ast.walk(SOURCE) if isinstance(one, ast.Return) and isinstance(one.value, ast.Dict)]
        assert isinstance(body.value, ast.Dict)
        assert {key.value for key in body.value.keys if isinstance(key, ast.Constant)} <= CHAT_FIELDS.keys()
