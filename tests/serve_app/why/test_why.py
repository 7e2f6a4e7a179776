"""From an answer back to the run that made its weights; each link that is missing is said, the others are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli import main
from serve_app.compare.board import board as made_board
from serve_app.compare.board import boards_json, write_board_file
from serve_app.compare.finder import Record, State
from serve_app.rollout.views import RolloutView, view_of
from serve_app.training.checkpoints import read_manifest
from serve_app.training.manifest import MANIFEST_NAME, sealed_text
from serve_app.why.known import Compared, Known, Made, Ran, Step, StepKind
from serve_app.why.origin import origin_of
from tests.serve_app.cli.loopback import answering, silent_address
from tests.serve_app.compare.builders import score
from tests.serve_app.rollout.controllers import controller, store
from tests.serve_app.rollout.fake_world import MODEL, NEW, OLD, Cluster
from tests.serve_app.training.tiny import copy_of_tiny
from tracing import names
from tracing.recent import SpanRecord

ANSWER, RUN = "a" * 32, "b" * 32
SECOND_NS = 10**9
AT_S = 1_000_000.0


def span(
    name: str,
    *,
    trace: str = ANSWER,
    kind: str = "internal",
    at_s: float = AT_S,
    took_s: float = 1.0,
    status: str = "unset",
    attributes: Mapping[str, Any] | None = None,
) -> SpanRecord:
    return SpanRecord(
        trace_id=trace,
        span_id=f"{int(at_s):016x}",
        parent_id=None,
        name=name,
        kind=kind,
        service="test",
        start_ns=int(at_s * SECOND_NS),
        end_ns=int((at_s + took_s) * SECOND_NS),
        status=status,
        attributes=dict(attributes or {}),
    )


def call(version: str = NEW.version, *, model: str = MODEL, at_s: float = AT_S, status: str = "unset") -> SpanRecord:
    attributes = {
        names.GEN_AI_OPERATION: "chat",
        names.GEN_AI_REQUEST_MODEL: model,
        names.GEN_AI_RESPONSE_ID: "chatcmpl-1",
        names.WEIGHTS_VERSION: version,
        names.DEVICE: "n1/gpu-0",
    }
    return span(f"chat {model}", kind="client", at_s=at_s, took_s=0.2, attributes=attributes, status=status)


def route(cache: str = "miss") -> SpanRecord:
    attributes = {names.MODE: "fast", names.CACHE: cache, names.DEPLOYMENT: "mini@n1", names.MODEL: MODEL}
    return span("route fast", attributes=attributes)


TRACE = (span("POST /v1/chat/completions", took_s=0.3), route(), call())
MADE = Made(
    model=MODEL,
    weights_version=NEW.version,
    checkpoint="checkpoint-200",
    step=200,
    config_hash="c" * 64,
    git_commit="d" * 40,
    parent=OLD.version,
    trace_id=RUN,
    created_unix_s=AT_S - 100,
)
PARENT = replace(MADE, weights_version=OLD.version, checkpoint="checkpoint-100", step=100, parent=None, trace_id=None)
COMPARED = Compared(
    weights_version=NEW.version,
    state="scored",
    reason="",
    accuracy=0.9,
    rank=1,
    verdict="Better.",
    looked_at_unix_s=AT_S - 90,
)
JOB = Ran(
    id="job-7",
    kind="train",
    model=MODEL,
    state="succeeded",
    attempt=1,
    node="n2",
    devices=("n2/gpu-0",),
    weights_version=NEW.version,
    trace_id=RUN,
    submitted_unix_s=AT_S - 400,
    queued_s=90.0,
    started_unix_s=AT_S - 300,
    ended_unix_s=AT_S - 100,
)


@pytest.fixture
async def rollout() -> RolloutView:
    view = view_of(await controller(Cluster(), store()).rollout())
    return view.model_copy(update={"asked_unix_s": AT_S - 80, "trace_id": "e" * 32})


def step(steps: tuple[Step, ...], kind: StepKind) -> Step:
    return next(one for one in steps if one.kind is kind)


class TestTheWholeRoad:
    async def test_leads_from_the_answer_to_the_training_run_and_what_it_began_from(self, rollout: RolloutView) -> None:
        known = Known(made=(PARENT, MADE), compared=(COMPARED,), rollouts=(rollout,), jobs=(JOB,))
        steps = origin_of(TRACE, known)
        assert [one.kind for one in steps] == list(StepKind)
        assert [one.missing for one in steps] == [""] * len(steps)
        shown = ["chatcmpl-1", "mini@n1", "n1/gpu-0", NEW.version, "1", "scored", "job-7", OLD.version]
        assert [one.name for one in steps] == shown
        assert step(steps, StepKind.ROLLOUT).facts["from"] == OLD.version
        assert step(steps, StepKind.PARENT).facts["checkpoint"] == "mini/checkpoint-100"

    def test_tells_the_time_in_the_queue_apart_from_the_run(self) -> None:
        run = step(origin_of(TRACE, Known(made=(MADE,), jobs=(JOB,))), StepKind.TRAINING)
        assert (run.queued_s, run.took_s) == (90.0, 200.0)

    def test_takes_the_times_of_the_attempt_that_wrote_the_checkpoint(self) -> None:
        """The job's own are of its last attempt, which is another trace."""
        spans = (
            span("job.schedule", trace=RUN, took_s=5.0, attributes={names.JOB_ID: "job-7"}),
            span("job.run", trace=RUN, took_s=50.0),
        )
        again = replace(JOB, trace_id="f" * 32, weights_version="2" * 12, attempt=2)
        run = step(origin_of(TRACE, Known(made=(MADE,), jobs=(again,), job_spans=spans)), StepKind.TRAINING)
        assert (run.name, run.queued_s, run.took_s, run.trace_id) == ("job-7", 5.0, 50.0, RUN)

    def test_is_of_the_run_that_answered_where_one_was_tried_again(self) -> None:
        tried = call("9" * 12, at_s=AT_S - 1, status="error")
        assert step(origin_of((*TRACE, tried), Known()), StepKind.WEIGHTS).name == NEW.version


