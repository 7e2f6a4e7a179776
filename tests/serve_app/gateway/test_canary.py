"""New weights beside the old: which request meets which, before the cache is asked."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.canary import falls_into
from serve_app.gateway.catalog import Catalog, make_catalog
from serve_app.gateway.decide import VERSION_HEADER
from serve_app.gateway.routing_table import Canary
from tests.serve_app.gateway.builders import backend, chat, decided, not_decided, settings, table
from tests.serve_app.gateway.serving import stage

OLD, NEW = "old-weights", "new-weights"
NUM_ASKED = 2000


def side_by_side(share: float, *, seed: str = "rollout-7", num_old: int = 2, num_new: int = 1) -> Catalog:
    old = [backend("mini", number=number, version=OLD) for number in range(num_old)]
    new = [backend("mini", number=9 + number, version=NEW) for number in range(num_new)]
    canary = Canary(model="mini", weights_version=NEW, share=share, seed=seed)
    return make_catalog(settings(), dataclasses.replace(table(*old, *new), canaries=(canary,)))


class TestTheShare:
    @pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
    def test_of_requests_that_meets_the_new_weights_is_the_one_asked_for(self, share: float) -> None:
        known = side_by_side(share)
        answered = [decided(chat(text=str(number)), known).weights_version for number in range(NUM_ASKED)]
        four_sigma = 4 * (share * (1 - share) / NUM_ASKED) ** 0.5
        assert answered.count(NEW) / NUM_ASKED == pytest.approx(share, abs=four_sigma)

    @given(key=st.binary(min_size=1), small=st.floats(0, 1), large=st.floats(0, 1), seed=st.text(max_size=9))
    def test_only_ever_gains_requests_when_it_grows(self, key: bytes, small: float, large: float, seed: str) -> None:
        small, large = sorted((small, large))
        assert falls_into(key, share=large, seed=seed) >= falls_into(key, share=small, seed=seed)

    def test_is_of_other_requests_in_another_rollout(self) -> None:
        one, other = side_by_side(0.5), side_by_side(0.5, seed="rollout-8")
        asked = [chat(text=str(number)) for number in range(50)]
        assert [decided(body, one).weights_version for body in asked] != [
            decided(body, other).weights_version for body in asked
        ]


class TestARequest:
    @given(text=st.text(), tenant=st.text(max_size=9))
    def test_meets_the_same_weights_each_time_however_its_fields_are_ordered(self, text: str, tenant: str) -> None:
        known = side_by_side(0.5)
        body = chat(text=text, seed=3)
        turned = dict(reversed(body.items()))
        assert (
            decided(body, known, tenant=tenant).weights_version == decided(turned, known, tenant=tenant).weights_version
        )

    @given(text=st.text())
    def test_is_retried_within_its_weights_only(self, text: str) -> None:
        decision = decided(chat(text=text), side_by_side(0.5, num_new=2))
        assert {one.weights_version for one in decision.backends} == {decision.weights_version}
        assert len(decision.backends) == 2

    def test_has_another_key_with_other_weights(self) -> None:
        old, new = (decided(chat(), side_by_side(0.5), pinned=version) for version in (OLD, NEW))
        assert old.key != new.key

    def test_without_a_mode_is_shared_out_too(self) -> None:
        answered = {decided(chat("mini", text=str(n)), side_by_side(0.5)).weights_version for n in range(50)}
        assert answered == {OLD, NEW}


class TestACanary:
    def test_is_never_the_main_version_though_more_replicas_run_it(self) -> None:
        assert decided(chat(), side_by_side(0.0, num_old=1, num_new=3)).weights_version == OLD

    def test_serves_alone_once_the_old_weights_are_gone(self) -> None:
        assert decided(chat(), side_by_side(0.0, num_old=0)).weights_version == NEW

    def test_without_a_ready_replica_changes_nothing(self) -> None:
        assert decided(chat(), side_by_side(1.0, num_new=0)).weights_version == OLD


class TestAPinnedVersion:
    @pytest.mark.parametrize("version", [OLD, NEW])
    def test_answers_whatever_the_share(self, version: str) -> None:
        assert decided(chat(), side_by_side(0.0), pinned=version).weights_version == version

    def test_that_does_not_serve_is_409_and_names_those_that_do(self) -> None:
        error = not_decided(chat(), side_by_side(0.5), pinned="gone")
        assert (error.status, error.param) == (409, VERSION_HEADER)
        assert all(version in error.message for version in (OLD, NEW))


class TestTheAddress:
    async def test_names_the_weights_that_answered_and_never_answers_with_others(self) -> None:
        async with stage("mini", "mini") as on:
            assert on.gateway._table is not None
            old, new = on.gateway._table.backends
            marked = (dataclasses.replace(old, weights_version=OLD), dataclasses.replace(new, weights_version=NEW))
            canary = Canary(model="mini", weights_version=NEW, share=0.5, seed="s")
            on.gateway.update(dataclasses.replace(table(*marked, version=2), canaries=(canary,)))
            for number in range(20):
                before = on.engines[1].counts.num_started
                answer = await on.chat(chat(text=str(number)))
                by_new = on.engines[1].counts.num_started > before
                assert answer.headers[VERSION_HEADER] == (NEW if by_new else OLD)
            assert 0 < on.engines[1].counts.num_started < 20

    async def test_takes_a_pin_and_refuses_two(self) -> None:
        async with stage("mini") as on:
            assert (await on.chat(chat(), x_headroom_weights_version="v1")).status_code == 200
            assert (await on.chat(chat(), x_headroom_weights_version="v2")).status_code == 409
            twice = [("content-type", "application/json"), (VERSION_HEADER, "v1"), (VERSION_HEADER, "v2")]
            answer = await on.http.post("/v1/chat/completions", json=chat(), headers=twice)
            assert answer.status_code == 400
