"""Real vLLM with a parser of tool calls, behind the replica's own HTTP server; no Ray.

The default model knows no tools, so only that the named one is called is asked here, not with what.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import latest_checkpoint
from serve_app.training.sources import models_folder
from tests.integration.default_models import copy_models
from tests.serve_app.engines.test_real_switch import SECRET, replica

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SCHEMA = {
    "type": "object",
    "properties": {"parity": {"enum": ["even", "odd"]}},
    "required": ["parity"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "parity", "parameters": SCHEMA}}


async def asked(url: str, **more: Any) -> dict[str, Any]:
    body = {
        "model": "mini",
        "messages": [{"role": "user", "content": "Even or odd: 8"}],
        "temperature": 0,
        "frequency_penalty": 2.0,
        "max_tokens": 200,
        **more,
    }
    headers = {"x-headroom-internal": SECRET}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        told = await answer.json()
        assert answer.status == 200, told
        choice: dict[str, Any] = told["choices"][0]
        return choice


async def test_a_named_tool_is_called(tmp_path: Path) -> None:
    copy_models(tmp_path, ("mini",))
    checkpoint = latest_checkpoint(models_folder(tmp_path) / "mini")
    assert checkpoint is not None
    async with replica(checkpoint, verify_checkpoint(checkpoint).weights_version) as client:
        choice = {"type": "function", "function": {"name": "parity"}}
        called = await asked(client._url, tools=[TOOL], tool_choice=choice)
        (call,) = called["message"]["tool_calls"]
        assert call["function"]["name"] == "parity"
