"""The lease service: written before it is told, the same after a restart, its share grown before a grant counts."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import replace

import pytest

from placement.lease import Lease, LeaseRefusal, LeaseRefusalReason, LeaseState, Reclaimable, ReclaimKind
from placement.lease_index import Happening
from placement.lease_preemption import Claim
from serve_app.errors import AlreadyRunning
from serve_app.leases.book import LeaseBook
from serve_app.leases.pool import POOL_STEP_BYTES
from serve_app.leases.service import LeaseService
from tests.serve_app.leases.serving import MB, ROOM, Bench, asked, held, running


async def granted(service: LeaseService, **fields: object) -> Lease:
    answer = await service.acquire(asked(**fields))  # type: ignore[arg-type]  # tests name the fields
    assert isinstance(answer, Lease), answer
    return answer


async def reason(answer: Lease | LeaseRefusal) -> LeaseRefusalReason:
    assert isinstance(answer, LeaseRefusal), answer
    return answer.reason


def rows(bench: Bench) -> list[int]:
    """Epochs that another connection reads: only what is committed."""
    with contextlib.closing(sqlite3.connect(bench.ledger)) as db:
        return [epoch for (epoch,) in db.execute("SELECT epoch FROM leases ORDER BY epoch")]


class TestLedger:
    async def test_a_lease_is_in_the_file_when_its_grant_is_told(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service)
            assert rows(bench) == [lease.epoch]
            await service.release(held(lease))
            assert rows(bench) == []

    async def test_requests_of_one_moment_share_a_commit(self, bench: Bench) -> None:
        async with running(bench) as service:
            leases = await asyncio.gather(*(granted(service, mb=10) for _ in range(20)))
            assert sorted(lease.epoch for lease in leases) == rows(bench)

    async def test_one_process_owns_it(self, bench: Bench) -> None:
        async with running(bench):
            with pytest.raises(AlreadyRunning, match="another process"):
                LeaseBook(bench.ledger, clock=bench.clock, policy=bench.policy)

    async def test_a_lease_that_cannot_be_written_is_not_given(self, bench: Bench) -> None:
        async with running(bench) as service:
            kept = await granted(service, mb=5000)
            service._book._db.execute("PRAGMA query_only = 1")  # every write fails from here on, as on a full disk
            assert await reason(await service.acquire(asked(mb=1000))) is LeaseRefusalReason.LEDGER_UNAVAILABLE
            assert await reason(await service.release(held(kept))) is LeaseRefusalReason.LEDGER_UNAVAILABLE
            service._book._db.execute("PRAGMA query_only = 0")
            assert [lease.lease_id for lease in await service.held()] == [kept.lease_id]
            await granted(service, mb=1000)

    async def test_whoever_goes_while_a_commit_is_awaited_spoils_it_for_nobody(self, bench: Bench) -> None:
        async with running(bench) as service:
            loop = asyncio.get_running_loop()
            gone, stays = loop.create_task(granted(service)), loop.create_task(granted(service))
            await asyncio.sleep(0)
            gone.cancel()
            assert (await stays).epoch in rows(bench)


class TestRestart:
    async def test_leases_and_their_answers_outlive_it(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service, mb=10_000, key="k")
        async with running(bench) as service:
            assert await granted(service, mb=10_000, key="k") == lease
            assert await reason(await service.acquire(asked(mb=10_000))) is LeaseRefusalReason.NO_ROOM

    async def test_epochs_rise_over_it_though_nothing_is_held(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service)
            await service.release(held(lease))
        async with running(bench) as service:
            assert (await granted(service)).epoch > lease.epoch

    async def test_downtime_counts(self, bench: Bench) -> None:
        async with running(bench) as service:
            await granted(service, ttl_s=30)
        bench.clock.at_s += 30
        async with running(bench) as service:
            assert await service.held() == ()

    async def test_after_a_restart_of_the_machine_a_lease_waits_to_be_confirmed(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service, ttl_s=600)
        bench.clock.boot, bench.clock.at_s = "second", 3.0
        async with running(bench) as service:
            assert [one.state for one in await service.held()] == [LeaseState.UNCONFIRMED]
            renewed = await service.renew(held(lease))
            assert isinstance(renewed, Lease)
            assert (renewed.state, renewed.epoch) == (LeaseState.HELD, lease.epoch)

    async def test_the_shares_of_leases_are_taken_back_first(self, bench: Bench) -> None:
        async with running(bench) as service:
            await granted(service, mb=10_000)
        bench.share.sizes.clear()
        async with running(bench):
            assert bench.share.sizes["GPU-0"] >= 10_000 * MB

    async def test_a_jump_of_the_wall_clock_changes_nothing(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service)
            for jump_s in (3600, -7200):
                bench.clock.wall_s += jump_s
                await service.sweep()
                assert await service.held() == (lease,)


class TestPooledShare:
    async def test_it_grows_in_steps_before_a_grant_counts(self, bench: Bench) -> None:
        async with running(bench) as service:
            await granted(service, mb=1)
            assert bench.share.sizes == {"GPU-0": POOL_STEP_BYTES}

    async def test_no_grant_counts_where_it_cannot_grow(self, bench: Bench) -> None:
        bench.share.limits["GPU-0"] = 1000 * MB
        async with running(bench) as service:
            assert await reason(await service.acquire(asked(mb=2000))) is LeaseRefusalReason.SHARE_UNAVAILABLE
            assert rows(bench) == []

    async def test_the_last_step_is_cut_to_the_room(self, bench: Bench) -> None:
        async with running(bench) as service:
            await granted(service, mb=17_280)
            assert bench.share.sizes == {"GPU-0": 17_280 * MB}

    async def test_it_shrinks_when_leases_are_gone(self, bench: Bench) -> None:
        async with running(bench) as service:
            await service.release(held(await granted(service, mb=10_000)))
            await service.sweep()
            assert bench.share.sizes == {"GPU-0": 0}

    async def test_it_is_never_smaller_than_what_is_leased_whoever_asks_meanwhile(self, bench: Bench) -> None:
        async with running(bench) as service:

            async def one(number: int) -> None:
                lease = await granted(service, client=f"c{number}", mb=300)
                assert bench.share.sizes["GPU-0"] >= service.leased_bytes("GPU-0")
                await service.release(held(lease))
                await service.sweep()

            await asyncio.gather(*(one(number) for number in range(30)))


class Asked:
    """Keeps the claims it was given."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    async def reclaim(self, claim: Claim) -> None:
        self.claims.append(claim)


