"""What a trainer's job is asked to do: the JSON of its configuration, checked once and turned into values.

Reads no file and imports nothing heavy: whoever accepts jobs may check a configuration with `read_job_config`.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError

from serve_app.errors import ConfigRefused
from serve_app.training.curriculum import LEAST_WEIGHT, MOST_WEIGHT, Curriculum
from serve_app.training.tasks import TaskKind

CONFIG_VARIABLE: Final = "HEADROOM_JOB_CONFIG"
NOTHING: Final = "nothing"
MOST_STEPS: Final = 1_000_000
HEAD_DIM: Final = 32
"""Of every model this trainer begins; the hidden size is a multiple of it."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Begin = Annotated[str, StringConstraints(pattern=r"^(deployed|latest|nothing|[0-9a-f]{12})$")]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Dims(_Config):
    """Sizes of a Llama-type model."""

    hidden_size: Annotated[int, Field(ge=HEAD_DIM, le=8192, multiple_of=HEAD_DIM)]
    num_layers: Annotated[int, Field(ge=1, le=200)]
    intermediate_size: Annotated[int, Field(ge=8, le=65_536)]


class CellWeight(_Config):
    """How much more often than usual one kind of one difficulty is drawn."""

    kind: TaskKind
    difficulty: Annotated[int, Field(ge=1, le=100)]
    weight: Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)]


class _JobConfig(_Config):
    """What both kinds of job have. `size` None: the parent's own. `begin` is written `from` in JSON."""

    model: ModelName
    home: Path
    begin: Annotated[Begin, Field(alias="from")] = "deployed"
    size: Literal["mini", "small", "base"] | Dims | None = None
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    save_every: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 100
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    curriculum: Annotated[tuple[CellWeight, ...], Field(max_length=256)] = ()

    @property
    def learned_from(self) -> Curriculum:
        return Curriculum(
            weights=MappingProxyType({(cell.kind, cell.difficulty): cell.weight for cell in self.curriculum})
        )


class TrainConfig(_JobConfig):
    """Kind `train`: supervised steps on our tasks. `steps` are more steps than the parent has."""

    kind: Literal["train"] = "train"
    learning_rate: Annotated[FiniteFloat, Field(gt=0, le=1)] = 4e-3


class ReinforceConfig(_JobConfig):
    """Kind `reinforce`: `steps` updates, each from `num_tasks` tasks answered `num_answers` times."""

    kind: Literal["reinforce"] = "reinforce"
    learning_rate: Annotated[FiniteFloat, Field(gt=0, le=1)] = 5e-4
    entropy_weight: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.003
    clip_range: Annotated[FiniteFloat, Field(gt=0, lt=1)] = 0.2
    num_tasks: Annotated[int, Field(ge=1, le=1024)] = 16
    num_answers: Annotated[int, Field(ge=2, le=256)] = 8


JobConfig = TrainConfig | ReinforceConfig
_READER: Final[TypeAdapter[JobConfig]] = TypeAdapter(Annotated[JobConfig, Field(discriminator="kind")])


def read_job_config(text: str | None) -> JobConfig:
    """Raises: ConfigRefused naming the first field that is wrong."""
    try:
        return _READER.validate_json(text or "")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ("train", "reinforce"))
        raise ConfigRefused(
            f"The job's configuration is refused: {f'`{field}`: ' if field else ''}{first['msg']}.",
            expected=f"Expected a JSON object with kind, model, home and steps in the variable {CONFIG_VARIABLE}.",
            advice=f"Correct {f'`{field}`' if field else 'the JSON'} and submit the job again.",
        ) from error