class TestTheRollout:
    async def test_is_the_last_one_before_the_answer_that_brought_these_weights(self, rollout: RolloutView) -> None:
        def other(number: int, **fields: object) -> RolloutView:
            return rollout.model_copy(update={"deployment_id": number, **fields})

        rollouts = (
            other(5, asked_unix_s=AT_S + 60),
            other(4, asked_unix_s=AT_S - 10, status="refused"),
            other(3, asked_unix_s=AT_S - 20, model="small"),
            other(2, asked_unix_s=AT_S - 30),
            other(1, asked_unix_s=AT_S - 40),
        )
        assert step(origin_of(TRACE, Known(rollouts=rollouts)), StepKind.ROLLOUT).name == "2"


class TestAMissingLink:
    @pytest.mark.parametrize(
        ("known", "kind", "said"),
        [
            (Known(made=(MADE,)), StepKind.ROLLOUT, "No rollout on record"),
            (Known(made=(MADE,)), StepKind.COMPARISON, "never compared"),
            (Known(), StepKind.WEIGHTS, "No checkpoint with these weights lies on this machine"),
            (Known(), StepKind.TRAINING, "not known without their checkpoint"),
            (Known(made=(replace(MADE, trace_id=None),)), StepKind.TRAINING, "made at first use"),
            (Known(made=(MADE,)), StepKind.TRAINING, "No job and no span of the run"),
            (Known(made=(MADE,)), StepKind.PARENT, "No checkpoint with these weights"),
            (Known(unread={StepKind.ROLLOUT: "Nothing answers."}), StepKind.ROLLOUT, "Nothing answers."),
        ],
    )
    def test_is_said(self, known: Known, kind: StepKind, said: str) -> None:
        assert said in step(origin_of(TRACE, known), kind).missing

    def test_of_an_answer_from_the_cache_says_what_to_ask_with(self) -> None:
        steps = origin_of((TRACE[0], route("hit")), Known())
        assert "ask with the `id` of the answer" in steps[0].missing
        assert step(steps, StepKind.WEIGHTS).missing == steps[0].missing

    @given(st.sets(st.sampled_from(["made", "compared", "jobs"])), st.booleans())
    def test_never_hides_another(self, gone: set[str], has_call: bool) -> None:
        whole: Mapping[str, Any] = {"made": (MADE,), "compared": (COMPARED,), "jobs": (JOB,)}
        known = Known(**{name: value for name, value in whole.items() if name not in gone})
        steps = origin_of(TRACE if has_call else TRACE[:2], known)
        assert set(StepKind) - {one.kind for one in steps} <= {StepKind.PARENT}
        assert all(one.name or one.missing for one in steps)
        if has_call:
            assert (step(steps, StepKind.COMPARISON).missing == "") == ("compared" not in gone)
            assert (step(steps, StepKind.TRAINING).missing == "") == ("jobs" not in gone)

    def test_parents_that_name_each_other_end(self) -> None:
        circle = (replace(MADE, parent=OLD.version), replace(PARENT, parent=NEW.version))
        steps = origin_of(TRACE, Known(made=circle))
        assert [one.name for one in steps if one.kind is StepKind.PARENT] == [OLD.version, NEW.version]


