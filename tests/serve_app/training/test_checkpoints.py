from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import CheckpointRefused
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.manifest import MANIFEST_NAME
from tests.serve_app.training.tiny import copy_of_tiny, spoiled, tiny_checkpoint

FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    MANIFEST_NAME,
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
)


def edit_json(name: str, **entries: object) -> Callable[[Path], object]:
    def edit(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return edit


def without_manifest(directory: Path) -> None:
    (directory / MANIFEST_NAME).unlink()


def flip(path: Path, *, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def pickle_in_a_folder(directory: Path) -> None:
    (directory / "old").mkdir()
    (directory / "old" / "x.pt").write_bytes(b"x")


def unpickles(directory: Path) -> None:
    (directory / "notes.txt").write_bytes(pickle.dumps({"a": 1}))


class TestAWholeCheckpoint:
    def test_it_is_what_its_manifest_says(self) -> None:
        verified = verify_checkpoint(tiny_checkpoint())
        assert verified.manifest is not None
        assert verified.step == verified.manifest.step == 4
        assert verified.weights_version == verified.manifest.weights_version
        assert set(verified.files) == {*FILES} - {MANIFEST_NAME}

    def test_it_holds_all_that_serving_needs(self) -> None:
        assert {path.name for path in tiny_checkpoint().iterdir()} == {*FILES}

    def test_the_bytes_of_its_weights_are_those_of_its_tensors(self) -> None:
        from safetensors.torch import load_file

        tensors = load_file(tiny_checkpoint() / "model.safetensors").values()
        assert verify_checkpoint(tiny_checkpoint()).weights_bytes == sum(t.numel() * t.element_size() for t in tensors)

    def test_a_copy_has_the_same_version(self, tmp_path: Path) -> None:
        assert (
            verify_checkpoint(copy_of_tiny(tmp_path)).weights_version
            == verify_checkpoint(tiny_checkpoint()).weights_version
        )


class TestSomeoneElsesCheckpoint:
    def test_its_digests_are_computed_and_give_the_same_version(self, tmp_path: Path) -> None:
        verified = verify_checkpoint(spoiled(tmp_path, without_manifest))
        assert verified.manifest is None
        assert verified.weights_version == verify_checkpoint(tiny_checkpoint()).weights_version

    def test_the_step_comes_from_the_trainers_state(self, tmp_path: Path) -> None:
        copy = spoiled(tmp_path, without_manifest).rename(tmp_path / "checkpoint-9")
        assert verify_checkpoint(copy).step == 4

    def test_or_else_from_the_name(self, tmp_path: Path) -> None:
        copy = spoiled(tmp_path, without_manifest).rename(tmp_path / "checkpoint-9")
        (copy / "trainer_state.json").unlink()
        assert verify_checkpoint(copy).step == 9

    def test_or_is_not_known(self, tmp_path: Path) -> None:
        copy = spoiled(tmp_path, without_manifest).rename(tmp_path / "some-model")
        (copy / "trainer_state.json").write_text("[]")
        assert verify_checkpoint(copy).step is None


class TestDamage:
    @settings(max_examples=60, deadline=None)
    @given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True))
    def test_every_flipped_bit_is_found(self, name: str, place: float) -> None:
        with TemporaryDirectory() as folder:
            copy = copy_of_tiny(Path(folder))
            flip(copy / name, bit=int(place * (copy / name).stat().st_size * 8))
            with pytest.raises(CheckpointRefused):
                verify_checkpoint(copy)

    def test_a_thousand_changed_bytes_anywhere_are_a_thousand_refusals(self, tmp_path: Path) -> None:
        """In the manifest too, its white space and its times among it: the seal covers every byte of it."""
        copy, rng = copy_of_tiny(tmp_path), random.Random(0)
        originals = {name: (copy / name).read_bytes() for name in FILES}
        for index in range(1000):
            name = FILES[index % len(FILES)]
            content = bytearray(originals[name])
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
            (copy / name).write_bytes(content)
            with pytest.raises(CheckpointRefused):
                verify_checkpoint(copy)
            (copy / name).write_bytes(originals[name])
        verify_checkpoint(copy)

    @pytest.mark.parametrize("name", [name for name in FILES if name != MANIFEST_NAME])
    def test_a_missing_file_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CheckpointRefused):
            verify_checkpoint(spoiled(tmp_path, lambda copy: (copy / name).unlink()))

    @pytest.mark.parametrize("name", FILES)
    def test_a_cut_file_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CheckpointRefused):
            verify_checkpoint(
                spoiled(tmp_path, lambda copy: os.truncate(copy / name, (copy / name).stat().st_size - 1))
            )

    def test_an_extra_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointRefused, match="not in its manifest"):
            verify_checkpoint(spoiled(tmp_path, lambda copy: (copy / "extra.txt").write_text("hello")))


