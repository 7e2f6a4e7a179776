"""Changing the weights of one replica by its control routes, over real HTTP, with scripted weights."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
import pytest

from serve_app.engines.ask_fingerprint import fingerprint_of
from serve_app.engines.control_wire import SWITCH_PATH
from serve_app.engines.fingerprint import Fingerprint
from serve_app.engines.gate import Gate
from serve_app.engines.scripted import ScriptedEngine
from serve_app.engines.scripted_weights import NUM_BYTES, ReloadFault, ScriptedWeights
from serve_app.engines.switch_values import Refusal, SwitchRefused
from serve_app.engines.weights_switch import WeightsSwitch
from serve_app.errors import EngineStartFailed
from serve_app.rollout.replica_client import ReplicaCallFailed, ReplicaClient, Trouble
from tests.serve_app.gateway.serving import free_url, served, until

SECRET = "s3cret"
FOR_EVER_S = 3600.0
CHAT = "/v1/chat/completions"


@dataclass
class Replica:
    """One scripted replica on loopback, the controller's client of it, and clients of its answers."""

    engine: ScriptedEngine
    url: str
    client: ReplicaClient
    session: aiohttp.ClientSession
    statuses: list[int] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    """Version in the head and whole text, of each answer that was 200."""

    async def ask(self, *, stream: bool = False) -> None:
        body = {"model": "mini", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        headers = {"x-headroom-internal": SECRET}
        async with self.session.post(self.url + CHAT, json=body, headers=headers) as answer:
            text = await answer.text()
        self.statuses.append(answer.status)
        if answer.status == 200:
            self.said.append((answer.headers["x-headroom-weights-version"], text))

    async def prepared(self, version: str) -> None:
        await self.client.prepare(Path("/scripted", version), version, verified=True)
        await self.client.close(deadline_s=FOR_EVER_S)

    async def switch(self, version: str, *, expected: Fingerprint | None = None, limit_s: float = 5.0) -> str:
        """Prepared, closed, switched; still closed."""
        await self.prepared(version)
        return (await self.client.switch(version, expected=expected, drain_s=5, limit_s=limit_s)).version

    async def refused(
        self, version: str, *, expected: Fingerprint | None = None, limit_s: float = 5.0
    ) -> ReplicaCallFailed:
        with pytest.raises(ReplicaCallFailed) as refused:
            await self.switch(version, expected=expected, limit_s=limit_s)
        assert refused.value.trouble is Trouble.REFUSED
        return refused.value


@contextlib.asynccontextmanager
async def replica(*, num_words: int = 8, token_s: float = 0.0) -> AsyncIterator[Replica]:
    engine = ScriptedEngine(
        model="mini", secret=SECRET, weights_version="v1", num_words=num_words, token_s=token_s, keep_bodies=False
    )
    connector = aiohttp.TCPConnector(limit=0)
    async with served(engine) as url, aiohttp.ClientSession(connector=connector) as session:
        yield Replica(engine, url, ReplicaClient(session, url=url, secret=SECRET), session)


async def said_by(version: str) -> Fingerprint:
    return await fingerprint_of(ScriptedWeights(model="mini", version=version, num_words=8), "mini")


class TestTheRoad:
    async def test_prepare_close_switch_open(self) -> None:
        async with replica() as one:
            prepared = await one.client.prepare(Path("/scripted/v2"), "v2", verified=False)
            assert prepared.num_bytes == NUM_BYTES
            assert not (await one.client.close(deadline_s=FOR_EVER_S)).is_open
            switched = await one.client.switch("v2", expected=await said_by("v2"), drain_s=5, limit_s=5)
            assert (switched.version, switched.fingerprint) == ("v2", await said_by("v2"))
            assert not (await one.client.state()).is_open
            await one.client.open("v2")
            await one.ask()
            state = await one.client.state()
            assert (state.version, state.before, state.is_open) == ("v2", "v1", True)
            assert one.said[0][0] == "v2"

    async def test_what_served_before_can_be_gone_back_to_without_preparing_it(self) -> None:
        async with replica() as one:
            await one.switch("v2")
            await one.client.switch("v1", expected=None, drain_s=5, limit_s=5)
            assert (await one.client.fingerprint()).fingerprint == await said_by("v1")

    async def test_a_step_out_of_order_is_refused_and_changes_nothing(self) -> None:
        async with replica() as one:
            with pytest.raises(ReplicaCallFailed) as unprepared:
                await one.client.switch("v2", expected=None, drain_s=5, limit_s=5)
            await one.client.prepare(Path("/scripted/v2"), "v2", verified=True)
            with pytest.raises(ReplicaCallFailed) as not_closed:
                await one.client.switch("v2", expected=None, drain_s=5, limit_s=5)
            with pytest.raises(ReplicaCallFailed) as other:
                await one.client.open("v2")
            codes = [refused.value.refusal for refused in (unprepared, not_closed, other)]
            assert codes == [Refusal.NOT_PREPARED, Refusal.NOT_CLOSED, Refusal.OTHER_WEIGHTS]
            assert (await one.client.state()).version == "v1"

    async def test_two_changes_at_once_are_one_and_a_refusal(self) -> None:
        async with replica() as one:
            one.engine.weights.faults.append(ReloadFault.HANGS)
            await one.prepared("v2")
            first = asyncio.create_task(one.client.switch("v2", expected=None, drain_s=5, limit_s=FOR_EVER_S))
            await until(lambda: one.engine.switch.state().is_changing)
            for step in (one.client.open("v1"), one.client.fingerprint(), one.client.close(deadline_s=1)):
                with pytest.raises(ReplicaCallFailed) as refused:
                    await step
                assert refused.value.refusal is Refusal.BUSY
            one.engine.weights.go_on.set()
            assert (await first).version == "v2"

    async def test_without_the_secret_no_step_is_taken(self) -> None:
        async with replica() as one:
            stranger = ReplicaClient(one.session, url=one.url, secret="wrong")
            with pytest.raises(ReplicaCallFailed) as refused:
                await stranger.close(deadline_s=FOR_EVER_S)
            assert refused.value.trouble is Trouble.STRANGE
            assert (await one.client.state()).is_open

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'{"version": "v2"}', b'{"version":"v2","drain_s":-1,"limit_s":1}', b"{" * 2_000_000]
    )
    async def test_a_body_that_is_no_order_is_400(self, body: bytes) -> None:
        async with replica() as one:
            headers = {"x-headroom-internal": SECRET}
            async with one.session.post(one.url + SWITCH_PATH, data=body, headers=headers) as answer:
                said = await answer.json()
            assert (answer.status, said["error"]["code"]) == (400, Refusal.INVALID)


