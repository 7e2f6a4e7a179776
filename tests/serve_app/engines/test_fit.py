"""Which checkpoints may take the place of another inside a running engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from serve_app.engines.fit import MAY_DIFFER, READ_AT_START, _differing_keys, check_fit
from serve_app.errors import CheckpointRefused
from serve_app.training.checkpoints import verify_checkpoint

CONFIG = {"model_type": "llama", "vocab_size": 8, "rope_theta": 10_000.0, "eos_token_id": 2}
SHAPES = {"model.embed_tokens.weight": (8, 4), "model.norm.weight": (4,)}


def checkpoint(path: Path, *, seed: int = 0) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (path / "chat_template.jinja").write_text("{{ messages }}")
    write_tensors(path, seed=seed)
    return path


def write_tensors(
    path: Path, *, seed: int = 0, shapes: dict[str, tuple[int, ...]] | None = None, dtype: str = "float32"
) -> None:
    noise = np.random.default_rng(seed)
    shaped = {name: noise.standard_normal(shape).astype(dtype) for name, shape in (shapes or SHAPES).items()}
    save_file(shaped, path / "model.safetensors")


def edit(path: Path, **keys: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **keys}))


@pytest.fixture
def running(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "running")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "new", seed=1)


def fits(running: Path, new: Path, *, verified: bool = False) -> int:
    return check_fit(running, new, version=verify_checkpoint(new).weights_version, verified=verified)


class TestFits:
    @pytest.mark.parametrize("verified", [True, False])
    def test_other_values_of_the_same_tensors(self, running: Path, new: Path, verified: bool) -> None:
        assert fits(running, new, verified=verified) == (8 * 4 + 4) * 4

    def test_a_key_that_no_answer_depends_on_may_differ(self, running: Path, new: Path) -> None:
        edit(new / "config.json", transformers_version="9.9", _name_or_path="elsewhere")
        fits(running, new)

    def test_json_may_be_laid_out_otherwise(self, running: Path, new: Path) -> None:
        (new / "config.json").write_text(json.dumps(dict(reversed(CONFIG.items())), indent=4))
        fits(running, new)


SPOILED: dict[str, Callable[[Path], object]] = {
    "vocab_size": lambda new: edit(new / "config.json", vocab_size=9),
    "rope_theta": lambda new: edit(new / "config.json", rope_theta=500_000.0),
    "some_new_key": lambda new: edit(new / "config.json", some_new_key=1),
    "tokenizer_class": lambda new: edit(new / "tokenizer_config.json", tokenizer_class="LlamaTokenizer"),
    "tokenizer.json": lambda new: edit(new / "tokenizer.json", model={"vocab": {"b": 0}}),
    "chat_template.jinja": lambda new: (new / "chat_template.jinja").write_text("other"),
    "generation_config.json is in the new one only": lambda new: (new / "generation_config.json").write_text("{}"),
    "tokenizer_config.json is in the running one only": lambda new: (new / "tokenizer_config.json").unlink(),
    "1 tensors are missing": lambda new: write_tensors(new, shapes={"model.norm.weight": (4,)}),
    "1 tensors are unknown": lambda new: write_tensors(new, shapes={**SHAPES, "extra": (1,)}),
    r"F32 \[4, 8\]": lambda new: write_tensors(new, shapes={**SHAPES, "model.embed_tokens.weight": (4, 8)}),
    "F16": lambda new: write_tensors(new, dtype="float16"),
}


class TestDoesNotFit:
    @pytest.mark.parametrize("said", SPOILED)
    def test_what_a_reload_would_not_read_or_not_fill(self, running: Path, new: Path, said: str) -> None:
        SPOILED[said](new)
        with pytest.raises(CheckpointRefused, match=said):
            fits(running, new)

    def test_another_version_than_was_compared(self, running: Path, new: Path) -> None:
        with pytest.raises(CheckpointRefused, match="is version"):
            check_fit(running, new, version="0" * 12, verified=False)

    @pytest.mark.parametrize("verified", [True, False])
    def test_a_pickle_beside_the_weights(self, running: Path, new: Path, verified: bool) -> None:
        (new / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(CheckpointRefused, match="pickle"):
            check_fit(running, new, version="0" * 12, verified=verified)

    def test_a_cut_file_even_where_the_store_had_verified_it(self, running: Path, new: Path) -> None:
        whole = (new / "model.safetensors").read_bytes()
        (new / "model.safetensors").write_bytes(whole[:-1])
        with pytest.raises(CheckpointRefused):
            check_fit(running, new, version="0" * 12, verified=True)

    @given(
        old=st.dictionaries(st.sampled_from(["a", "b", "use_cache"]), st.integers(0, 2)),
        new=st.dictionaries(st.sampled_from(["a", "b", "use_cache"]), st.integers(0, 2)),
    )
    def test_keys_differ_exactly_where_their_values_do(self, old: dict[str, int], new: dict[str, int]) -> None:
        without = [{key: one[key] for key in one if key not in MAY_DIFFER} for one in (old, new)]
        assert bool(_differing_keys(old, new)) == (without[0] != without[1])

    def test_every_file_with_the_tokenizer_or_a_template_is_compared(self) -> None:
        assert {"tokenizer.json", "vocab.json", "chat_template.jinja", "generation_config.json"} <= set(READ_AT_START)
