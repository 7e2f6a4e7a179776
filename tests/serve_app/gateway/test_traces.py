"""Every request is one trace, from the caller's span to the engine, seen in the files of a real gateway process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx

from serve_app.engines.scripted import ScriptedEngine
from tests.serve_app.gateway.builders import SECRET, chat
from tests.serve_app.gateway.serving import free_url, served, until
from tracing.recent import SpanRecord, read_spans

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
PROMPT = "a canary that nobody may write down"


async def _spans_of(directory: Path, *, asked: int) -> list[SpanRecord]:
    """Ask a gateway process `asked` times for the same and read the spans it wrote."""
    engine = ScriptedEngine(model="mini", secret=SECRET)
    async with served(engine) as engine_url:
        url = free_url()
        module = ("-m", "serve_app.gateway.standalone", "--port", url.rpartition(":")[2], "--secret", SECRET)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *module, "--backend", f"mini={engine_url}"),
            env={**os.environ, "HEADROOM_TRACE_DIR": str(directory)},
        )
        try:
            async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=10), timeout=20) as http:
                for _ in range(asked):
                    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
                    answer = await http.post(f"{url}/v1/chat/completions", json=chat(text=PROMPT), headers=headers)
                    assert answer.headers["x-trace-id"] == TRACE_ID
            num_spans = 3 + 2 * (asked - 1)
            await until(lambda: len(list(read_spans(directory))) == num_spans)
        finally:
            process.terminate()
            await process.wait()
    (sent,) = engine.counts.headers
    spans = list(read_spans(directory))
    (call,) = [span for span in spans if span.kind == "client"]
    assert sent["traceparent"] == f"00-{TRACE_ID}-{call.span_id}-01", "the engine's spans are children of the call"
    return spans


class TestARequestsTrace:
    async def test_goes_from_the_caller_over_server_and_route_to_the_engine(self, tmp_path: Path) -> None:
        spans = {span.name: span for span in await _spans_of(tmp_path, asked=1)}
        server, route, call = spans["POST /v1/chat/completions"], spans["route fast"], spans["chat mini"]
        assert {span.trace_id for span in spans.values()} == {TRACE_ID}
        assert (server.parent_id, route.parent_id, call.parent_id) == (PARENT_ID, server.span_id, route.span_id)
        assert call.attributes["gen_ai.usage.output_tokens"] == 9
        assert route.attributes["headroom.cache"] == "miss"

    async def test_of_a_hit_has_no_call_and_none_holds_a_prompt(self, tmp_path: Path) -> None:
        spans = await _spans_of(tmp_path, asked=3)
        assert [span.attributes["headroom.cache"] for span in spans if span.name == "route fast"].count("hit") == 2
        assert not _written_anywhere(tmp_path, PROMPT)


class TestATenant:
    async def test_is_named_in_the_server_span_by_a_hash_and_only_where_there_are_keys(self, tmp_path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.serve_app.gateway.tenants_program"),
            env={**os.environ, "HEADROOM_TRACE_DIR": str(tmp_path)},
        )
        assert await process.wait() == 0
        spans = sorted((span for span in read_spans(tmp_path) if span.kind == "server"), key=lambda span: span.start_ns)
        nobody, ours, theirs, again = (span.attributes.get("headroom.tenant") for span in spans)
        assert nobody is None
        assert ours != theirs == again
        assert not _written_anywhere(tmp_path, "theirs")


def _written_anywhere(directory: Path, words: str) -> bool:
    return any(words in path.read_text() for path in directory.iterdir())