class TestOldWeightsAnswerOn:
    async def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_stops(self) -> None:
        async with replica() as one:
            one.engine.weights.refuses = "Another tokenizer."
            refused = await one.refused("v2")
            assert (refused.refusal, refused.serves) == (Refusal.CHECKPOINT, "v1")
            await one.ask()
            assert one.said[0][0] == "v1"

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (ReloadFault.BUSY, Refusal.NOT_DRAINED),
            (ReloadFault.FAILS, Refusal.NOT_LOADED),
            (ReloadFault.STALE, Refusal.WRONG_ANSWERS),
            (ReloadFault.GARBAGE, Refusal.WRONG_ANSWERS),
            (ReloadFault.SILENT, Refusal.WRONG_ANSWERS),
        ],
    )
    async def test_after_a_switch_that_failed(self, fault: ReloadFault, code: Refusal) -> None:
        async with replica() as one:
            one.engine.weights.faults.append(fault)
            refused = await one.refused("v2", expected=await said_by("v2"))
            assert (refused.refusal, refused.serves) == (code, "v1")
            await one.client.open("v1")
            await one.ask()
            assert one.said[0][0] == "v1"
            assert "@v1" in one.said[0][1]

    async def test_after_a_reload_that_hangs(self) -> None:
        async with replica() as one:
            one.engine.weights.faults.append(ReloadFault.HANGS)
            refused = await one.refused("v2", limit_s=0.2)
            assert (refused.refusal, refused.serves) == (Refusal.NOT_LOADED, "v1")

    async def test_when_requests_do_not_end_in_time(self) -> None:
        async with replica() as one:
            one.engine.gate = asyncio.Event()
            running = asyncio.create_task(one.ask())
            await until(lambda: one.engine.switch.gate.num_running == 1)
            await one.prepared("v2")
            with pytest.raises(ReplicaCallFailed) as refused:
                await one.client.switch("v2", expected=None, drain_s=0.05, limit_s=5)
            assert (refused.value.refusal, refused.value.serves) == (Refusal.NOT_DRAINED, "v1")
            one.engine.gate.set()
            await running
            assert one.said[0][0] == "v1"

    async def test_when_the_old_ones_do_not_come_back_either_nobody_may_open(self) -> None:
        async with replica() as one:
            lost: list[str] = []
            one.engine.switch.lost = lost.append
            one.engine.weights.faults.extend([ReloadFault.FAILS, ReloadFault.STALE])
            refused = await one.refused("v2")
            assert (refused.refusal, refused.serves) == (Refusal.LOST, None)
            assert len(lost) == 1
            for version in ("v1", "v2"):
                with pytest.raises(ReplicaCallFailed):
                    await one.client.open(version)
            assert not (await one.client.state()).is_open


