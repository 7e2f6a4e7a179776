"""A default model is planned the same before it is made and after."""

from __future__ import annotations

import pytest

from placement.estimate import model_spec
from placement.model_spec import num_params
from serve_app.config.schema_types import DEFAULT_SOURCES
from serve_app.fleet.unmade import unmade_config
from serve_app.training.defaults import DEFAULT_MODELS
from serve_app.training.sources import DEFAULT_SCHEME


class TestDefaultSources:
    def test_are_the_models_the_trainer_can_make(self) -> None:
        assert set(DEFAULT_SOURCES) == {f"{DEFAULT_SCHEME}{name}" for name in DEFAULT_MODELS}


class TestUnmadeConfig:
    @pytest.mark.parametrize("name", DEFAULT_MODELS)
    def test_has_the_shapes_the_trainer_gives_the_model(self, name: str) -> None:
        from serve_app.training.tasks import INSTRUCTION_WORDS
        from serve_app.training.tokenizer import build_tokenizer
        from serve_app.training.trainer import new_model

        model = new_model(DEFAULT_MODELS[name], build_tokenizer(INSTRUCTION_WORDS))
        planned = model_spec(unmade_config(name), dtype="float32")
        assert planned == model_spec(model.config.to_dict(), dtype="float32")
        assert num_params(planned) == sum(parameter.numel() for parameter in model.parameters())
