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
