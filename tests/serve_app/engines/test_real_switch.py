"""Real vLLM changes its weights under load, behind the replica's own HTTP server; no Ray.

`pytest -m slow -s tests/serve_app/engines/test_real_switch.py` prints the times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file, save_file

from serve_app.engines.fingerprint import Fingerprint, difference
from serve_app.engines.switch_values import Refusal
from serve_app.rollout.replica_client import ReplicaCallFailed, ReplicaClient
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import latest_checkpoint
from serve_app.training.manifest import MANIFEST_NAME
from serve_app.training.sources import models_folder
from tests.integration.default_models import copy_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
SECRET = "s3cret"
ROOT = Path(__file__).parents[3]
NUM_CLIENTS = 8
PROMPTS = ("Reverse the word: silver", "What is 3 plus 4?", "How many letters are in the word: tree")


def varied(old: Path, new: Path, *, seed: int, scale: float) -> str:
    """A checkpoint of the same shapes with noise on every tensor, relative to its own spread; gives its version."""
    shutil.copytree(old, new)
    (new / MANIFEST_NAME).unlink()
    noise = np.random.default_rng(seed)
    tensors = load_file(old / "model.safetensors")
    changed = {
        name: (one + scale * one.std() * noise.standard_normal(one.shape)).astype(one.dtype)
        for name, one in tensors.items()
    }
    save_file(changed, new / "model.safetensors", metadata={"format": "pt"})
    return verify_checkpoint(new).weights_version


@contextlib.asynccontextmanager
async def replica(checkpoint: Path, version: str) -> AsyncIterator[ReplicaClient]:
    """A process with one engine; its address is the client's."""
    arguments = ["--checkpoint", str(checkpoint), "--version", version, "--secret", SECRET]
    process = await asyncio.create_subprocess_exec(
        "nice", "-n", "10", sys.executable, "-m", "tests.serve_app.engines.real_replica", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(180), aiohttp.ClientSession() as session:
            while not (line := (await process.stdout.readline()).decode()).startswith("serving "):
                assert line, "the replica ended"
            yield ReplicaClient(session, url=line.split()[1], secret=SECRET)
    finally:
        process.stdin.close()
        await process.wait()


@dataclass
class Load:
    """Greedy requests from several clients until told to stop; every answer under the version it names."""

    url: str
    failed: list[str] = field(default_factory=list)
    answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By version, prompt and text."""
    stopping: bool = False

    async def one(self, session: aiohttp.ClientSession, prompt: str) -> None:
        body = {"model": "mini", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 16}
        headers = {"x-headroom-internal": SECRET}
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
                said = await answer.read()
                if answer.status != 200:
                    self.failed.append(f"{answer.status} {said!r}")
                    return
        except aiohttp.ClientError as error:
            self.failed.append(repr(error))
            return
        text = orjson.loads(said)["choices"][0]["message"]["content"]
        self.answers[answer.headers["x-headroom-weights-version"], prompt, text] += 1

    async def client(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self.stopping:
            await self.one(session, PROMPTS[number % len(PROMPTS)])
            number += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            clients = [asyncio.create_task(self.client(session, number)) for number in range(NUM_CLIENTS)]
            try:
                await self.more(40)
                yield
                await self.more(40)
            finally:
                self.stopping = True
                await asyncio.gather(*clients)

    async def more(self, num_answers: int) -> None:
        wanted = self.answers.total() + num_answers
        while self.answers.total() < wanted and not self.failed:  # noqa: ASYNC110 - the test has a time limit
            await asyncio.sleep(0.01)

    def texts(self, version: str) -> dict[str, set[str]]:
        return {p: {t for v, q, t in self.answers if v == version and q == p} for p in PROMPTS}


@dataclass(frozen=True)
class Three:
    """Old and new answer differently; garbage loads and talks nonsense."""

    old: Path
    old_version: str
    new: Path
    new_version: str
    garbage: Path
    garbage_version: str


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Three:
    home = tmp_path_factory.mktemp("weights")
    copy_models(home, ["mini"])
    old = latest_checkpoint(models_folder(home) / "mini")
    assert old is not None
    return Three(
        old,
        verify_checkpoint(old).weights_version,
        home / "new",
        varied(old, home / "new", seed=1, scale=0.2),
        home / "garbage",
        varied(old, home / "garbage", seed=2, scale=20.0),
    )


async def fresh_start(checkpoint: Path, version: str) -> Fingerprint:
    async with replica(checkpoint, version) as client:
        return (await client.fingerprint()).fingerprint


class TestSwitchUnderLoad:
    async def test_new_weights_answer_as_after_a_fresh_start_and_no_request_fails_or_mixes(
        self, checkpoints: Three, capsys: pytest.CaptureFixture[str]
    ) -> None:
        expected = await fresh_start(checkpoints.new, checkpoints.new_version)
        async with replica(checkpoints.old, checkpoints.old_version) as client:
            before = (await client.fingerprint()).fingerprint
            assert difference(expected, before), "the test is void: old and new say the same"
            prepared = await client.prepare(checkpoints.new, checkpoints.new_version, verified=False)
            load = Load(client._url)
            async with load.running():
                await client.close(deadline_s=60)
                switched = await client.switch(checkpoints.new_version, expected=expected, drain_s=20, limit_s=60)
                opened = await client.open(checkpoints.new_version)
            quiet = {}
            for checkpoint_version in (checkpoints.new_version, checkpoints.old_version):
                quiet[checkpoint_version] = await quiet_texts(client, checkpoint_version)
        with capsys.disabled():
            sys.stderr.write(
                f"\n{prepared}\n{switched!r:.220}\n{opened} failed={len(load.failed)} {load.answers.total()} answers\n"
            )
        assert load.failed == []
        assert difference(expected, switched.fingerprint) == ""
        assert {version for version, _, _ in load.answers} == {checkpoints.old_version, checkpoints.new_version}
        for version, texts in quiet.items():
            assert load.texts(version) == texts

    async def test_garbage_is_refused_by_its_answers_and_the_old_weights_answer_on(self, checkpoints: Three) -> None:
        expected = await fresh_start(checkpoints.new, checkpoints.new_version)
        async with replica(checkpoints.old, checkpoints.old_version) as client:
            before = (await client.fingerprint()).fingerprint
            await client.prepare(checkpoints.garbage, checkpoints.garbage_version, verified=False)
            load = Load(client._url)
            async with load.running():
                await client.close(deadline_s=60)
                with pytest.raises(ReplicaCallFailed) as refused:
                    await client.switch(checkpoints.garbage_version, expected=expected, drain_s=20, limit_s=60)
                await client.open(checkpoints.old_version)
            after = (await client.fingerprint()).fingerprint
        assert (refused.value.refusal, refused.value.serves) == (Refusal.WRONG_ANSWERS, checkpoints.old_version)
        assert load.failed == []
        assert {version for version, _, _ in load.answers} == {checkpoints.old_version}
        assert difference(before, after) == ""

    async def test_weights_that_break_in_the_middle_leave_no_trace_of_themselves(
        self, checkpoints: Three, tmp_path: Path
    ) -> None:
        """Changed after they were prepared: a tensor of the middle has another shape."""
        broken = tmp_path / "broken"
        version = varied(checkpoints.old, broken, seed=3, scale=0.5)
        async with replica(checkpoints.old, checkpoints.old_version) as client:
            before = (await client.fingerprint()).fingerprint
            await client.prepare(broken, version, verified=False)
            tensors = load_file(broken / "model.safetensors")
            tensors["model.layers.1.self_attn.v_proj.weight"] = np.zeros((5, 7), dtype=np.float32)
            save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
            await client.close(deadline_s=60)
            with pytest.raises(ReplicaCallFailed) as refused:
                await client.switch(version, expected=None, drain_s=20, limit_s=60)
            await client.open(checkpoints.old_version)
            after = (await client.fingerprint()).fingerprint
        assert (refused.value.refusal, refused.value.serves) == (Refusal.NOT_LOADED, checkpoints.old_version)
        assert difference(before, after) == ""


async def quiet_texts(client: ReplicaClient, version: str) -> dict[str, set[str]]:
    """What each prompt is answered with by this version, one request after the other; switches to it first."""
    await client.close(deadline_s=60)
    await client.switch(version, expected=None, drain_s=20, limit_s=60)
    await client.open(version)
    quiet = Load(client._url)
    async with aiohttp.ClientSession() as session:
        for prompt in PROMPTS:
            await quiet.one(session, prompt)
    return quiet.texts(version)