UNSAFE: dict[str, Callable[[Path], object]] = {
    "a pickle": lambda copy: (copy / "pytorch_model.bin").write_bytes(b"x"),
    "a pickle in a folder": pickle_in_a_folder,
    "a pickle under another name": unpickles,
    "an archive under another name": lambda copy: (copy / "notes.txt").write_bytes(b"PK\x03\x04 and more"),
    "a pickle called safetensors": lambda copy: (copy / "model.safetensors").write_bytes(pickle.dumps([1] * 99)),
    "code": lambda copy: (copy / "modeling_mine.py").write_text("import os"),
    "auto_map in the configuration": edit_json("config.json", auto_map={"AutoModel": "modeling_mine.Mine"}),
    "auto_map in the tokenizer": edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]}),
    "no tokenizer": lambda copy: (copy / "tokenizer.json").unlink(),
    "no weights": lambda copy: (copy / "model.safetensors").unlink(),
    "no configuration": lambda copy: (copy / "config.json").unlink(),
    "a configuration that is a list": lambda copy: (copy / "config.json").write_text("[]"),
    "a configuration too deep": lambda copy: (copy / "config.json").write_text("[" * 100_000),
    "a link that leaves": lambda copy: (copy / "passwords.txt").symlink_to("/etc/passwd"),
    "a folder link that leaves": lambda copy: (copy / "all").symlink_to("/etc"),
    "a broken link": lambda copy: (copy / "gone.txt").symlink_to("nowhere.txt"),
    "a pipe": lambda copy: os.mkfifo(copy / "pipe.txt"),
    "an index that names another shard": lambda copy: (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})
    ),
    "two weight files without index": lambda copy: (copy / "b.safetensors").write_bytes(
        (copy / "model.safetensors").read_bytes()
    ),
}


class TestUnsafeCheckpoints:
    """All without a manifest: nothing but the rules protects."""

    @pytest.mark.parametrize("name", UNSAFE)
    def test_it_is_refused_with_three_sentences(self, tmp_path: Path, name: str) -> None:
        copy = spoiled(tmp_path, without_manifest)
        UNSAFE[name](copy)
        with pytest.raises(CheckpointRefused) as refused:
            verify_checkpoint(copy)
        assert refused.value.what
        assert refused.value.expected
        assert refused.value.advice

    def test_a_link_inside_the_directory_is_allowed(self, tmp_path: Path) -> None:
        copy = spoiled(tmp_path, without_manifest)
        (copy / "same.json").symlink_to("config.json")
        assert "same.json" in verify_checkpoint(copy).files

    def test_there_must_be_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointRefused, match="no checkpoint directory"):
            verify_checkpoint(tmp_path / "nothing")


def header(tensors: object, *, data: int = 8) -> bytes:
    raw = json.dumps(tensors).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(data)


LIES: dict[str, bytes] = {
    "empty": b"",
    "a length past the end": (1 << 60).to_bytes(8, "little"),
    "not JSON": (4).to_bytes(8, "little") + b"????",
    "no tensors": header({}, data=0),
    "a list": header([1]),
    "bytes that do not fit the shape": header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
    "past the end": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "short of the end": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
    "a gap": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
    "overlap": header(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")},
    ),
    "negative": header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}),
    "an unknown type": header({"a": {"dtype": "OBJECT", "shape": [2], "data_offsets": [0, 8]}}),
}


class TestWeightFiles:
    @pytest.mark.parametrize("lie", LIES)
    def test_a_header_that_lies_is_refused(self, tmp_path: Path, lie: str) -> None:
        copy = spoiled(tmp_path, without_manifest)
        (copy / "model.safetensors").write_bytes(LIES[lie])
        with pytest.raises(CheckpointRefused, match=r"model\.safetensors"):
            verify_checkpoint(copy)

    @settings(max_examples=40, deadline=None)
    @given(content=st.binary(max_size=200))
    def test_any_bytes_end_in_a_refusal(self, content: bytes) -> None:
        with TemporaryDirectory() as folder:
            copy = spoiled(Path(folder), without_manifest)
            (copy / "model.safetensors").write_bytes(content)
            with pytest.raises(CheckpointRefused):
                verify_checkpoint(copy)


class TestManifest:
    @pytest.mark.parametrize(
        "entries",
        [{"surprise": 1}, {"format_version": 2}, {"step": -1}, {"files": {"a": {"bytes": 1, "sha256": "short"}}}],
        ids=lambda entries: next(iter(entries)),
    )
    def test_what_it_does_not_know_is_refused(self, tmp_path: Path, entries: dict[str, object]) -> None:
        with pytest.raises(CheckpointRefused, match="is not a manifest"):
            verify_checkpoint(spoiled(tmp_path, edit_json(MANIFEST_NAME, **entries)))

    def test_it_cannot_point_outside(self, tmp_path: Path) -> None:
        entry = {"bytes": 1, "sha256": "0" * 64}
        with pytest.raises(CheckpointRefused, match="missing"):
            verify_checkpoint(spoiled(tmp_path, edit_json(MANIFEST_NAME, files={"../../etc/passwd": entry}, seal=None)))
