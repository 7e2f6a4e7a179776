"""Leases as values and rules: who gets a share, who keeps it, what is refused and with which reason."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.lease import (
    Lease,
    LeasePolicy,
    LeaseRefusal,
    LeaseRefusalReason,
    LeaseRequest,
    LeaseState,
    lease_room_bytes,
)
from placement.lease_faults import MAX_PRIORITY
from placement.lease_index import LeaseIndex
from placement.lease_time import restored
from tests.placement.lease_builders import GB, Leases, hold, request, room


def reason(answer: Lease | LeaseRefusal) -> LeaseRefusalReason:
    assert isinstance(answer, LeaseRefusal), answer
    return answer.reason


class TestRoom:
    def test_it_is_nine_tenths_of_what_headroom_leaves(self) -> None:
        assert lease_room_bytes(total_bytes=24 * GB, headroom=0.2) == 17_280_000_000

    def test_a_device_kept_for_leases_alone_has_no_headroom(self) -> None:
        assert lease_room_bytes(total_bytes=24 * GB, headroom=0.0) == 21_600_000_000

    def test_what_is_planned_or_foreign_comes_off_first(self) -> None:
        assert lease_room_bytes(total_bytes=24 * GB, headroom=0.2, taken_bytes=int(9.2 * GB)) == 9 * GB

    def test_it_is_never_negative(self) -> None:
        assert lease_room_bytes(total_bytes=24 * GB, headroom=0.2, taken_bytes=24 * GB) == 0


class TestAcquire:
    def test_a_grant_says_what_where_and_until_when(self) -> None:
        lease = Leases().granted(request(gb=12, ttl_s=60))
        assert (lease.num_bytes, lease.device, lease.node) == (12 * GB, "GPU-0", "node-1")
        assert lease.expires_s - lease.acquired_s == 60

    def test_the_fullest_device_with_room_is_taken(self) -> None:
        leases = Leases(rooms=[room("GPU-0", gb=17), room("GPU-1", gb=9)])
        assert leases.granted(request(gb=8)).device == "GPU-1"

    def test_an_unusable_device_takes_no_new_lease(self) -> None:
        leases = Leases(rooms=[replace(room(), is_usable=False)])
        assert leases.refused(request()).reason is LeaseRefusalReason.NO_ROOM

    def test_a_full_device_is_refused_with_a_retry_hint(self) -> None:
        leases = Leases()
        leases.granted(request(gb=17))
        refusal = leases.refused(request(gb=1))
        assert (refusal.reason, refusal.retry_after_ms) == (LeaseRefusalReason.NO_ROOM, 250)

    def test_more_than_any_device_can_lease_is_refused_for_good(self) -> None:
        refusal = Leases().refused(request(gb=17.29))
        assert (refusal.reason, refusal.retry_after_ms) == (LeaseRefusalReason.TOO_LARGE, None)

    def test_while_no_device_is_known_nothing_is_refused_for_good(self) -> None:
        assert Leases(rooms=[]).refused(request()).reason is LeaseRefusalReason.NO_ROOM

    def test_there_is_a_limit_on_how_many_are_held(self) -> None:
        leases = Leases(policy=LeasePolicy(max_leases=1))
        leases.granted(request(gb=0.1))
        assert leases.refused(request(gb=0.1)).reason is LeaseRefusalReason.TOO_MANY_LEASES

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            (request(ttl_s=0), LeaseRefusalReason.BAD_TTL),
            (request(ttl_s=-1), LeaseRefusalReason.BAD_TTL),
            (request(ttl_s=math.nan), LeaseRefusalReason.BAD_TTL),
            (request(ttl_s=math.inf), LeaseRefusalReason.BAD_TTL),
            (request(ttl_s=365 * 86_400), LeaseRefusalReason.BAD_TTL),
            (request(gb=0), LeaseRefusalReason.BAD_SIZE),
            (request(gb=-1), LeaseRefusalReason.BAD_SIZE),
            (request(priority=MAX_PRIORITY + 1), LeaseRefusalReason.BAD_PRIORITY),
            (request(""), LeaseRefusalReason.BAD_NAME),
            (request("x" * 129), LeaseRefusalReason.BAD_NAME),
            (request("a\nb"), LeaseRefusalReason.BAD_NAME),
            (request(key=""), LeaseRefusalReason.BAD_NAME),
        ],
    )
    def test_bad_input_is_refused_with_its_reason_and_changes_nothing(
        self, asked: LeaseRequest, expected: LeaseRefusalReason
    ) -> None:
        leases = Leases()
        assert leases.refused(asked).reason is expected
        assert leases.index.held == {}


class TestIdempotencyKey:
    def test_the_same_request_again_gets_the_same_lease_and_takes_nothing(self) -> None:
        leases = Leases()
        first = leases.granted(request(gb=10, key="k"))
        assert leases.granted(request(gb=10, key="k")) == first
        assert leases.index.leased_bytes("GPU-0") == 10 * GB

    def test_it_still_does_after_the_lease_was_given_back(self) -> None:
        leases = Leases()
        first = leases.granted(request(key="k"))
        leases.release(hold(first))
        assert leases.granted(request(key="k")).lease_id == first.lease_id
        assert leases.index.held == {}

    def test_another_request_under_the_same_key_is_refused(self) -> None:
        leases = Leases()
        leases.granted(request(gb=1, key="k"))
        assert leases.refused(request(gb=2, key="k")).reason is LeaseRefusalReason.KEY_REUSED

    def test_keys_of_two_clients_do_not_meet(self) -> None:
        leases = Leases()
        first, second = leases.granted(request("anna", key="k")), leases.granted(request("ben", key="k"))
        assert first.lease_id != second.lease_id

    def test_it_is_forgotten_after_a_while(self) -> None:
        leases = Leases()
        first = leases.granted(request(key="k"))
        leases.release(hold(first))
        leases.later(leases.policy.remember_s)
        assert leases.granted(request(key="k")).epoch > first.epoch

    def test_a_giving_back_can_be_repeated(self) -> None:
        leases = Leases()
        first = leases.granted(request(key="k"))
        assert leases.release(hold(first)) == leases.release(hold(first))

    def test_only_so_many_are_remembered(self) -> None:
        leases = Leases(policy=LeasePolicy(max_remembered=2))
        for number in range(5):
            leases.release(hold(leases.granted(request(key=str(number)))))
        leases.later(1)
        assert len(leases.index.remembered) == 2


class TestHolder:
    def test_a_renewal_gives_the_whole_time_again(self) -> None:
        leases = Leases()
        lease = leases.granted(request(ttl_s=30))
        leases.later(20)
        leases.renew(hold(lease))
        leases.later(29)
        assert lease.lease_id in leases.index.held

    def test_giving_back_frees_the_share(self) -> None:
        leases = Leases()
        leases.release(hold(leases.granted(request(gb=17))))
        leases.granted(request(gb=17))

    @pytest.mark.parametrize("ask", ["renew", "release"])
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"lease_id": "lease-99"}, LeaseRefusalReason.UNKNOWN_LEASE),
            ({"client": "ben"}, LeaseRefusalReason.NOT_YOURS),
            ({"epoch": 0}, LeaseRefusalReason.STALE_EPOCH),
        ],
    )
    def test_nobody_else_can_do_anything_with_a_lease(
        self, ask: str, changed: dict[str, object], expected: LeaseRefusalReason
    ) -> None:
        leases = Leases()
        lease = leases.granted(request())
        assert reason(getattr(leases, ask)(hold(lease, **changed))) is expected
        assert leases.index.held == {lease.lease_id: lease}

    def test_a_lease_cannot_be_renewed_once_its_time_is_over_even_before_it_is_swept(self) -> None:
        leases = Leases()
        lease = leases.granted(request(ttl_s=30))
        leases.now_s += 30
        assert reason(leases.renew(hold(lease))) is LeaseRefusalReason.UNKNOWN_LEASE


class TestExpiry:
    def test_a_share_comes_back_when_its_time_is_over_and_not_before(self) -> None:
        leases = Leases()
        leases.granted(request(gb=17, ttl_s=30))
        leases.later(29.9)
        assert leases.refused(request(gb=17)).reason is LeaseRefusalReason.NO_ROOM
        leases.later(0.1)
        leases.granted(request(gb=17))

    def test_renewals_leave_no_trail_in_memory(self) -> None:
        leases = Leases()
        lease = leases.granted(request())
        for _ in range(1000):
            leases.now_s += 1
            leases.renew(hold(lease))
        assert len(leases.index._due) < 200

    @given(st.lists(st.floats(min_value=0.5, max_value=100), min_size=1, max_size=30), st.floats(0, 120))
    def test_what_is_due_is_exactly_what_is_over(self, ttls_s: list[float], passed_s: float) -> None:
        leases = Leases()
        held = [leases.granted(request(gb=0.1, ttl_s=ttl_s)) for ttl_s in ttls_s]
        leases.later(passed_s)
        alive = {lease.lease_id for lease in held if lease.expires_s > leases.now_s}
        assert set(leases.index.held) == alive


class TestOveruse:
    def test_a_holder_outside_its_bytes_is_warned_and_then_loses_its_lease(self) -> None:
        leases = Leases()
        lease = leases.granted(request(gb=4, ttl_s=600))
        leases.measured(lease, gb=4.1)
        assert leases.index.held[lease.lease_id].state is LeaseState.HELD
        leases.later(leases.policy.overuse_s)
        leases.measured(lease, gb=4.1)
        assert reason(leases.renew(hold(lease))) is LeaseRefusalReason.REVOKED

    def test_one_that_comes_back_inside_keeps_it(self) -> None:
        leases = Leases()
        lease = leases.granted(request(gb=4, ttl_s=600))
        for gb in (4.1, 4.0, 4.1):
            leases.measured(lease, gb=gb)
            leases.later(leases.policy.overuse_s - 1)
        assert isinstance(leases.renew(hold(lease)), Lease)

    def test_a_share_is_not_free_while_bytes_are_still_on_it(self) -> None:
        leases = Leases()
        lease = leases.granted(request(gb=17))
        leases.measured(lease, gb=17)
        leases.later(30)
        assert leases.refused(request(gb=17)).reason is LeaseRefusalReason.NO_ROOM
        leases.measured(lease, gb=0)
        leases.granted(request(gb=17))

    def test_a_holder_that_may_still_believe_in_a_revoked_lease_keeps_its_room_though_it_is_empty(self) -> None:
        leases = Leases()
        lease = leases.granted(request(gb=17, ttl_s=600))
        leases.measured(lease, gb=18)
        leases.later(leases.policy.overuse_s)
        leases.measured(lease, gb=18)
        leases.measured(lease, gb=0)
        assert leases.refused(request(gb=17)).reason is LeaseRefusalReason.NO_ROOM
        leases.later(600)
        leases.granted(request(gb=17))


class TestRestart:
    def test_leases_keep_epoch_and_end_on_one_clock(self) -> None:
        lease = Leases().granted(request(ttl_s=30))
        assert restored([lease], policy=LeasePolicy(), now_s=lease.acquired_s + 20) == [lease]

    def test_epochs_go_on_rising(self) -> None:
        lease = Leases().granted(request())
        again = Leases(index=LeaseIndex([lease], next_epoch=500))
        assert again.granted(request()).epoch == 500

    def taken_over(self, lease: Lease) -> Leases:
        leases = Leases(now_s=5.0)
        moved = restored([lease], policy=leases.policy, now_s=5.0, shift_s=5.0 - lease.acquired_s, knows_downtime=False)
        leases.index = LeaseIndex(moved)
        return leases

    def test_after_a_downtime_of_unknown_length_a_lease_must_be_renewed_within_a_grace(self) -> None:
        lease = Leases().granted(request(gb=17, ttl_s=600))
        leases = self.taken_over(lease)
        leases.later(leases.policy.restart_grace_s)
        assert reason(leases.renew(hold(lease))) is LeaseRefusalReason.REVOKED

    def test_its_room_is_kept_for_as_long_as_its_holder_may_believe_in_it(self) -> None:
        lease = Leases().granted(request(gb=17, ttl_s=600))
        leases = self.taken_over(lease)
        leases.later(599)
        assert leases.refused(request(gb=17)).reason is LeaseRefusalReason.NO_ROOM
        leases.later(1)
        leases.granted(request(gb=17))

    def test_one_that_is_renewed_in_time_is_held_as_before(self) -> None:
        lease = Leases().granted(request(ttl_s=600))
        leases = self.taken_over(lease)
        leases.renew(hold(lease))
        leases.later(leases.policy.restart_grace_s)
        assert leases.index.held[lease.lease_id].state is LeaseState.HELD