class TestUnderLoad:
    async def test_500_clients_over_a_switch_lose_no_answer_and_none_is_mixed(self) -> None:
        async with replica(token_s=0.01) as one:
            early = [asyncio.create_task(one.ask(stream=number % 2 == 0)) for number in range(250)]
            await until(lambda: one.engine.switch.gate.num_running == 250)
            await one.prepared("v2")
            late = [asyncio.create_task(one.ask(stream=number % 2 == 0)) for number in range(250)]
            await until(lambda: one.engine.switch.gate.num_waiting == 250)
            await one.client.switch("v2", expected=None, drain_s=20, limit_s=5)
            assert (await one.client.open("v2")).num_waited == 250
            await asyncio.gather(*early, *late)
        assert one.statuses == [200] * 500
        assert sum(version == "v2" for version, _ in one.said) == 250
        for version, text in one.said:
            assert f"@{version}" in text
            assert ("@v1" if version == "v2" else "@v2") not in text

    async def test_who_leaves_while_waiting_frees_the_place(self) -> None:
        async with replica() as one:
            await one.client.close(deadline_s=FOR_EVER_S)
            waiting = asyncio.create_task(one.ask())
            await until(lambda: one.engine.switch.gate.num_waiting == 1)
            waiting.cancel()
            await until(lambda: one.engine.switch.gate.num_waiting == 0)
            await one.client.open("v1")
            assert one.engine.counts.num_finished == 0

    async def test_past_the_limit_it_is_503_with_a_time_to_ask_again(self) -> None:
        async with replica() as one:
            one.engine.switch.gate = Gate(most_waiting=0)
            await one.client.close(deadline_s=7)
            headers = {"x-headroom-internal": SECRET}
            async with one.session.post(one.url + CHAT, data=b"{}", headers=headers) as answer:
                said = orjson.loads(await answer.read())
            assert (answer.status, said["error"]["code"]) == (503, "weights_changing")
            assert int(answer.headers["retry-after"]) == 7

    async def test_a_controller_that_leaves_does_not_stop_a_switch_that_began(self) -> None:
        async with replica(token_s=0.02) as one:
            running = asyncio.create_task(one.ask())
            await until(lambda: one.engine.switch.gate.num_running == 1)
            await one.prepared("v2")
            order = asyncio.create_task(one.client.switch("v2", expected=None, drain_s=5, limit_s=5))
            await until(lambda: one.engine.switch.state().is_changing)
            order.cancel()
            await until(lambda: one.engine.switch.version == "v2")
            await running


def lone_switch(weights: ScriptedWeights) -> WeightsSwitch:
    return WeightsSwitch(weights, model="mini", path=Path("/scripted/v1"), version="v1", fits=weights.fits)


def scripted() -> ScriptedWeights:
    return ScriptedWeights(model="mini", version="v1", num_words=8)