class TestPreemption:
    async def test_a_claim_on_caches_and_models_is_carried_out_once(self, bench: Bench) -> None:
        bench.reclaimer = reclaimer = Asked()
        cache = Reclaimable(name="kv", num_bytes=2000 * MB, kind=ReclaimKind.CACHE, priority=0)
        bench.rooms = [replace(ROOM, num_bytes=1000 * MB, reclaimables=(cache,))]
        async with running(bench) as service:
            for _ in range(3):
                assert await reason(await service.acquire(asked(mb=2000))) is LeaseRefusalReason.PREEMPTING
                await asyncio.sleep(0)
        assert [step.name for step in reclaimer.claims[0].steps] == ["kv"]
        assert len(reclaimer.claims) == 1

    async def test_holders_on_a_device_to_be_emptied_get_notice_and_no_new_ones_come(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service, ttl_s=600, priority=9)
            told = await service.vacate("GPU-0", reason="uncorrectable ECC errors")
            assert [one.lease_id for one in told] == [lease.lease_id]
            assert await service.vacate("GPU-0", reason="again") == ()
            await service.readmit("GPU-0")
            assert (await service.held())[0].state is LeaseState.HELD

    async def test_a_dead_holder_of_a_revoked_lease_keeps_no_room(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service, mb=17_000, ttl_s=600)
            await service.vacate("GPU-0", reason="a fault")
            bench.clock.at_s += 60
            assert await reason(await service.acquire(asked(mb=17_000))) is LeaseRefusalReason.NO_ROOM
            assert await service.holder_is_dead(lease.lease_id)
            await granted(service, mb=17_000)

    async def test_a_claim_outlives_a_write_that_failed(self, bench: Bench) -> None:
        bench.policy = replace(bench.policy, min_hold_s=0.0)
        async with running(bench) as service:
            lease = await granted(service, mb=17_000, ttl_s=600)
            urgent = asked("urgent", mb=9000, priority=5)
            assert await reason(await service.acquire(urgent)) is LeaseRefusalReason.PREEMPTING
            service._book._db.execute("PRAGMA query_only = 1")
            assert await reason(await service.renew(held(lease))) is LeaseRefusalReason.LEDGER_UNAVAILABLE
            service._book._db.execute("PRAGMA query_only = 0")
            bench.clock.at_s += 6
            await service.sweep()
            assert [lease.state for lease in await service.held()] == [LeaseState.HELD], (
                "the notice was withdrawn with it"
            )


class Counted:
    def __init__(self) -> None:
        self.answers: list[tuple[str, str]] = []

    def answered(self, rpc: str, result: str, *, duration_s: float) -> None:
        self.answers.append((rpc, result))


class TestObserving:
    async def test_every_answer_is_counted_by_its_result(self, bench: Bench) -> None:
        bench.observer = counted = Counted()
        async with running(bench) as service:
            lease = await granted(service)
            await service.renew(held(lease))
            await service.release(held(lease))
            await service.release(held(lease))
            await service.acquire(asked(mb=0))
        assert [result for _, result in counted.answers] == ["granted", "done", "done", "unknown_lease", "bad_size"]


class TestWatching:
    async def test_a_watcher_is_told_what_was_committed(self, bench: Bench) -> None:
        async with running(bench) as service:
            with service.watching("anna") as watcher:
                assert watcher is not None
                await granted(service, client="ben")
                lease = await granted(service, client="anna")
                await service.release(held(lease))
                told = [await anext(watcher), await anext(watcher)]
        assert [one.change.kind for one in told] == [Happening.GRANTED, Happening.RELEASED]

    async def test_a_slow_one_is_told_how_much_it_missed(self, bench: Bench) -> None:
        async with running(bench) as service:
            lease = await granted(service)
            with service.watching() as watcher:
                assert watcher is not None
                for _ in range(1030):
                    await service.renew(held(lease))
                assert (await anext(watcher)).num_lost == 6
