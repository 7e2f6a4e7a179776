"""The cluster.yaml that ships: it loads, Ray Serve takes it, and its comments say what the schema says.

A key's comment stands right above its first appearance. A key commented out shows its default: `# key: value`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serve_app.config.access_schema import AccessSection
from serve_app.config.health_schema import HealthSection, MaintenanceSection, ObjectivesSection, WithinSection
from serve_app.config.load import load_cluster
from serve_app.config.scaling_schema import (
    BandSection,
    EngineScaling,
    GatewayScaling,
    LimitsSection,
    ScalingSection,
    TrainerScaling,
)
from serve_app.config.schema import (
    CacheSection,
    ClusterArgs,
    FleetSection,
    GatewaySection,
    LeasesSection,
    ModelSection,
    ModeSection,
    SamplingSection,
    StorageSection,
    TracingSection,
)
from serve_app.config.schema_training import RolloutsSection, TrainingSection
from serve_app.config.serve_file import ServeApplication, ServeFile, ServeHttp

ROOT = Path(__file__).parents[3]
FILE = ROOT / "cluster.yaml"
COMMENTED_KEY = re.compile(r"^(\s*)# ([a-z_]+: \S+)$")
KEY = re.compile(r"^\s*(?:- )?([a-z_]+):(?: |$)")
COMMENT = re.compile(r"^\s*# (.*)$")

SECTIONS: list[tuple[type[BaseModel], tuple[str | int, ...]]] = [
    (ClusterArgs, ()),
    (FleetSection, ("fleet",)),
    (ModelSection, ("models", 0)),
    (ModeSection, ("modes", "fast")),
    (SamplingSection, ("modes", "fast", "sampling")),
    (CacheSection, ("cache",)),
    (GatewaySection, ("gateway",)),
    (LeasesSection, ("leases",)),
    (TracingSection, ("tracing",)),
    (HealthSection, ("health",)),
    (MaintenanceSection, ("maintenance",)),
    (ObjectivesSection, ("objectives",)),
    (WithinSection, ("objectives", "job_completion_time")),
    (TrainingSection, ("training",)),
    (RolloutsSection, ("rollouts",)),
    (ScalingSection, ("scaling",)),
    (GatewayScaling, ("scaling", "gateway")),
    (LimitsSection, ("scaling", "gateway", "limits")),
    (BandSection, ("scaling", "gateway", "cpu")),
    (EngineScaling, ("scaling", "engines")),
    (TrainerScaling, ("scaling", "trainers")),
    (AccessSection, ("access",)),
    (StorageSection, ("storage",)),
]
FIELDS = [(section, place, name) for section, place in SECTIONS for name in section.model_fields]


def uncommented() -> list[str]:
    """The file's lines with every commented key made active; no line is added or lost."""
    return [COMMENTED_KEY.sub(r"\1\2", line) for line in FILE.read_text().splitlines()]


def args_of(lines: list[str]) -> Any:
    return yaml.safe_load("\n".join(lines))["applications"][0]["args"]


def at(data: Any, place: tuple[str | int, ...]) -> Mapping[str, Any]:
    for step in place:
        data = data[step]
    assert isinstance(data, Mapping)
    return data


def comments() -> Iterator[tuple[str, str]]:
    """Each key that has a comment right above it, with the comment's text joined."""
    said: list[str] = []
    for line in uncommented():
        key, comment = KEY.match(line), COMMENT.match(line)
        if key and said:
            yield key[1], " ".join(said)
        said = [*said, comment[1]] if comment else []


class TestClusterYaml:
    def test_loads(self) -> None:
        settings = load_cluster(FILE, environment={}).settings
        assert [model.id for model in settings.models] == ["mini", "small", "base"]
        assert [(mode.name, mode.latency_target_s, mode.cache_ttl_s) for mode in settings.modes] == [
            ("fast", 2.5, 300),
            ("balanced", 3.2, 600),
            ("creative", 4.5, 1800),
        ]

    def test_is_on_loopback_only(self) -> None:
        assert load_cluster(FILE).host == "127.0.0.1"

    def test_says_first_that_it_is_a_serve_config(self) -> None:
        assert "Ray Serve config file" in FILE.read_text().splitlines()[0]

    def test_is_taken_by_ray_serve(self) -> None:
        from ray.serve.schema import ServeDeploySchema

        taken = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text()))
        assert taken.applications[0].args == args_of(FILE.read_text().splitlines())

    def test_is_whole_with_every_commented_key_active(self) -> None:
        ClusterArgs.model_validate(args_of(uncommented()))


class TestComments:
    @pytest.mark.parametrize(("section", "place", "name"), FIELDS)
    def test_every_key_appears(self, section: type[BaseModel], place: tuple[str | int, ...], name: str) -> None:
        assert name in at(args_of(uncommented()), place)

    @pytest.mark.parametrize(("section", "place", "name"), FIELDS)
    def test_every_key_has_the_schemas_description_as_its_comment(
        self, section: type[BaseModel], place: tuple[str | int, ...], name: str
    ) -> None:
        assert (name, section.model_fields[name].description) in set(comments())

    def test_a_key_commented_out_shows_its_default(self) -> None:
        active, every = args_of(FILE.read_text().splitlines()), args_of(uncommented())
        for section, place in SECTIONS:
            for name in at(every, place).keys() - at(active, place).keys():
                default = shown_default(section.model_fields[name])
                assert at(every, place)[name] == default, f"{name} at {place}"

    def test_nothing_is_commented_that_the_schema_does_not_have(self) -> None:
        known = {(name, section.model_fields[name].description) for section, _, name in FIELDS}
        ours = [pair for pair in comments() if pair[0] not in ServeFile.model_fields]
        assert set(ours) == known


def shown_default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True)


class TestServesKeys:
    """Our list of Serve's keys is Serve's own."""

    def test_of_the_file(self) -> None:
        from ray.serve.schema import ServeDeploySchema

        assert set(ServeFile.model_fields) == set(ServeDeploySchema.model_fields)

    def test_of_the_http_options(self) -> None:
        from ray.serve.schema import HTTPOptionsSchema

        assert set(ServeHttp.model_fields) == set(HTTPOptionsSchema.model_fields)
        ours, theirs = ServeHttp(), HTTPOptionsSchema()
        assert (ours.host, ours.port) == (theirs.host, theirs.port)

    def test_of_an_application(self) -> None:
        from ray.serve.schema import ServeApplicationSchema

        assert set(ServeApplication.model_fields) == set(ServeApplicationSchema.model_fields)
