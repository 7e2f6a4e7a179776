"""One answer, many readers: everybody gets the same bytes, nobody is waited for, the last one out ends the run."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.answers import died_midway
from serve_app.gateway.flight import MAX_LAG_BYTES, Flight, Reader
from serve_app.gateway.run_terms import Origin

ORIGIN = Origin(mode="fast", model="mini", weights_version="v1", checkpoint_step=None)


def _drain(flight: Flight, reader: Reader) -> bytes:
    return flight.take(reader)


class TestReaders:
    @given(
        st.lists(st.sampled_from(["feed", "join", "read"]), max_size=40),
        st.data(),
    )
    def test_all_get_every_byte_in_order_whenever_they_joined(self, steps: list[str], data: st.DataObject) -> None:
        flight = Flight(kept_bytes=10_000)
        readers = [flight.attach()]
        got: dict[Reader, bytes] = {readers[0]: b""}
        whole = b""
        flight.begin(ORIGIN)
        for number, step in enumerate(steps):
            if step == "feed":
                piece = b"data: %d\n\n" % number
                whole += piece
                flight.feed(piece)
            elif step == "join":
                readers.append(flight.attach())
                got[readers[-1]] = b""
            else:
                reader = data.draw(st.sampled_from(readers))
                got[reader] += _drain(flight, reader)
        flight.finish()
        for reader in readers:
            got[reader] += _drain(flight, reader)
            assert got[reader] == whole
            assert reader.at_end
        assert flight.whole() == whole

    async def test_that_wait_are_woken_by_the_first_bytes(self) -> None:
        flight = Flight(kept_bytes=100)
        reader = flight.attach()
        waiting = asyncio.create_task(reader.begun())
        await asyncio.sleep(0)
        flight.begin(ORIGIN)
        flight.feed(b"x")
        assert await waiting

    async def test_that_leave_stop_waiting_at_once(self) -> None:
        flight = Flight(kept_bytes=100)
        reader = flight.attach()
        waiting = asyncio.create_task(reader.ended())
        await asyncio.sleep(0)
        reader.leave()
        assert not await waiting


class TestTheLastReader:
    def test_that_leaves_before_the_end_cancels_the_run(self) -> None:
        cancelled: list[bool] = []
        flight = Flight(kept_bytes=100)
        flight.fed_by(on_abandoned=lambda: cancelled.append(True), on_lag=lambda lags: None)
        leader, follower = flight.attach(), flight.attach()
        flight.detach(leader)
        assert not cancelled
        flight.detach(follower)
        assert cancelled == [True]

    def test_that_leaves_after_the_end_cancels_nothing(self) -> None:
        cancelled: list[bool] = []
        flight = Flight(kept_bytes=100)
        flight.fed_by(on_abandoned=lambda: cancelled.append(True), on_lag=lambda lags: None)
        reader = flight.attach()
        flight.finish()
        flight.detach(reader)
        assert not cancelled


class TestMemory:
    def test_of_an_answer_nobody_shares_is_only_what_is_unread(self) -> None:
        flight = Flight()
        reader = flight.attach()
        for _ in range(100):
            flight.feed(b"x" * 1000)
            assert len(_drain(flight, reader)) == 1000
        assert len(flight._chunks) == 0

    def test_of_an_answer_too_large_to_share_is_let_go_and_it_is_not_joined_any_more(self) -> None:
        flight = Flight(kept_bytes=1000)
        reader = flight.attach()
        flight.feed(b"x" * 900)
        joinable = [flight.joinable]
        flight.feed(b"x" * 900)
        joinable.append(flight.joinable)
        assert joinable == [True, False]
        assert flight.whole() is None
        assert len(_drain(flight, reader)) == 1800

    def test_is_bounded_by_pausing_the_run_while_a_reader_lags(self) -> None:
        lags: list[bool] = []
        flight = Flight()
        flight.fed_by(on_abandoned=lambda: None, on_lag=lags.append)
        reader = flight.attach()
        flight.feed(b"x" * (MAX_LAG_BYTES + 1))
        assert lags == [True]
        _drain(flight, reader)
        assert lags[-1:] == [False]


class TestAFailedFlight:
    def test_is_not_joined(self) -> None:
        flight = Flight(kept_bytes=100)
        flight.fail(died_midway("mini"))
        assert not flight.joinable

    def test_that_broke_midway_is_not_joined(self) -> None:
        flight = Flight(kept_bytes=100)
        flight.begin(ORIGIN)
        flight.feed(b"data: 1\n\n")
        flight.finish(broken=died_midway("mini"))
        assert not flight.joinable
