"""The daily care for checkpoints: what goes, what stays, and who hears of one that was changed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from placement.health_rules import RuleName
from serve_app.compare.archive import PINS_NAME, archived, pin, pins
from serve_app.config.settings import Settings, StorageSettings, TrainingSettings
from serve_app.controller.bringup import Bringup
from serve_app.controller.checkpoint_care import AGAIN_S, EVERY_S, CheckpointCare
from serve_app.controller.claims import Weights as Served
from serve_app.controller.model_alerts import ModelAlerts
from serve_app.errors import HeadroomError
from serve_app.fleet.alerts import AlertHistory, Callbacks
from serve_app.gateway.standalone import standalone_settings
from serve_app.rollout.record import Record, Stage, Weights
from tests.serve_app.compare.builders import Home, database
from tests.serve_app.rollout.test_stages import record
from tracing.fleet_metrics import AlertMetrics
from tracing.metrics import Recorder

OLD_S = 1e12
"""Long after every checkpoint of these tests was made."""
DAMAGED = RuleName.CHECKPOINT_DAMAGED


@dataclass
class World:
    """A home with checkpoints 1 to 6 of `tiny`; 6 is the newest, 2 serves by the plan, and no link says so."""

    path: Path
    archive_after_s: float = 2_592_000.0
    records: tuple[Record, ...] = ()
    resumed: tuple[str, ...] = ()
    now_s: float = OLD_S
    db: sqlite3.Connection = field(default_factory=database)

    def __post_init__(self) -> None:
        self.home = Home(self.path)
        self.made = {step: self.home.write(step) for step in range(1, 7)}
        metrics = AlertMetrics(Recorder("controller"), ())
        self.alerts = ModelAlerts(
            history=AlertHistory(self.db, max_kept=10),
            callbacks=Callbacks(),
            metrics=lambda: metrics,
            clock=lambda: self.now_s,
        )
        self.care = self.started()

    def started(self) -> CheckpointCare:
        return CheckpointCare(
            connection=self.db,
            bringup=cast("Bringup", self),
            alerts=self.alerts,
            needed=lambda: self.records,
            resumed=lambda: self.resumed,
            clock=lambda: self.now_s,
        )

    @property
    def state(self) -> SimpleNamespace:
        return SimpleNamespace(weights={"tiny": Served(path=self.made[2], version="b" * 12, step=2)})

    @property
    def settings(self) -> Settings:
        return replace(
            standalone_settings(["tiny"]),
            storage=StorageSettings(home=self.path, model_roots=()),
            training=TrainingSettings(archive_after_s=self.archive_after_s),
        )

    def rollout(self, number: int, *, old: int, new: int) -> Record:
        return replace(record(Stage.FINISHED), id=number, old=self.weights(old), new=self.weights(new))

    def weights(self, step: int) -> Weights:
        return Weights(path=str(self.made[step]), version=f"{step}" * 12)

    @property
    def num_archived(self) -> int:
        return len(archived(self.path))

    def steps_left(self) -> list[int]:
        return [step for step, path in self.made.items() if path.is_dir()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestArchiving:
    async def test_leaves_what_serves_what_one_may_go_back_to_what_jobs_need_and_what_is_pinned(
        self, world: World
    ) -> None:
        world.records = (world.rollout(7, old=1, new=2),)
        world.resumed = (str(world.made[4]),)
        pin(world.path, "tiny", "checkpoint-5")
        await world.care.turn()
        assert world.steps_left() == [1, 2, 4, 5, 6]
        assert [path.name for path in archived(world.path)] == ["checkpoint-3"]

    async def test_is_by_the_age_of_the_configuration_and_0_is_never(self, tmp_path: Path) -> None:
        for after_s, num_left in ((0.0, 6), (2 * OLD_S, 6), (1.0, 2)):
            world = World(tmp_path / str(after_s), archive_after_s=after_s)
            await world.care.turn()
            assert len(world.steps_left()) == num_left


class TestPins:
    async def test_of_rollouts_go_when_nobody_can_go_back_and_those_of_people_stay(self, world: World) -> None:
        world.records = (world.rollout(7, old=1, new=2),)
        for name, by in (("checkpoint-1", "rollout-7"), ("checkpoint-3", "rollout-6"), ("checkpoint-4", "operator")):
            pin(world.path, "tiny", name, by=by)
        await world.care.turn()
        assert pins(world.home.folder) == {"checkpoint-1": ("rollout-7",), "checkpoint-4": ("operator",)}
        assert not world.made[3].is_dir()


class TestVerifying:
    async def test_a_changed_checkpoint_is_an_alert_until_it_is_as_it_was(self, world: World) -> None:
        pin(world.path, "tiny", "checkpoint-5")
        await world.care.turn()
        state = world.made[5] / "trainer_state.json"
        state.write_text('{"global_step": 9}')
        world.now_s += EVERY_S
        await world.care.turn()
        assert world.alerts.models(DAMAGED) == {"tiny"}
        state.write_text('{"global_step": 5}')
        world.now_s += EVERY_S
        await world.care.turn()
        assert world.alerts.models(DAMAGED) == frozenset()


class TestTime:
    async def test_it_is_done_once_a_day_also_over_a_restart(self, world: World) -> None:
        await world.care.turn()
        before = world.num_archived
        world.made[9] = world.home.write(9)
        world.now_s += EVERY_S - 1
        await world.started().turn()
        assert world.num_archived == before
        world.now_s += 1
        await world.started().turn()
        assert world.num_archived == before + 1

    async def test_one_that_failed_is_made_again_in_an_hour(self, world: World) -> None:
        (world.home.folder / PINS_NAME).write_text("what?")
        with pytest.raises(HeadroomError):
            await world.care.turn()
        (world.home.folder / PINS_NAME).unlink()
        await world.care.turn()
        assert world.num_archived == 0
        world.now_s += AGAIN_S
        await world.care.turn()
        assert world.num_archived == 4
