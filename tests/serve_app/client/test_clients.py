"""Both clients against a real gateway with scripted engines: the same calls, the same answers, the same errors."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from serve_app.client import AsyncClient, BadRequest, Client, Overloaded, Terms, Unreachable, get_client
from tests.serve_app.cli.loopback import answering, silent_address
from tests.serve_app.gateway.serving import Stage, stage, until


class Twin:
    """The asynchronous client behind the calls of the synchronous one, so that one test holds for both."""

    def __init__(self, terms: Terms) -> None:
        self.client = AsyncClient(terms)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        async with self.client as client:
            if name == "stream":
                return [piece async for piece in client.stream(*args, **options)]
            return await getattr(client, name)(*args, **options)


class Original:
    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self._call, name, *args, **options)

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        with Client(self.terms) as client:
            result = getattr(client, name)(*args, **options)
            return list(result) if name == "stream" else result


@pytest.fixture(params=[Original, Twin], ids=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> type[Original] | type[Twin]:
    chosen: type[Original] | type[Twin] = request.param
    return chosen


def of(kind: type[Original] | type[Twin], on: Stage, **terms: Any) -> Original | Twin:
    return kind(Terms(**{"address": on.url, "num_retries": 0, **terms}))


class TestEitherClient:
    async def test_chats(self, kind: type[Original] | type[Twin]) -> None:
        async with stage("mini") as on:
            first = await of(kind, on).call("chat", "1+1", model="fast")
            again = await of(kind, on).call("chat", [{"role": "user", "content": "1+1"}], model="fast")
        assert first.text
        assert (first.model, first.weights_version, first.cache, again.cache) == ("mini", "v1", "miss", "hit")
        assert (again.text, len(again.trace_id or "")) == (first.text, 32)
        assert first.output_tokens

    async def test_streams_the_same_text_in_pieces(self, kind: type[Original] | type[Twin]) -> None:
        async with stage("mini") as on:
            whole = await of(kind, on).call("chat", "1+1")
            pieces = await of(kind, on).call("stream", "1+1")
        assert len(pieces) > 1
        assert "".join(pieces) == whole.text

    async def test_tells_of_models_and_health(self, kind: type[Original] | type[Twin]) -> None:
        async with stage("mini") as on:
            assert (await of(kind, on).call("get_model_info"))["models"] == [{"id": "mini", "loaded": True}]
            assert (await of(kind, on).call("get_model_info", "mini"))["loaded"] is True
            with pytest.raises(BadRequest, match="Loaded: mini"):
                await of(kind, on).call("get_model_info", "maxi")
            assert (await of(kind, on).call("health_check"))["status"]

    async def test_says_what_the_server_says(self, kind: type[Original] | type[Twin]) -> None:
        async with stage("mini") as on:
            for name in ("chat", "stream"):
                with pytest.raises(BadRequest, match="Unknown model 'quick'") as refused:
                    await of(kind, on).call(name, "1+1", model="quick")
                assert refused.value.status == 404

    async def test_knows_when_there_is_nobody(self, kind: type[Original] | type[Twin]) -> None:
        with silent_address() as address:
            client = kind(Terms(address=address, num_retries=0))
            for name, *args in (("chat", "1+1"), ("stream", "1+1"), ("health_check",), ("reload_model", "mini")):
                with pytest.raises(Unreachable):
                    await client.call(name, *args)

    async def test_health_that_is_not_well_is_an_answer(self, kind: type[Original] | type[Twin]) -> None:
        with answering({"/health": {"status": "down"}}, status=503) as address:
            assert await kind(Terms(address=address)).call("health_check") == {"status": "down"}

    async def test_reload_of_a_busy_cluster_is_overloaded_after_its_retries(
        self, kind: type[Original] | type[Twin]
    ) -> None:
        busy = {"error": {"message": "A rollout is under way."}}
        with answering({"/models/reload": busy}, status=503) as address:
            client = kind(Terms(address=address, num_retries=1))
            with pytest.raises(Overloaded, match="A rollout is under way"):
                await client.call("reload_model", "mini")


class TestLeavingAStream:
    async def test_ends_the_answer_in_the_engine(self) -> None:
        async with stage("mini", num_words=10_000, token_s=0.005) as on:
            async with AsyncClient(Terms(address=on.url)) as client:
                pieces = client.stream("1+1", max_tokens=500)
                assert await anext(pieces)
                await pieces.aclose()
            await until(lambda: on.engine.counts.num_aborted == 1)


class TestAClient:
    def test_opens_nothing_before_it_is_asked(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with get_client(address=address), pytest.raises(BlockingIOError):
                listener.accept()

    def test_may_be_closed_twice(self) -> None:
        client = get_client()
        client.close()
        client.close()
