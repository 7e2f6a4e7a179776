"""`headroom jobs` against a server that answers like the controller."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from serve_app.commands.job_watch import wait_for
from serve_app.jobs import changes
from serve_app.jobs.job import Moment
from serve_app.jobs.service import JobView
from serve_app.jobs.wire import JobRequest, shown
from tests.serve_app.cli.loopback import answering, silent_address

JOB = shown(
    JobView(
        job=changes.submitted(
            "job-1",
            JobRequest.model_validate({"kind": "train", "model": "mini", "config": {"steps": 9}}).inside(),
            at=Moment(1.0, 1.0),
        )
    ),
    whole=True,
)


def headroom(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["jobs", *arguments], env={"HEADROOM_ADDRESS": address})


def refused(message: str) -> dict[str, object]:
    return {"error": {"message": message, "code": "unknown_job", "origin": "controller"}}


class TestSubmit:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["submit", "train", "--model", "mini", "--steps", "9", "--set", "batch=4"],
            ["submit", "reinforce", "-M", "mini", "--learning-rate", "0.1"],
            ["submit", "script", "--memory", "2GiB", "--", "python", "x.py", "--wait", "5"],
        ],
    )
    def test_says_which_job_it_became(self, arguments: list[str]) -> None:
        with answering({"/v1/jobs": JOB}) as address:
            told = headroom(address, *arguments)
        assert (told.exit_code, told.stdout) == (0, "job-1 is queued. Waits for its turn.\n")

    def test_refused_is_the_cluster_s_sentence_and_exit_code_1(self) -> None:
        with answering({"/v1/jobs": refused("num_bytes: expected a size.")}, status=400) as address:
            told = headroom(address, "submit", "script", "--", "x")
        assert told.exit_code == 1
        assert "num_bytes: expected a size." in told.stderr

    @pytest.mark.parametrize("arguments", [["train"], ["script"], ["train", "-M", "m", "--set", "x"]])
    def test_without_what_it_needs_is_bad_usage(self, arguments: list[str]) -> None:
        assert headroom("http://127.0.0.1:9", "submit", *arguments).exit_code == 2

    def test_with_nothing_there_is_exit_code_3(self) -> None:
        with silent_address() as address:
            assert headroom(address, "submit", "train", "-M", "mini").exit_code == 3


class TestWaiting:
    @pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
    def test_ends_with_the_job_and_its_result(self, state: str, code: int) -> None:
        over = {**JOB, "state": state, "message": "Over."}
        with answering({"/v1/jobs": JOB, "/v1/jobs/job-1": over}) as address:
            told = headroom(address, "submit", "train", "-M", "mini", "--wait", "--json")
        assert (told.exit_code, json.loads(told.stdout)["state"]) == (code, state)

    def test_tells_each_state_and_tenth_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        running: dict[str, Any] = {**JOB, "state": "running", "num_steps": 100, "metrics": {"loss": 2.0}}
        looks = [JOB, JOB, {**running, "step": 1}, {**running, "step": 2}, {**running, "step": 11}]
        told = iter([*looks, {**running, "step": 100, "state": "succeeded"}])
        wait_for(lambda: next(told), wait=lambda _: None)
        assert capsys.readouterr().err.splitlines() == [
            "job-1: queued: Waits for its turn.",
            "job-1: running, loss 2.000, step 1 of 100",
            "job-1: running, loss 2.000, step 11 of 100",
            "job-1: succeeded, loss 2.000, step 100 of 100",
        ]


class TestLooking:
    def test_a_list_is_a_table_or_json(self) -> None:
        with answering({"/v1/jobs?page_size=50": {"jobs": [JOB], "next_page_token": ""}}) as address:
            assert "job-1" in headroom(address, "list").stdout
            assert json.loads(headroom(address, "list", "--json").stdout)["jobs"][0]["id"] == "job-1"

    def test_a_list_has_three_figures_of_a_job_and_show_has_all(self) -> None:
        metrics = {"entropy": 0.5, "loss": 2.0, "reward_average": 0.25, "test_accuracy": 0.75, "test_sum": 0.1}
        job = {**JOB, "state": "running", "metrics": metrics}
        with answering({"/v1/jobs?page_size=50": {"jobs": [job]}, "/v1/jobs/job-1": job}) as address:
            listed, shown = headroom(address, "list").stdout, headroom(address, "show", "job-1").stdout
        words = " ".join(listed.split())
        assert all(name in words for name in ("loss", "reward_average", "test_accuracy"))
        assert not any(name in words for name in ("entropy", "test_sum"))
        assert all(name in shown for name in metrics)

    def test_a_review_shows_what_each_value_was_worth(self) -> None:
        worth = {"num_collapsed": 0, "mean_gain": 0.1, "least_gain": 0.05, "most_gain": 0.2}
        effect = {"setting": "learning_rate", "value": 0.002, "num_runs": 3, "enough": True, **worth}
        found = {"days": 7, "num_runs": 3, "effects": [effect], "advice": {"learning_rate": 0.002}}
        with answering({"/v1/jobs/review?days=7": found}) as address:
            told = headroom(address, "review").stdout
            assert json.loads(headroom(address, "review", "--json").stdout) == found
        assert "+10.0" in told
        assert "Worth going on with: learning_rate 0.002." in told

    def test_a_review_of_nothing_says_so(self) -> None:
        with answering({"/v1/jobs/review?days=3": {"days": 3, "num_runs": 0}}) as address:
            told = headroom(address, "review", "--days", "3").stdout
        assert told == "No reinforcement ended well in the last 3 days.\n"

    def test_one_job_shows_what_it_waits_for(self) -> None:
        with answering({"/v1/jobs/job-1": JOB}) as address:
            assert "Waits for its turn." in headroom(address, "show", "job-1").stdout
            assert json.loads(headroom(address, "show", "job-1", "--json").stdout) == JOB

    def test_logs_are_followed_to_their_end_by_offset(self) -> None:
        part = {"text": "one\n", "offset": 0, "next_offset": 4, "num_dropped": 7, "is_over": False}
        end = {"text": "", "offset": 4, "next_offset": 4, "num_dropped": 0, "is_over": True}
        routes = {"/v1/jobs/job-1/logs?offset=0": part, "/v1/jobs/job-1/logs?offset=4": end}
        with answering(routes) as address:
            told = headroom(address, "logs", "job-1", "--all", "--follow")
        assert (told.stdout, told.exit_code) == ("one\n", 0)
        assert "7 bytes before this are not kept" in told.stderr

    def test_an_unknown_job_is_told_as_the_cluster_tells_it(self) -> None:
        with answering({"/v1/jobs/job-9": refused("There is no job 'job-9'.")}, status=404) as address:
            told = headroom(address, "show", "job-9")
        assert (told.exit_code, "There is no job 'job-9'." in told.stderr) == (1, True)

    def test_cancelling_says_how_it_stands(self) -> None:
        with answering({"/v1/jobs/job-1/cancel": {**JOB, "state": "running"}}) as address:
            assert headroom(address, "cancel", "job-1").stdout == "job-1 is running. It is being stopped.\n"
