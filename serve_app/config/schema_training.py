"""Sections of cluster.yaml about new weights: how they are found, compared, rolled out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serve_app.config.schema_types import SizeRange
from serve_app.config.section import Section


class TrainingSection(Section):
    compare: bool = Field(True, description="Score every new checkpoint of a model that is served.")
    compare_memory: Annotated[int, SizeRange(2**28, 2**44)] = Field(
        3 * 2**30, description="Device memory that scoring one checkpoint takes."
    )
    test_every_s: float = Field(
        86_400.0,
        ge=0.0,
        le=2_592_000.0,
        description="How often each model's test set is asked live, in seconds; 0 never.",
    )
    archive_after_s: float = Field(
        2_592_000.0,
        ge=0.0,
        le=315_360_000.0,
        description="Age at which checkpoints that nobody needs go to the archive, in seconds; 0 never.",
    )
    min_hold_s: float = Field(
        60.0,
        ge=0.0,
        le=86_400.0,
        description="How long a job has its devices at least before it gives way to a model of higher priority.",
    )


class RolloutsSection(Section):
    auto: bool = Field(
        False, description="Roll a checkpoint out by itself when comparison finds it better beyond noise."
    )
    canary_share: float = Field(
        0.1,
        ge=0.0,
        le=0.5,
        description="Part of the requests that meet new weights first, where there is room for both.",
    )
    canary_s: float = Field(60.0, ge=1.0, le=86_400.0, description="How long the canary takes requests, in seconds.")
    observe_s: float = Field(
        86_400.0, ge=0.0, le=2_592_000.0, description="How long new weights are watched before the old are given up."
    )
    candidate_port: int = Field(
        5571, ge=1024, le=65535, description="Port of the candidate's engine; any free one when it is taken."
    )
    check: bool = Field(
        True, description="Check the service (`headroom validate`) after each switch; a failure returns."
    )
    check_request_s: float = Field(
        5.0, gt=0.0, le=3600.0, description="Longest time of one token in these checks, while callers ask too."
    )
    check_connect_s: float = Field(
        1.0, gt=0.0, le=3600.0, description="Longest time of a connection to a gateway in these checks, in seconds."
    )
    check_metrics_s: float = Field(
        30.0, gt=0.0, le=3600.0, description="Longest time until a request shows in the metrics, in seconds."
    )
