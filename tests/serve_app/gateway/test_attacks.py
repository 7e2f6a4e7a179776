"""Requests made to hurt (threats 16 and 32): each is refused by name, and none costs memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.serve_app.gateway.builders import chat, refused
from tests.serve_app.gateway.serving import stage

_DEEP: dict[str, Any] = {"type": "object"}
for _ in range(30):
    _DEEP = {"type": "object", "properties": {"a": _DEEP}}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def _part(kind: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, kind: {"url": "http://169.254.169.254/"}}]}]


DANGEROUS: list[tuple[str, Any, str]] = [
    ("chat_template", "{{ x }}", "chat_template"),
    ("chat_template_kwargs", {"a": 1}, "chat_template_kwargs"),
    ("n", 10**9, "n"),
    ("min_tokens", 10**9 * 10**9 * 10, "min_tokens"),
    ("min_tokens", -1, "min_tokens"),
    ("prompt_embeds", "gASV", "prompt_embeds"),
    ("cache_salt", "mine", "cache_salt"),
    ("user_config", {"a": 1}, "user_config"),
    ("logits_processors", ["os.system"], "logits_processors"),
    ("kv_transfer_params", {"remote_host": "x"}, "kv_transfer_params"),
    ("vllm_xargs", {"a": 1}, "vllm_xargs"),
    ("guided_regex", "(a+)+$", "guided_regex"),
    ("structured_outputs", {"regex": "(a+)+$"}, "structured_outputs"),
    ("response_format", _format({"type": "string", "pattern": "(a+)+$"}), "response_format"),
    ("response_format", _format({"type": "string", "pattern": "[a-z]{1,99999}"}), "response_format"),
    ("response_format", _format(_DEEP), "response_format"),
    ("response_format", _format({"$ref": "http://127.0.0.1/"}), "response_format"),
    ("logit_bias", {str(token): 1 for token in range(2000)}, "logit_bias"),
    ("stop", ["x"] * 100, "stop"),
    ("top_k", 10**9, "top_k"),
    ("request_id", "mine", "request_id"),
    ("priority", 0, "priority"),
    ("messages", _part("image_url"), "messages[0]"),
    ("messages", _part("file"), "messages[0]"),
    ("messages", _part("input_audio"), "messages[0]"),
    ("made_up", 1, "made_up"),
]


class TestADangerousField:
    @pytest.mark.parametrize(
        ("name", "value", "param"), DANGEROUS, ids=[f"{row[0]}-{number}" for number, row in enumerate(DANGEROUS)]
    )
    def test_is_refused_by_its_name(self, name: str, value: Any, param: str) -> None:
        if name == "min_tokens" and value > 2**63:
            value = 2**63
        error = refused(chat() | {name: value})
        assert (error.status, error.param) == (400, param)


class TestABody:
    async def test_of_a_gigabyte_is_refused_before_it_is_sent(self) -> None:
        async with stage("mini") as on:
            host, port = on.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n{")
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
            writer.close()

    async def test_of_a_gigabyte_in_pieces_is_refused_at_the_limit(self) -> None:
        async with stage("mini") as on:
            host, port = on.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
            for _ in range(5):  # 80 KiB of it: the limit here is 64 KiB
                writer.write(piece)
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
            writer.close()


class TestAHead:
    async def test_of_a_megabyte_is_431_and_reaches_no_engine(self) -> None:
        async with stage("mini") as on:
            host, port = on.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=2**21)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-bomb: " + b"x" * 2**20 + b"\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 431")
            assert on.engine.counts.num_started == 0
            writer.close()