class TestNobodyOpens:
    """The controller was gone past the deadline: what is in force decides, never the replica."""

    async def overdue(self, switch: WeightsSwitch) -> None:
        overdue = asyncio.Event()
        switch.overdue = overdue.set
        switch.close(deadline_s=0.001)
        await overdue.wait()

    @pytest.mark.parametrize("in_force", ["v1", "v2"])
    async def test_it_serves_what_is_in_force_once_somebody_says_so(self, in_force: str) -> None:
        switch = lone_switch(weights := scripted())
        await switch.prepare(Path("/scripted/v2"), "v2", verified=True)
        await self.overdue(switch)
        answers = iter([None, None, in_force])

        async def controller() -> str | None:
            assert not switch.gate.is_open
            return next(answers)

        await switch.settle(controller, ask_again_s=0)
        assert (switch.version, weights.says, switch.gate.is_open) == (in_force, in_force, True)

    async def test_a_switch_broken_off_in_the_middle_is_settled_too(self) -> None:
        switch = lone_switch(weights := scripted())
        await switch.prepare(Path("/scripted/v2"), "v2", verified=True)
        await self.overdue(switch)
        weights.faults.append(ReloadFault.HANGS)
        broken = asyncio.create_task(switch.switch("v2", expected=None, drain_s=1, limit_s=FOR_EVER_S))
        await until(lambda: switch.version is None)
        broken.cancel()
        await asyncio.gather(broken, return_exceptions=True)

        async def controller() -> str | None:
            return "v1"

        await switch.settle(controller, ask_again_s=0)
        assert (switch.version, weights.says, switch.gate.is_open) == ("v1", "v1", True)

    async def test_weights_in_force_that_it_never_had_end_the_replica(self) -> None:
        switch = lone_switch(scripted())
        lost: list[str] = []
        switch.lost = lost.append
        await self.overdue(switch)

        async def controller() -> str | None:
            return "v9"

        await switch.settle(controller, ask_again_s=0)
        assert len(lost) == 1
        assert not switch.gate.is_open

    async def test_it_leaves_a_gate_alone_that_was_closed_anew(self) -> None:
        switch = lone_switch(scripted())
        await self.overdue(switch)
        asked = 0

        async def controller() -> str | None:
            nonlocal asked
            asked += 1
            asyncio.get_running_loop().call_soon(lambda: switch.close(deadline_s=FOR_EVER_S))
            return None

        await switch.settle(controller, ask_again_s=0.001)
        assert (asked, switch.gate.is_open) == (1, False)

    async def test_it_stops_asking_when_somebody_opens(self) -> None:
        switch = lone_switch(scripted())
        await self.overdue(switch)

        async def controller() -> str | None:
            switch.gate.open()
            return None

        await switch.settle(controller, ask_again_s=0)
        assert switch.version == "v1"


class TestProof:
    async def test_weights_that_say_what_was_recorded_are_proved(self) -> None:
        await lone_switch(scripted()).prove(await said_by("v1"))

    async def test_weights_that_say_something_else_do_not_start(self) -> None:
        with pytest.raises(EngineStartFailed, match="do not say what they should"):
            await lone_switch(scripted()).prove(await said_by("v2"))

    async def test_weights_that_say_nothing_do_not_start(self) -> None:
        weights = scripted()
        weights.is_silent = True
        with pytest.raises(EngineStartFailed):
            await lone_switch(weights).prove(None)

    async def test_weights_that_no_longer_answer_are_not_switched_away_from_unproved(self) -> None:
        switch = lone_switch(weights := scripted())
        await switch.prepare(Path("/scripted/v2"), "v2", verified=True)
        switch.close(deadline_s=FOR_EVER_S)
        weights.is_silent = True
        with pytest.raises(SwitchRefused) as refused:
            await switch.switch("v2", expected=None, drain_s=1, limit_s=1)
        assert (refused.value.code, weights.says) == (Refusal.WRONG_ANSWERS, "v1")


class TestAReplicaThatDoesNotAnswer:
    async def test_nobody_there(self) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ReplicaCallFailed) as failed:
                await ReplicaClient(session, url=free_url(), secret=SECRET).state()
        assert failed.value.trouble is Trouble.UNREACHABLE

    async def test_past_the_deadline(self) -> None:
        async with replica() as one:
            with pytest.raises(ReplicaCallFailed) as failed:
                await one.client.prepare(Path("/scripted/v2"), "v2", verified=True, deadline_s=1e-6)
        assert failed.value.trouble is Trouble.TIMED_OUT
