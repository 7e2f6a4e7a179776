"""Models by their size alone, for `headroom plan --demands`: what one replica takes is said, nothing is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from placement.demand import Demand, Estimate, Part, PartName
from serve_app.config.convert import cpu_millis
from serve_app.config.problems import ConfigError, Problem, path_text
from serve_app.config.schema import MAX_MODELS
from serve_app.config.schema_types import DeviceType, Name, SizeRange
from serve_app.config.section import Section
from serve_app.config.yaml_file import load_yaml
from serve_app.config.yaml_source import Document

MEBIBYTE, PEBIBYTE = 2**20, 2**50
MAX_REPLICAS = 4096


class DemandEntry(Section):
    """One model and how many replicas of it are wanted."""

    id: Name = Field(description="Name of the model.")
    memory: Annotated[int, SizeRange(MEBIBYTE, PEBIBYTE)] = Field(
        description="Device memory of one replica, over all its devices, e.g. 16GB."
    )
    start: Annotated[int, SizeRange(0, PEBIBYTE)] = Field(
        0, description="Device memory it takes on top while it starts, over all its devices."
    )
    replicas: int = Field(1, ge=0, le=MAX_REPLICAS, description="Engines that run this model.")
    priority: int = Field(10, ge=0, le=1000, description="When room is short, a larger priority wins; 0 to 1000.")
    tensor_parallel: int = Field(1, ge=1, le=64, description="Devices of one node that share each replica.")
    device_types: list[DeviceType] = Field(
        default_factory=list, description="Devices it may lie on, by words of the product's name; empty allows all."
    )
    cpus: float = Field(0.0, ge=0.0, le=4096.0, description="Cores each replica takes of its node.")
    host_memory: Annotated[int, SizeRange(0, PEBIBYTE)] = Field(
        0, description="Memory of its node each replica takes beside its devices."
    )
    requests_per_s: float = Field(
        0.0, ge=0.0, le=1e9, description="Requests per second all replicas together should serve; 0 means unknown."
    )
    max_offload: Annotated[int, SizeRange(0, PEBIBYTE)] = Field(
        0, description="Most of it, per device, that may lie in the node's memory when devices are full."
    )


class DemandsFile(Section):
    """Models to plan for."""

    models: list[DemandEntry] = Field(min_length=1, max_length=MAX_MODELS, description="Models, each id once.")


def load_demands(path: Path) -> tuple[Demand, ...]:
    """Raises: ConfigError with every problem of the file."""
    file, document = load_yaml(path, DemandsFile, kind="a file of demands")
    problems = [*_duplicate_ids(file, document)]
    if problems:
        raise ConfigError(path.name, problems)
    return tuple(_demand(entry, index, path.name) for index, entry in enumerate(file.models))


def _duplicate_ids(file: DemandsFile, document: Document) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, entry in enumerate(file.models):
        if first.setdefault(entry.id, index) != index:
            location = ("models", index, "id")
            yield Problem(
                path=path_text(location),
                what=f"is '{entry.id}'",
                expected=f"an id that no other model has; models[{first[entry.id]}] has it already",
                advice="Raise `replicas` for a second engine.",
                line=document.line_of(location),
            )


def _demand(entry: DemandEntry, index: int, source: str) -> Demand:
    """All memory counts as weights: that is what a start reads, and what may be offloaded."""
    size = entry.tensor_parallel
    parts = (
        Part(name=PartName.WEIGHTS, num_bytes=-(-entry.memory // size), source=f"fixed in {source}"),
        Part(
            name=PartName.LOADING,
            num_bytes=-(-entry.start // size),
            source=f"fixed in {source}",
            only_while_starting=True,
        ),
    )
    return Demand(
        model=entry.id,
        num_replicas=entry.replicas,
        priority=entry.priority,
        estimate=Estimate(parts=tuple(part for part in parts if part.num_bytes)),
        tensor_parallel=size,
        path=f"models[{index}]",
        device_types=tuple(entry.device_types),
        cpu_millis=cpu_millis(entry.cpus),
        host_memory_bytes=entry.host_memory,
        requests_per_s=entry.requests_per_s,
        max_offload_bytes=entry.max_offload,
    )