def written(home: Path, spans: tuple[SpanRecord, ...]) -> None:
    lines = [
        json.dumps(
            {
                "trace": one.trace_id,
                "span": one.span_id,
                "parent": one.parent_id,
                "name": one.name,
                "kind": one.kind,
                "service": one.service,
                "start_ns": one.start_ns,
                "end_ns": one.end_ns,
                "status": one.status,
                "attributes": one.attributes,
            }
        )
        for one in spans
    ]
    (home / "traces").mkdir()
    (home / "traces" / "test-1-1.jsonl").write_text("\n".join(lines))


def a_home(home: Path) -> str:
    """One checkpoint, compared, that answered; its weights version."""
    checkpoint = copy_of_tiny(home / "models" / "tiny")
    manifest = read_manifest(checkpoint)
    assert manifest is not None
    made = manifest.model_copy(update={"traceparent": f"00-{RUN}-{'1' * 16}-01"})
    (checkpoint / MANIFEST_NAME).write_text(sealed_text(made))
    version = manifest.weights_version
    record = Record(
        model="tiny", path=str(checkpoint), stamp="1", state=State.SCORED, at_s=AT_S, step=4, weights_version=version
    )
    line = made_board("tiny", [record], {version: score("++-", version=version)}, deployed=None)
    write_board_file(home, boards_json([line], at_s=AT_S))
    written(home, (TRACE[0], route(), call(version, model="tiny")))
    return version


def why(home: Path, asked: str, address: str, *more: str) -> Result:
    return CliRunner().invoke(main, ["why", asked, "--home", str(home), "--address", address, *more])


JOBS = {"jobs": [{"id": "job-7", "kind": "train", "state": "succeeded", "trace_id": RUN, "wait_s": 90.0}]}
PAGES = {"/v1/jobs?page_size=1000": JOBS, "/v1/rollouts?limit=100": {"rollouts": [], "next": None}}


class TestTheCommand:
    @pytest.mark.parametrize("asked", ["chatcmpl-1", ANSWER, ANSWER[:8]])
    def test_finds_the_answer_by_its_id_or_its_trace(self, tmp_path: Path, asked: str) -> None:
        version = a_home(tmp_path)
        with answering(PAGES) as address:
            shown = why(tmp_path, asked, address, "--json")
        assert shown.exit_code == 0, shown.output
        steps = {one["kind"]: one for one in json.loads(shown.stdout)["steps"]}
        assert steps["weights"]["name"] == version
        assert steps["comparison"]["facts"]["accuracy"] == "66.7%"
        assert (steps["training run"]["name"], steps["training run"]["queued_s"]) == ("job-7", 90.0)
        assert steps["rollout"]["missing"].startswith("No rollout on record")

    def test_draws_each_step_and_says_what_could_not_be_asked(self, tmp_path: Path) -> None:
        version = a_home(tmp_path)
        with silent_address() as address:
            shown = why(tmp_path, "chatcmpl-1", address)
        assert shown.exit_code == 0
        for text in (
            "n1/gpu-0",
            version,
            "tiny/checkpoint-4",
            "/v1/rollouts cannot be read",
            "/v1/jobs cannot be read",
        ):
            assert text in " ".join(shown.stdout.split()), shown.stdout

    def test_an_answer_that_is_not_kept_is_refused(self, tmp_path: Path) -> None:
        shown = why(tmp_path, "chatcmpl-2", "http://127.0.0.1:9")
        assert (shown.exit_code, "No trace kept" in shown.output) == (1, True)

    def test_a_spoilt_file_of_comparisons_is_said_and_no_more(self, tmp_path: Path) -> None:
        a_home(tmp_path)
        (tmp_path / "status" / "model_comparisons.json").write_text("{")
        with answering(PAGES) as address:
            shown = why(tmp_path, "chatcmpl-1", address, "--json")
        steps = {one["kind"]: one for one in json.loads(shown.stdout)["steps"]}
        assert "cannot be read" in steps["comparison"]["missing"]
        assert steps["training run"]["name"] == "job-7"
