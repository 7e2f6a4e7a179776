"""The scheduled tests in the controller, over the road they take: asked, alerted, learned from, shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from placement.health_rules import RuleName
from serve_app.cli import main
from serve_app.compare.live_runs import MOST_RETRIED, SETTLED_S, Answer, LiveRunStore
from serve_app.compare.questions import questions_digest, questions_of
from serve_app.compare.store import ComparisonStore
from serve_app.config.settings import Settings, StorageSettings, TrainingSettings
from serve_app.controller.bringup import Bringup
from serve_app.controller.claims import Weights
from serve_app.controller.comparison_desk import ComparisonDesk
from serve_app.controller.job_desk import JobDesk
from serve_app.controller.lessons import REMEMBERED_S, Lessons
from serve_app.controller.live_tests import LiveTests
from serve_app.controller.model_alerts import ModelAlerts
from serve_app.controller.store import Store
from serve_app.fleet.alerts import AlertEntry, AlertHistory, Callbacks
from serve_app.gateway.standalone import standalone_settings
from serve_app.goals.goal import JobWanted, Strategy
from serve_app.jobs import changes
from serve_app.jobs.job import Job, JobSpec, Moment
from serve_app.training.job_config import read_job_config
from serve_app.training.self_correction import Message
from serve_app.training.tasks import TaskKind, held_out_tasks
from tests.serve_app.compare.builders import database, score
from tests.serve_app.training.tiny import copy_of_tiny
from tracing import names
from tracing.collector import Collector
from tracing.fleet_metrics import AlertMetrics
from tracing.live_metrics import LiveTestMetrics
from tracing.metrics import Recorder

DAY_S = 86_400.0
TASKS = {task.prompt: task for task in held_out_tasks()}


@dataclass
class World:
    """One model, `mini`, made by our trainer in a home of its own. It answers right, but for the kinds it `fails`."""

    home: Path
    fails: frozenset[TaskKind] = frozenset()
    answers: bool = True
    models: tuple[str, ...] = ("mini",)
    now_s: float = 1e9
    told: list[AlertEntry] = field(default_factory=list)
    num_regressions: int = 0

    def __post_init__(self) -> None:
        checkpoint = copy_of_tiny(self.home / "models" / "mini")
        self.weights = {"mini": Weights(path=checkpoint, version="a" * 12, step=1)}
        self.recorder, db = Recorder("controller"), database()
        self.scores, callbacks = ComparisonStore(db), Callbacks()
        callbacks.add(self.told.append)
        metrics = AlertMetrics(self.recorder, ())
        self.alerts = ModelAlerts(
            history=AlertHistory(db, max_kept=100),
            callbacks=callbacks,
            metrics=lambda: metrics,
            clock=lambda: self.now_s,
        )
        self.lessons = Lessons(self.home, test_every_s=lambda: DAY_S, clock=lambda: self.now_s)
        self.desk = LiveTests(
            bringup=cast("Bringup", self),
            store=LiveRunStore(db),
            scores=self.scores,
            live=self,
            answers=lambda model: self.answers,
            lessons=self.lessons,
            alerts=self.alerts,
            metrics=LiveTestMetrics(self.recorder),
            on_regression=self._regressed,
            clock=lambda: self.now_s,
            pause=self._pause,
        )

    @property
    def state(self) -> SimpleNamespace:
        return SimpleNamespace(weights=self.weights)

    @property
    def settings(self) -> Settings:
        storage = StorageSettings(home=self.home, model_roots=())
        return replace(
            standalone_settings(list(self.models)), storage=storage, training=TrainingSettings(test_every_s=DAY_S)
        )

    def was_compared(self) -> None:
        """All questions were answered right then."""
        questions = questions_of(self.weights["mini"].path.parent, is_ours=True)
        made = score("+" * len(questions), version="a" * 12, test_set=questions_digest(questions))
        self.scores.save_score(replace(made, model="mini"), at_s=self.now_s)

    async def ask(self, model: str, messages: Sequence[Message], *, max_tokens: int) -> Answer:
        task = TASKS[messages[0]["content"]]
        text = "wrong" if task.kind in self.fails else task.answer
        return Answer(text=text, logprobs=(-0.5,), weights_version="a" * 12)

    async def tested(self) -> dict[str, Any]:
        """A day later, what is shown of the test that was due."""
        self.now_s += DAY_S
        await self.desk.turn()
        self.now_s += SETTLED_S
        await self.desk.turn()
        return self.desk.page()

    def metric(self) -> dict[tuple[str, ...], float]:
        collector = Collector(version="0")
        collector.merge(self.recorder.drain(), now_s=0.0)
        text = collector.render().decode()
        lines = [line for line in text.splitlines() if line.startswith(names.CALIBRATION_ERROR.name + "{")]
        return {(line.split(" ")[0],): float(line.split(" ")[1]) for line in lines}

    def _regressed(self) -> None:
        self.num_regressions += 1

    async def _pause(self, seconds: float) -> None:
        self.now_s += 0.0


class Asked:
    """Jobs that are only written down."""

    def __init__(self) -> None:
        self.specs: list[JobSpec] = []

    @property
    def service(self) -> Asked:
        return self

    def submit(self, spec: JobSpec, *, job_id: str) -> Job:
        self.specs.append(spec)
        return changes.submitted(job_id, spec, at=Moment(0.0, 0.0))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.was_compared()
    return made


class TestRegression:
    async def test_becomes_one_alert_that_ends_with_the_next_good_test(self, world: World) -> None:
        for world.fails in (frozenset({TaskKind.SUM}), frozenset({TaskKind.SUM}), frozenset()):
            await world.tested()
        fired, cleared = world.told
        assert (fired.rule, fired.device) == (RuleName.ROLLOUT_REGRESSION, "model:mini")
        assert "headroom rollouts rollback" in fired.message
        assert cleared.id == fired.id
        assert cleared.cleared_at_s is not None
        assert world.num_regressions == 1

    async def test_of_a_model_that_sleeps_goes_on_and_of_one_that_is_gone_ends(self, world: World) -> None:
        world.fails = frozenset({TaskKind.SUM})
        await world.tested()
        world.answers, world.weights = False, {}
        await world.desk.turn()
        assert world.alerts.models(RuleName.ROLLOUT_REGRESSION) == {"mini"}
        world.models = ("base",)
        await world.desk.turn()
        assert world.alerts.models(RuleName.ROLLOUT_REGRESSION) == set()


class TestLessons:
    async def test_what_was_failed_is_weighed_in_the_next_job_s_configuration(self, world: World) -> None:
        world.fails = frozenset({TaskKind.SUM, TaskKind.REVERSE})
        page = await world.tested()
        assert page["mini"]["feedback"]["num_failed"] == 80
        text = json.dumps(
            {"kind": "train", "model": "mini", "home": "/", "steps": 1} | {"curriculum": world.lessons.setting("mini")}
        )
        weights = read_job_config(text).learned_from.weights
        assert min(weight for (kind, _), weight in weights.items() if kind in world.fails) > 1
        assert max(weight for (kind, _), weight in weights.items() if kind not in world.fails) < 1

    async def test_weigh_on_the_jobs_of_goals_too(self, world: World) -> None:
        world.fails = frozenset({TaskKind.SUM})
        await world.tested()
        asked = Asked()
        store = cast("Store", SimpleNamespace(connection=database()))
        desk = ComparisonDesk(
            store=store, bringup=cast("Bringup", world), jobs=lambda: cast("JobDesk", asked), lessons=world.lessons
        )
        wanted = JobWanted(
            strategy=Strategy.MORE_STEPS, model="mini", parent=None, seed=0, learning_rate_scale=1.0, steps_scale=1.0
        )
        await desk.submit(wanted, priority=1, key="once")
        (spec,) = asked.specs
        assert read_job_config(spec.config).learned_from.weights[TaskKind.SUM, 3] > 1

    async def test_are_forgotten_after_a_week(self, world: World) -> None:
        world.fails = frozenset({TaskKind.SUM})
        await world.tested()
        world.now_s += REMEMBERED_S + 1
        assert world.desk.page()["mini"]["feedback"] == {"num_failed": 0, "weights": []}
        assert world.lessons.setting("mini") == []

    async def test_are_not_drawn_from_a_test_set_of_others(self, world: World) -> None:
        (world.home / "models" / "mini" / "test_set.jsonl").write_text('{"prompt": "Sing.", "answer": "La."}')
        TASKS["Sing."] = replace(next(iter(TASKS.values())), answer="Lo.")
        page = await world.tested()
        del TASKS["Sing."]
        assert (page["mini"]["num_asked"], page["mini"]["num_right"]) == (1, 0)
        assert world.lessons.setting("mini") == []


class TestWhatIsShown:
    async def test_calibration_is_a_metric_of_model_and_version(self, world: World) -> None:
        await world.tested()
        ((label, value),) = world.metric().items()
        assert 'model="mini"' in label[0]
        assert f'version="{"a" * 12}"' in label[0]
        assert value == pytest.approx(1 - 0.6065, abs=1e-3)

    async def test_the_command_shows_accuracy_calibration_second_tries_and_what_is_to_be_learned(
        self, world: World
    ) -> None:
        world.fails = frozenset({TaskKind.SUM})
        await world.tested()
        shown = CliRunner().invoke(main, ["comparisons", "--live", "--home", str(world.home)], env={"COLUMNS": "240"})
        assert "REGRESSION" in shown.stdout
        assert f"0 of {MOST_RETRIED}" in shown.stdout
        assert "40 wrong: sum/" in shown.stdout
        told = CliRunner().invoke(main, ["comparisons", "--live", "--home", str(world.home), "--json"])
        assert json.loads(told.stdout) == world.desk.page()

    def test_the_command_says_so_where_nothing_was_tested(self, tmp_path: Path) -> None:
        shown = CliRunner().invoke(main, ["comparisons", "--live", "--home", str(tmp_path)])
        assert (shown.exit_code, shown.stdout) == (0, "Nothing that serves was tested yet.\n")
