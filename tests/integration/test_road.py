"""From a training job to tokens of its weights, by itself and under load; what must not go live does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.road import TRAINER, Road, travelled, two_nodes

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def road() -> Iterator[Road]:
    with two_nodes() as cluster:
        yield travelled(cluster, print)


class TestRoad:
    def test_the_job_runs_on_the_training_node(self, road: Road) -> None:
        assert (road.job["state"], road.job["node"]) == ("succeeded", TRAINER)

    def test_one_trace_goes_from_its_submission_to_the_program_on_the_other_node(self, road: Road) -> None:
        names = ("job.submit", "job.schedule", "job.run", "job.program")
        assert [road.spans[name]["parent_id"] for name in names[1:]] == [
            road.spans[name]["span_id"] for name in names[:-1]
        ]
        assert [road.spans[name]["service"] for name in names] == 3 * ["headroom-controller"] + ["headroom-trainer"]
        assert road.spans["job.program"]["attributes"]["headroom.node"] == TRAINER

    def test_an_answer_of_the_new_weights_is_followed_back_to_that_job(self, road: Road) -> None:
        assert not [step["missing"] for step in road.origin if step["missing"]]
        (training,) = (step for step in road.origin if step["kind"] == "training run")
        assert training["trace_id"] == road.job["trace_id"]

    def test_better_weights_go_live_by_themselves(self, road: Road) -> None:
        assert road.rollout["status"] == "finished"
        assert road.accuracy_after > road.accuracy_before + 0.1

    def test_no_request_fails_meanwhile(self, road: Road) -> None:
        assert road.num_requests > 100
        assert road.num_failed == 0

    def test_no_answer_mixes_versions(self, road: Road) -> None:
        assert all(len(texts) == 1 for texts in road.texts.values()), road.texts

    def test_a_broken_checkpoint_is_refused(self, road: Road) -> None:
        assert "SHA-256" in road.refused

    def test_garbage_that_loads_goes_back_by_itself(self, road: Road) -> None:
        assert road.garbage["status"] == "returned"
