from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import CheckpointRefused
from serve_app.ops.drills_checkpoints import DrillCheckpoint, make_drill_checkpoint
from serve_app.training.checkpoints import step_of, verify_checkpoint
from tests.serve_app.training.tiny import tiny_checkpoint

REFUSALS = {
    DrillCheckpoint.FLIPPED_BYTE: "was changed",
    DrillCheckpoint.HALF_WRITTEN: "safetensors",
    DrillCheckpoint.WITHOUT_TOKENIZER: "no tokenizer",
    DrillCheckpoint.PICKLE: "pickle",
    DrillCheckpoint.AUTO_MAP: "auto_map",
}


class TestDrillCheckpoints:
    @pytest.mark.parametrize("drill", REFUSALS)
    def test_each_is_refused_for_what_its_name_says(self, tmp_path: Path, drill: DrillCheckpoint) -> None:
        made = make_drill_checkpoint(drill, tiny_checkpoint(), folder=tmp_path / "tiny", step=7)
        with pytest.raises(CheckpointRefused, match=REFUSALS[drill]):
            verify_checkpoint(made)

    @pytest.mark.parametrize("drill", sorted(set(DrillCheckpoint) - set(REFUSALS)))
    def test_the_others_are_whole_so_that_only_a_later_check_can_find_them(
        self, tmp_path: Path, drill: DrillCheckpoint
    ) -> None:
        made = make_drill_checkpoint(drill, tiny_checkpoint(), folder=tmp_path / "tiny", step=7)
        good, verified = verify_checkpoint(tiny_checkpoint()), verify_checkpoint(made)
        assert verified.weights_version != good.weights_version
        assert verified.step == step_of(made) == 7
        assert verified.manifest is not None
        assert verified.manifest.parent == good.weights_version

    def test_garbage_loads_and_answers_otherwise(self, tmp_path: Path) -> None:
        import torch

        from serve_app.training.parents import open_parent

        made = make_drill_checkpoint(DrillCheckpoint.GARBAGE, tiny_checkpoint(), folder=tmp_path / "tiny", step=7)
        good, garbage = (open_parent(path, device=torch.device("cpu")).model for path in (tiny_checkpoint(), made))
        one, two = (model.model.embed_tokens.weight for model in (good, garbage))
        assert not torch.equal(one, two)
        assert torch.equal(one.flatten().sort().values, two.flatten().sort().values)

    def test_a_drill_replaces_nothing(self, tmp_path: Path) -> None:
        make_drill_checkpoint(DrillCheckpoint.GARBAGE, tiny_checkpoint(), folder=tmp_path / "tiny", step=7)
        with pytest.raises(ValueError, match="already"):
            make_drill_checkpoint(DrillCheckpoint.PICKLE, tiny_checkpoint(), folder=tmp_path / "tiny", step=7)
