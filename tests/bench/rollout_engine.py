"""A deployment to vLLM on the CPU: a Llama of random bf16 weights, the size of the bench's checkpoint.

One engine starts with the new weights, says what they say, and is switched to the old ones; then the deployment from
old to new is timed as in `rollout_deploy.py`. Needs the default models, for their tokenizer, and the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np

from serve_app.engines.fingerprint import Fingerprint
from serve_app.rollout.replica_client import ReplicaClient
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import latest_checkpoint
from serve_app.training.manifest import MANIFEST_NAME
from serve_app.training.sources import models_folder
from serve_app.training.writer import Origin, write_checkpoint
from tests.bench.rollout_deploy import SECRET, Deployed, Pair, deploy, show
from tests.bench.rollout_world import MODEL
from tests.bench.servers import REPOSITORY
from tests.integration.default_models import copy_models

GIB: Final = 1 << 30
NEEDED_BYTES: Final = 14 * GIB
"""Left alone where less is free: the machine is shared, and an engine of a tenth of the size took 2 GiB."""
_WIDTH: Final = 2048
_INNER: Final = 5632
_HEADS: Final = 16
_LAYER: Final = (4 * _WIDTH * _WIDTH + 3 * _WIDTH * _INNER) * 2
_START_S: Final = 480.0
_SIGN_AND_FRACTION, _EXPONENT, _ONE = 0x807F, 121 << 7, 0x3F80
"""Of bf16: random numbers between 1/64 and 1/32 of either sign, and 1.0."""


async def real(gib: float, *, below: Path | None) -> Deployed | None:
    """None where this machine has not the memory now; printed either way."""
    if (free := _free_bytes()) < NEEDED_BYTES:
        print(f"\nno real engine: {free / GIB:.1f} GiB of memory are free, {NEEDED_BYTES / GIB:.0f} are asked for")
        return None
    with tempfile.TemporaryDirectory(prefix="headroom-engine-", dir=below) as name:
        home = Path(name)
        old, new = (_made(home, step, num_layers=max(1, round(gib * GIB / _LAYER))) for step in (1, 2))
        versions = {path: verify_checkpoint(path).weights_version for path in (old, new)}
        async with _replica(new, versions[new]) as replica, aiohttp.ClientSession() as session:
            client = ReplicaClient(session, url=replica.url, secret=SECRET)
            said = {versions[new]: (await client.fingerprint()).fingerprint}
            said[versions[old]] = await _switched(client, old, versions[old])
            pair = Pair(home=home, old=old, new=new, said=said)
            deployed = await deploy(pair, client, replica.url, reload="real reload (vLLM, CPU)")
            peak_bytes = sum(_peak_bytes(one) for one in _family(replica.process_id))
        show(deployed, sum(entry.bytes for entry in verify_checkpoint(new).files.values()))
        print(f"  peak memory of the replica and its engine {peak_bytes / GIB:.2f} GiB")
        return deployed


async def _switched(client: ReplicaClient, path: Path, version: str) -> Fingerprint:
    await client.prepare(path, version, verified=False)
    await client.close(deadline_s=_START_S)
    switched = await client.switch(version, expected=None, drain_s=10, limit_s=_START_S)
    await client.open(version)
    return switched.fingerprint


@dataclass(frozen=True, slots=True)
class _Replica:
    url: str
    process_id: int


@contextlib.asynccontextmanager
async def _replica(checkpoint: Path, version: str) -> AsyncIterator[_Replica]:
    command = [sys.executable, "-m", "tests.serve_app.engines.real_replica", "--checkpoint", str(checkpoint)]
    process = await asyncio.create_subprocess_exec(
        *command, "--version", version, "--secret", SECRET, "--model", MODEL, "--dtype", "bfloat16",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            while not (line := (await process.stdout.readline()).decode()).startswith("serving "):
                if not line:
                    raise RuntimeError("the replica ended before it served")
        yield _Replica(line.split()[1], process.pid)
    finally:
        process.stdin.close()
        await process.wait()


# -- The model -----------------------------------------------------------------------------------------


def _made(home: Path, step: int, *, num_layers: int) -> Path:
    """`home/models/bench/checkpoint-<step>`; tokenizer and vocabulary are those of the default model `mini`."""
    if not (models_folder(home) / "mini").is_dir():
        copy_models(home, ["mini"])
    mini = latest_checkpoint(models_folder(home) / "mini")
    assert mini is not None
    sizes = {
        "hidden_size": _WIDTH,
        "intermediate_size": _INNER,
        "num_hidden_layers": num_layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _WIDTH // _HEADS,
        "tie_word_embeddings": True,
    }

    def fill(into: Path) -> None:
        for path in mini.glob("*.json"):
            if path.name not in (MANIFEST_NAME, "trainer_state.json"):
                shutil.copy(path, into)
        for path in mini.glob("*.jinja"):
            shutil.copy(path, into)
        config = {**json.loads((mini / "config.json").read_text()), **sizes}
        config.pop("torch_dtype", None)
        (into / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
        _write_weights(into / "model.safetensors", _shapes(num_layers, config["vocab_size"]), seed=step)

    origin = Origin(model=MODEL, step=step, config_hash="", seed=step, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    return write_checkpoint(models_folder(home) / MODEL, origin, fill=fill)


def _shapes(num_layers: int, num_words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (num_words, _WIDTH)
    for number in range(num_layers):
        layer = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{norm}.weight", (_WIDTH,)
        for part in "qkvo":
            yield f"{layer}.self_attn.{part}_proj.weight", (_WIDTH, _WIDTH)
        for part in ("gate", "up"):
            yield f"{layer}.mlp.{part}_proj.weight", (_INNER, _WIDTH)
        yield f"{layer}.mlp.down_proj.weight", (_WIDTH, _INNER)
    yield "model.norm.weight", (_WIDTH,)


def _write_weights(path: Path, shapes: Iterator[tuple[str, tuple[int, ...]]], *, seed: int) -> None:
    """One tensor in memory at a time; norms are ones."""
    places, end = {}, 0
    for name, shape in shapes:
        begin, end = end, end + 2 * math.prod(shape)
        places[name] = (shape, begin, end)
    tensors = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        for name, (shape, begin, end) in places.items()
    }
    head = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    chance = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for shape, begin, end in places.values():
            bits = np.frombuffer(chance.bytes(end - begin), dtype="<u2")
            is_norm = len(shape) == 1
            file.write((np.full_like(bits, _ONE) if is_norm else bits & _SIGN_AND_FRACTION | _EXPONENT).tobytes())


# -- Memory --------------------------------------------------------------------------------------------


def _free_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _peak_bytes(process_id: int) -> int:
    text = Path(f"/proc/{process_id}/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)


def _family(process_id: int) -> Iterator[int]:
    """It and all that it started."""
    yield process_id
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))
