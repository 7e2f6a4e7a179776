"""Preemption: who has to make room for whom, in which order, by when, and when nobody has to after all."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from placement.lease import Lease, LeaseRefusal, LeaseRefusalReason, LeaseState, Reclaimable, ReclaimKind
from placement.lease_index import Happening
from placement.lease_preemption import StepKind, smallest_victims
from tests.placement.lease_builders import GB, Leases, hold, request, room

CACHE = Reclaimable(name="qwen kv", num_bytes=2 * GB, kind=ReclaimKind.CACHE, priority=100)
IDLE = Reclaimable(name="llama3-8b", num_bytes=5 * GB, kind=ReclaimKind.IDLE_MODEL, priority=3)


def filled(*sizes_gb: float, priority: int = 0, ttl_s: float = 600) -> tuple[Leases, list[Lease]]:
    """One device of 17.28 GB with these leases, all past their minimum hold."""
    leases = Leases()
    held = [leases.granted(request(f"c{n}", gb=gb, priority=priority, ttl_s=ttl_s)) for n, gb in enumerate(sizes_gb)]
    leases.later(leases.policy.min_hold_s)
    return leases, held


def state(leases: Leases, lease: Lease) -> LeaseState:
    return leases.index.held[lease.lease_id].state


URGENT = request("urgent", gb=8, priority=5)


class TestVictims:
    def test_an_equal_priority_is_never_preempted(self) -> None:
        leases, _ = filled(17, priority=5)
        assert leases.refused(URGENT).reason is LeaseRefusalReason.NO_ROOM
        assert Happening.NOTICED not in {kind for kind, _ in leases.seen}

    def test_nobody_is_preempted_before_a_minimum_time(self) -> None:
        leases = Leases()
        leases.granted(request(gb=17, ttl_s=600))
        leases.later(leases.policy.min_hold_s - 0.1)
        assert leases.refused(URGENT).reason is LeaseRefusalReason.NO_ROOM
        leases.later(0.1)
        assert leases.refused(URGENT).reason is LeaseRefusalReason.PREEMPTING

    def test_one_large_lease_goes_rather_than_two_small_ones(self) -> None:
        leases, (small, large, other) = filled(4, 8.5, 4)
        leases.refused(URGENT)
        assert [state(leases, lease) for lease in (small, large, other)] == ["held", "noticed", "held"]

    def test_of_equal_sets_the_youngest_goes(self) -> None:
        leases, (old, young) = filled(8, 8)
        leases.refused(URGENT)
        assert (state(leases, old), state(leases, young)) == ("held", "noticed")

    def test_the_device_is_taken_that_disturbs_fewest(self) -> None:
        leases = Leases(rooms=[room("GPU-0"), room("GPU-1")])
        leases.granted(request(gb=17))
        for _ in range(4):
            leases.granted(request(gb=4))
        leases.later(leases.policy.min_hold_s)
        leases.refused(request(gb=15, priority=5))
        assert set(leases.index.claims) == {"GPU-0"}

    @given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(1, 60))
    def test_the_set_is_the_smallest_by_count_and_then_by_bytes(self, sizes: list[int], short: int) -> None:
        leases = Leases(rooms=[room(gb=17)])
        held = [leases.granted(request(gb=size / 100)) for size in sizes]
        found = smallest_victims(held, short_bytes=short * GB // 100)
        sets = [some for n in range(len(held) + 1) for some in itertools.combinations(held, n)]
        enough = [some for some in sets if sum(lease.num_bytes for lease in some) >= short * GB // 100]
        best = min(((len(some), sum(lease.num_bytes for lease in some)) for some in enough), default=None)
        assert best == (None if found is None else (len(found), sum(lease.num_bytes for lease in found)))

    def test_among_very_many_it_is_the_fewest_still(self) -> None:
        leases = Leases()
        held = [leases.granted(request(gb=0.1 + n / 10_000)) for n in range(60)]
        found = smallest_victims(held, short_bytes=GB)
        assert found is not None
        assert len(found) == 10
        assert GB <= sum(lease.num_bytes for lease in found) < 1.01 * GB


class TestOrder:
    def test_caches_shrink_before_models_sleep_before_leases_are_taken(self) -> None:
        leases, _ = filled(8, 8)
        leases.rooms = [room(gb=16, reclaimables=(IDLE, CACHE))]
        leases.refused(request("urgent", gb=12, priority=5))
        steps = leases.index.claims["GPU-0"].steps
        assert [step.kind for step in steps] == list(StepKind)
        assert [step.deadline_s for step in steps] == sorted(step.deadline_s for step in steps)

    def test_no_lease_is_disturbed_where_caches_and_idle_models_are_enough(self) -> None:
        leases, (lease,) = filled(8)
        leases.rooms = [room(gb=8, reclaimables=(CACHE, IDLE))]
        leases.refused(request("urgent", gb=7, priority=5))
        assert [step.kind for step in leases.index.claims["GPU-0"].steps] == [
            StepKind.SHRINK_CACHE,
            StepKind.SLEEP_MODEL,
        ]
        assert state(leases, lease) == "held"

    def test_the_refusal_names_every_rung_those_too_that_have_nothing_to_give(self) -> None:
        leases, _ = filled(8, 8)
        told = leases.refused(URGENT).message
        assert "caches have nothing to shrink, no idle model goes to sleep, 1 lease(s) are drained and taken" in told
        leases.rooms = [room(gb=16, reclaimables=(IDLE, CACHE))]
        told = leases.refused(request("other", gb=7, priority=6)).message
        assert "1 cache(s) shrink, 1 idle model(s) go to sleep, no lease is taken" in told

    def test_a_model_of_equal_priority_does_not_go_to_sleep(self) -> None:
        leases = Leases(rooms=[room(gb=1, reclaimables=(IDLE,))])
        assert leases.refused(request(gb=4, priority=3)).reason is LeaseRefusalReason.NO_ROOM


class TestNotice:
    def test_the_holder_is_told_its_deadline(self) -> None:
        leases, (lease,) = filled(17)
        leases.refused(URGENT)
        told = leases.renew(hold(lease))
        assert isinstance(told, Lease)
        assert told.deadline_s == leases.now_s + leases.policy.notice_s + leases.policy.grace_s

    def test_a_holder_that_knows_it_is_done_at_the_deadline_and_its_room_goes_to_the_claim(self) -> None:
        leases, (lease,) = filled(17)
        leases.refused(URGENT)
        leases.renew(hold(lease, acknowledges_notice=True))
        for _ in range(30):
            assert leases.refused(URGENT).reason is LeaseRefusalReason.PREEMPTING
            leases.later(1)
        assert leases.refused(request("ben", gb=10)).reason is LeaseRefusalReason.NO_ROOM
        assert leases.granted(URGENT).device == "GPU-0"

    def test_room_made_for_one_tenant_is_not_given_to_its_namesake_of_another(self) -> None:
        leases, (lease,) = filled(17)
        urgent = request("urgent", gb=10, priority=5)
        leases.refused(urgent)
        leases.renew(hold(lease, acknowledges_notice=True))
        for _ in range(30):
            leases.refused(urgent)
            leases.later(1)
        leases.refused(replace(urgent, tenant="another"))
        leases.granted(urgent)

    def test_room_is_not_taken_from_a_holder_that_may_not_know_until_its_own_time_is_over(self) -> None:
        leases, (lease,) = filled(17, ttl_s=60)
        for _ in range(49):
            assert leases.refused(URGENT).reason is LeaseRefusalReason.PREEMPTING
            leases.later(1)
        assert state(leases, lease) == "revoked"
        leases.later(1)
        leases.granted(URGENT)

    def test_it_is_withdrawn_when_nobody_asks_for_the_room_any_more(self) -> None:
        leases, (lease,) = filled(17)
        leases.refused(URGENT)
        leases.later(leases.policy.claim_idle_s + 1)
        assert state(leases, lease) == "held"
        assert leases.index.held[lease.lease_id].deadline_s is None

    def test_it_is_withdrawn_when_there_is_room_without(self) -> None:
        leases, (lease, other) = filled(8.5, 8)
        leases.refused(URGENT)
        leases.release(hold(lease))
        leases.granted(URGENT)
        assert state(leases, other) == "held"

    def test_asking_again_and_again_disturbs_nobody_else(self) -> None:
        leases, _ = filled(8, 8)
        for _ in range(10):
            leases.refused(URGENT)
        assert [kind for kind, _ in leases.seen].count(Happening.NOTICED) == 1

    def test_a_deadline_once_told_is_never_brought_forward(self) -> None:
        leases, (lease,) = filled(17)
        leases.refused(URGENT)
        deadline_s = leases.index.held[lease.lease_id].deadline_s
        leases.later(3)
        leases.refused(request("more urgent", gb=9, priority=6))
        assert leases.index.held[lease.lease_id].deadline_s == deadline_s


class TestVacating:
    def test_it_tells_as_few_holders_as_give_the_room_whatever_their_priority(self) -> None:
        leases, (small, large) = filled(4, 9, priority=99)
        assert [lease.lease_id for lease in leases.vacate("GPU-0", gb=3)] == [small.lease_id]
        assert leases.vacate("GPU-0", gb=3) == ()
        assert [lease.lease_id for lease in leases.vacate("GPU-0")] == [large.lease_id]

    def test_a_claim_that_is_dropped_takes_no_other_notice_with_it(self) -> None:
        leases, (small, large) = filled(8, 9)
        leases.vacate("GPU-0", gb=1)
        leases.refused(request("urgent", gb=17, priority=5))
        leases.later(leases.policy.claim_idle_s + 1)
        assert (state(leases, small), state(leases, large)) == ("noticed", "held")


class TestStorm:
    def test_a_second_claim_of_equal_priority_waits(self) -> None:
        leases, _ = filled(17)
        leases.refused(URGENT)
        assert leases.refused(request("also urgent", gb=8, priority=5)).reason is LeaseRefusalReason.NO_ROOM

    def test_a_higher_one_takes_the_place_of_a_claim(self) -> None:
        leases, _ = filled(17)
        leases.refused(URGENT)
        assert leases.refused(request("boss", gb=8, priority=9)).reason is LeaseRefusalReason.PREEMPTING
        assert leases.index.claims["GPU-0"].client == "boss"
        assert leases.refused(URGENT).reason is LeaseRefusalReason.NO_ROOM

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 8)), max_size=40))
    def test_whatever_is_asked_only_lower_leases_past_their_minimum_ever_get_notice(
        self, asked: list[tuple[int, int, int]]
    ) -> None:
        leases = Leases(rooms=[room("GPU-0"), room("GPU-1", gb=9)])
        for number, (priority, gb, pause_s) in enumerate(asked):
            before = dict(leases.index.held)
            answer = leases.ask(request(f"c{number % 5}", gb=gb, priority=priority, ttl_s=40))
            for kind, lease_id in leases.seen:
                if kind is Happening.NOTICED:
                    assert before[lease_id].priority < priority
                    assert before[lease_id].acquired_s + leases.policy.min_hold_s <= leases.now_s
            if isinstance(answer, LeaseRefusal) and answer.reason is LeaseRefusalReason.NO_ROOM:
                assert Happening.NOTICED not in {kind for kind, _ in leases.seen}
            leases.seen.clear()
            leases.later(pause_s)
            leases.seen.clear()
