"""What a holder believes: never longer than the server, and what it does when answers stay away (threat 9)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.tenancy import Act, Tenancy, Terms, begun, lost, renewed, unanswered


def tenancy(ttl_s: float = 30.0) -> Tenancy:
    return begun(Terms(expires_in_s=ttl_s), ttl_s=ttl_s, asked_s=100.0)


class TestBelief:
    @given(
        ttl_s=st.floats(0.5, 86_400),
        there_s=st.floats(0, 60),
        back_s=st.floats(0, 60),
        drift=st.floats(-0.0009, 0.0009),
    )
    def test_it_ends_before_the_server_s_however_long_messages_take_and_clocks_drift(
        self, ttl_s: float, there_s: float, back_s: float, drift: float
    ) -> None:
        held = begun(Terms(expires_in_s=ttl_s), ttl_s=ttl_s, asked_s=100.0)
        server_ends_s = 100.0 + there_s + ttl_s * (1 + drift)
        assert held.until_s < server_ends_s
        assert held.kill_at_s < held.until_s

    def test_a_notice_shortens_it_only_once_the_server_knows_that_we_know(self) -> None:
        told = Terms(expires_in_s=30, deadline_in_s=10, reason="urgent")
        first = renewed(tenancy(), told, asked_s=100, acknowledged=False)
        assert first.until_s > 120
        assert renewed(first, told, asked_s=101, acknowledged=True).until_s < 111

    def test_a_withdrawn_notice_leaves_no_trace(self) -> None:
        noticed = renewed(tenancy(), Terms(expires_in_s=30, deadline_in_s=10), asked_s=100, acknowledged=True)
        assert not renewed(noticed, Terms(expires_in_s=30), asked_s=102, acknowledged=False).has_notice


class TestActs:
    def test_it_renews_at_a_third_asks_to_end_at_two_thirds_and_kills_before_the_end(self) -> None:
        held = tenancy(30)
        acts = [held.act(100 + passed, is_terminated=passed > 20) for passed in (9, 10, 20, 25, 29.6)]
        assert acts == [Act.WAIT, Act.RENEW, Act.TERMINATE, Act.RENEW, Act.KILL]

    def test_unanswered_renewals_are_tried_again_and_move_nothing_else(self) -> None:
        held = tenancy(30)
        later = unanswered(held, now_s=110)
        assert later.renew_at_s == 111
        assert (later.until_s, later.stop_from_s) == (held.until_s, held.stop_from_s)

    def test_a_lost_lease_is_not_renewed_and_its_program_ends_at_once(self) -> None:
        held = lost(tenancy(30), "revoked", now_s=105)
        assert held.act(105, is_terminated=False) is Act.TERMINATE
        assert held.act(106, is_terminated=True) is Act.WAIT
        assert held.until_s == tenancy(30).until_s

    def test_it_never_waits_beyond_the_next_thing_to_do(self) -> None:
        held = tenancy(30)
        assert held.act(held.next_s(is_terminated=False), is_terminated=False) is not Act.WAIT
        gone = lost(held, "revoked", now_s=105)
        assert gone.act(gone.next_s(is_terminated=True), is_terminated=True) is Act.KILL
