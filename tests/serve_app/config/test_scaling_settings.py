"""What cluster.yaml may say of scaling, and what is answered when it says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.config.load import load_cluster
from serve_app.scaling.rules import ENGINE_BANDS, Kind, Limits, ScalingSettings, Signal
from tests.serve_app.config.cluster_text import GOOD, changed_args
from tests.serve_app.config.test_cluster_yaml import FILE
from tests.serve_app.config.test_load import loaded, problem

NIGHT = {"name": "night", "target": "mini", "cron": "0 22 * * *", "duration_s": 3600, "max_replicas": 1}


class TestDefaults:
    def test_are_those_of_the_policy(self, tmp_path: Path) -> None:
        assert loaded(GOOD, tmp_path).scaling.bands == ScalingSettings().bands

    def test_are_what_the_file_that_ships_says(self) -> None:
        assert load_cluster(FILE, environment={}).settings.scaling.bands == ScalingSettings().bands


class TestBands:
    def test_change_only_what_is_said(self, tmp_path: Path) -> None:
        settings = loaded(changed_args("scaling", "engines", "queue", value={"up": 80}), tmp_path)
        queue, *others = settings.scaling.bands[Kind.ENGINE]
        assert (queue.signal, queue.up, queue.up_hold_s, queue.down) == (Signal.QUEUE, 80, 120, 10)
        assert tuple(others) == ENGINE_BANDS[1:]

    def test_end_where_it_says_null(self, tmp_path: Path) -> None:
        settings = loaded(changed_args("scaling", "engines", "compute", value={"down": None}), tmp_path)
        assert settings.scaling.bands[Kind.ENGINE][1].down is None

    @pytest.mark.parametrize("band", [{"up": 10}, {"down": 50}, {"up": 5, "down": 6}])
    def test_whose_ends_cross_are_refused(self, tmp_path: Path, band: dict[str, float]) -> None:
        assert "`down`" in str(problem(changed_args("scaling", "engines", "queue", value=band), tmp_path))


class TestLimits:
    def test_are_by_target(self, tmp_path: Path) -> None:
        both = {"mini": {"min_replicas": 0, "max_replicas": 4}}
        settings = loaded(changed_args("scaling", "engines", "limits", value=both), tmp_path)
        assert settings.scaling.limits["mini"] == Limits(min_replicas=0, max_replicas=4)
        assert settings.scaling.limits["gateway"] == Limits()

    @pytest.mark.parametrize(
        ("place", "value", "said"),
        [
            (("engines", "limits"), {"maxi": {}}, "is no model"),
            (("engines", "limits"), {"mini": {"min_replicas": 3, "max_replicas": 2}}, "at most max_replicas (2)"),
            (("gateway", "limits"), {"min_replicas": 0}, "only models can sleep"),
            (("trainers", "limits"), {"min_replicas": 2, "max_replicas": 1}, "at most max_replicas (1)"),
            (("schedules",), [NIGHT | {"target": "mimi"}], "Did you mean"),
            (("schedules",), [NIGHT | {"target": "gateway", "min_replicas": 0}], "only models can sleep"),
            (("schedules",), [NIGHT | {"max_replicas": None}], "sets no limit"),
            (("schedules",), [NIGHT, NIGHT], "a name that no other schedule has"),
            (("schedules",), [NIGHT | {"cron": "never"}], "cron schedule"),
        ],
    )
    def test_that_cannot_be_are_refused(self, tmp_path: Path, place: tuple[str, ...], value: object, said: str) -> None:
        assert said in str(problem(changed_args("scaling", *place, value=value), tmp_path))

    def test_of_a_schedule_are_its_own(self, tmp_path: Path) -> None:
        value: Any = [NIGHT]
        (schedule,) = loaded(changed_args("scaling", "schedules", value=value), tmp_path).scaling.schedules
        assert (schedule.target, schedule.limits) == ("mini", Limits(max_replicas=1))
