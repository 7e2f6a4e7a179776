from __future__ import annotations

import dataclasses
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from serve_app.training.defaults import ensure_model
from serve_app.training.learner import learning_rate
from serve_app.training.muon import orthogonal
from serve_app.training.tasks import INSTRUCTION_WORDS
from serve_app.training.tokenizer import build_tokenizer
from serve_app.training.trainer import Report, new_model, train
from tests.serve_app.training.tiny import TINY, ignore, tiny_checkpoint


def digests(checkpoint: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in checkpoint.iterdir()}


class TestSameSeedSameBytes:
    @pytest.mark.parametrize("bfloat16", [False, True])
    def test_every_file_but_the_manifest_is_the_same(self, tmp_path: Path, bfloat16: bool) -> None:
        recipe = dataclasses.replace(TINY, bfloat16=bfloat16)
        one = ensure_model(recipe, folder=tmp_path / "one", progress=ignore)
        torch.rand(7)  # what else this process draws does not matter
        two = ensure_model(recipe, folder=tmp_path / "two", progress=ignore)
        first, second = digests(one), digests(two)
        del first["headroom_manifest.json"], second["headroom_manifest.json"]
        assert first == second

    def test_another_seed_gives_other_weights(self, tmp_path: Path) -> None:
        other = ensure_model(dataclasses.replace(TINY, seed=1), folder=tmp_path, progress=ignore)
        assert digests(other)["model.safetensors"] != digests(tiny_checkpoint())["model.safetensors"]


class TestTraining:
    def test_it_learns(self) -> None:
        recipe = dataclasses.replace(TINY, hidden_size=64, num_heads=2, num_steps=60, learning_rate=5e-3)
        reports = train(recipe, build_tokenizer(INSTRUCTION_WORDS), on_report=lambda _: None).reports
        assert reports[-1].loss < 0.75 * reports[0].loss

    def test_it_says_how_it_goes_and_ends_with_the_last_step(self) -> None:
        heard: list[Report] = []
        recipe = dataclasses.replace(TINY, num_steps=23)
        trained = train(recipe, build_tokenizer(INSTRUCTION_WORDS), on_report=heard.append)
        assert [report.step for report in heard] == [10, 20, 23]
        assert trained.reports == tuple(heard)

    def test_it_leaves_the_process_as_it_was(self) -> None:
        before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist())
        train(TINY, build_tokenizer(INSTRUCTION_WORDS), on_report=lambda _: None)
        after = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist())
        assert after == before

    def test_the_rate_rises_then_falls_to_its_last_share(self) -> None:
        recipe = dataclasses.replace(TINY, num_steps=100)
        rates = [learning_rate(recipe, step) for step in range(1, 101)]
        assert max(rates) == rates[9] == recipe.learning_rate
        assert rates[:10] == sorted(rates[:10])
        assert rates[9:] == sorted(rates[9:], reverse=True)
        assert rates[-1] == pytest.approx(recipe.learning_rate * recipe.last_rate)

    def test_a_new_model_has_room_for_long_conversations(self) -> None:
        assert new_model(TINY, build_tokenizer(INSTRUCTION_WORDS)).config.max_position_embeddings >= 1024


class TestMuon:
    @pytest.mark.parametrize("shape", [(3, 32, 32), (2, 96, 32), (2, 32, 96)])
    def test_updates_have_singular_values_near_one(self, shape: tuple[int, ...]) -> None:
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonal(matrices, dtype=torch.float32))
        assert values.max() < 1.3
        assert values.median() > 0.6
