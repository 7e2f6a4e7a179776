"""The ledger: who holds which slot, who may start, and when bytes are free again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from placement.inventory import DeviceKind
from serve_app.controller.claims import ReadyReport, Slot, SlotState, Waiting, Weights
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.engines.spec import EngineArguments
from serve_app.fleet.groups import Seat
from serve_app.fleet.process_memory import ProcessKey

WEIGHTS = Weights(path=Path("checkpoint-1"), version="abc", step=1)
REPORT = ReadyReport(url="http://127.0.0.1:1", load_s=1.0, measured_bytes=1, peak_bytes=1)
PROCESS = ProcessKey(1, 1.0)


def slot(name: str, *, device: str = "head/host", share_bytes: int = 10) -> Slot:
    model = name.partition("#")[0]
    seat = Seat(device=device, group="g", bundle_index=0, kind=DeviceKind.HOST, total_bytes=100)
    return Slot(
        name=name,
        replica=name,
        model=model,
        deployment=f"{model}@head",
        node="head",
        seats=(seat,),
        device_kind=DeviceKind.HOST,
        device_uuids=("",),
        share_bytes=share_bytes,
        peak_bytes=share_bytes,
        kv_cache_bytes=1,
        arguments=EngineArguments(dtype="float32", max_model_len=64, max_num_seqs=2, tensor_parallel=1),
        weights=WEIGHTS,
    )


def ledger(*slots: Slot) -> Ledger:
    made = Ledger(next_epoch=1)
    made.add(slots)
    return made


def claim(of: Ledger, model: str, replica: str) -> Tenure | Waiting:
    return of.claim(deployment=f"{model}@head", replica=replica, process=PROCESS, now_s=0.0)


def claimed(of: Ledger, model: str, replica: str) -> Tenure:
    tenure = claim(of, model, replica)
    assert isinstance(tenure, Tenure)
    return tenure


class TestClaim:
    def test_a_slot_has_one_holder(self) -> None:
        of = ledger(slot("m#0"))
        claimed(of, "m", "a")
        answer = claim(of, "m", "b")
        assert isinstance(answer, Waiting)
        assert "m#0 by a (claimed)" in answer.reason

    def test_asking_again_gives_the_same_claim(self) -> None:
        of = ledger(slot("m#0"), slot("m#1"))
        assert claimed(of, "m", "a") == claimed(of, "m", "a")

    def test_a_deployment_without_a_slot_is_told_so(self) -> None:
        answer = claim(ledger(slot("m#0")), "other", "a")
        assert isinstance(answer, Waiting)
        assert "no slot for 'other@head'" in answer.reason

    def test_epochs_rise_over_every_claim(self) -> None:
        of = ledger(slot("m#0"))
        first = claimed(of, "m", "a")
        of.lost(slot="m#0", epoch=first.epoch)
        of.freed(slot="m#0", epoch=first.epoch)
        assert claimed(of, "m", "b").epoch > first.epoch


class TestStart:
    def test_one_replica_starts_on_a_device_at_a_time(self) -> None:
        of = ledger(slot("m#0"), slot("n#0"))
        first, second = claimed(of, "m", "a"), claimed(of, "n", "b")
        assert isinstance(of.start(slot="m#0", epoch=first.epoch), Tenure)
        assert isinstance(of.start(slot="n#0", epoch=second.epoch), Waiting)
        of.ready(slot="m#0", epoch=first.epoch, report=REPORT)
        assert isinstance(of.start(slot="n#0", epoch=second.epoch), Tenure)

    def test_starts_on_different_devices_do_not_wait(self) -> None:
        of = ledger(slot("m#0", device="head/gpu-0"), slot("n#0", device="head/gpu-1"))
        first, second = claimed(of, "m", "a"), claimed(of, "n", "b")
        assert isinstance(of.start(slot="m#0", epoch=first.epoch), Tenure)
        assert isinstance(of.start(slot="n#0", epoch=second.epoch), Tenure)

    def test_nobody_starts_while_bytes_of_a_dead_replica_may_still_be_held(self) -> None:
        of = ledger(slot("m#0"), slot("n#0"))
        dead, next_one = claimed(of, "m", "a"), claimed(of, "n", "b")
        of.lost(slot="m#0", epoch=dead.epoch)
        assert isinstance(of.start(slot="n#0", epoch=next_one.epoch), Waiting)
        of.freed(slot="m#0", epoch=dead.epoch)
        assert isinstance(of.start(slot="n#0", epoch=next_one.epoch), Tenure)


class TestLoss:
    def test_a_lost_slot_is_not_given_again_before_it_is_freed(self) -> None:
        of = ledger(slot("m#0"))
        dead = claimed(of, "m", "a")
        of.lost(slot="m#0", epoch=dead.epoch)
        assert isinstance(claim(of, "m", "b"), Waiting)
        of.freed(slot="m#0", epoch=dead.epoch)
        assert isinstance(claim(of, "m", "b"), Tenure)

    def test_a_stale_epoch_changes_nothing(self) -> None:
        of = ledger(slot("m#0"))
        old = claimed(of, "m", "a")
        of.lost(slot="m#0", epoch=old.epoch)
        of.freed(slot="m#0", epoch=old.epoch)
        current = claimed(of, "m", "b")
        assert of.start(slot="m#0", epoch=old.epoch) is None
        assert of.ready(slot="m#0", epoch=old.epoch, report=REPORT) is None
        assert of.seen(slot="m#0", epoch=old.epoch, now_s=9.0) is None
        assert of.lost(slot="m#0", epoch=old.epoch) is None
        assert of.freed(slot="m#0", epoch=old.epoch) is None
        assert of.tenures["m#0"] == current

    def test_a_silent_replica_is_named(self) -> None:
        of = ledger(slot("m#0"))
        tenure = claimed(of, "m", "a")
        assert of.silent(now_s=20.0, limit_s=20.0, unheard_limit_s=5.0) == ()
        assert [t.slot for t in of.silent(now_s=20.1, limit_s=20.0, unheard_limit_s=5.0)] == ["m#0"]
        of.seen(slot="m#0", epoch=tenure.epoch, now_s=20.0)
        assert of.silent(now_s=20.1, limit_s=20.0, unheard_limit_s=5.0) == ()


class TestRestart:
    def test_what_was_stored_comes_back_with_a_fresh_deadline(self) -> None:
        before = ledger(slot("m#0"))
        tenure = claimed(before, "m", "a")
        after = ledger(slot("m#0"))
        after.restore([tenure], now_s=100.0)
        assert after.silent(now_s=104.0, limit_s=20.0, unheard_limit_s=5.0) == ()
        assert isinstance(claim(after, "m", "b"), Waiting)

    def test_nobody_serves_who_has_not_been_heard_of_since(self) -> None:
        before = ledger(slot("m#0"))
        tenure = claimed(before, "m", "a")
        before.start(slot="m#0", epoch=tenure.epoch)
        stored = before.ready(slot="m#0", epoch=tenure.epoch, report=REPORT)
        assert stored is not None
        after = ledger(slot("m#0"))
        after.restore([stored], now_s=100.0)
        assert [one.serves for one in after.tenures.values()] == [False]
        assert [t.slot for t in after.silent(now_s=105.1, limit_s=20.0, unheard_limit_s=5.0)] == ["m#0"]
        after.seen(slot="m#0", epoch=tenure.epoch, now_s=105.2)
        assert [one.serves for one in after.tenures.values()] == [True]
        assert after.silent(now_s=120.0, limit_s=20.0, unheard_limit_s=5.0) == ()

    def test_epochs_go_on_above_what_was_stored(self) -> None:
        before = ledger(slot("m#0"), slot("m#1"))
        tenure = claimed(before, "m", "a")
        after = ledger(slot("m#0"), slot("m#1"))
        after.restore([tenure], now_s=0.0)
        assert claimed(after, "m", "b").epoch > tenure.epoch


class TestRetiring:
    def test_a_slot_that_nobody_holds_is_gone_at_once(self) -> None:
        of = ledger(slot("m#0"))
        assert of.retire("m#0") is None
        assert not of.slots

    def test_its_holder_drains_and_lives_on_until_it_is_lost(self) -> None:
        of = ledger(slot("m#0"))
        tenure = claimed(of, "m", "a")
        of.retire("m#0")
        seen = of.seen(slot="m#0", epoch=tenure.epoch, now_s=1.0)
        assert seen is not None
        assert seen.state is SlotState.DRAINING

    def test_nobody_claims_it_again_and_it_goes_when_its_bytes_are_back(self) -> None:
        of = ledger(slot("m#0"))
        tenure = claimed(of, "m", "a")
        of.retire("m#0")
        of.lost(slot="m#0", epoch=tenure.epoch)
        assert isinstance(claim(of, "m", "b"), Waiting)
        of.freed(slot="m#0", epoch=tenure.epoch)
        assert not of.slots
        assert isinstance(claim(of, "m", "b"), Waiting)

    def test_one_that_drains_is_never_ready_again(self) -> None:
        of = ledger(slot("m#0"))
        tenure = claimed(of, "m", "a")
        of.start(slot="m#0", epoch=tenure.epoch)
        of.retire("m#0")
        assert of.ready(slot="m#0", epoch=tenure.epoch, report=REPORT) is None

    def test_one_that_is_retired_in_the_middle_of_its_start_still_hinders_the_next(self) -> None:
        of = ledger(slot("m#0"), slot("n#0"))
        first, second = claimed(of, "m", "a"), claimed(of, "n", "b")
        of.start(slot="m#0", epoch=first.epoch)
        of.retire("m#0")
        assert isinstance(of.start(slot="n#0", epoch=second.epoch), Waiting)

    def test_a_ready_one_that_drains_hinders_nobody(self) -> None:
        of = ledger(slot("m#0"), slot("n#0"))
        first, second = claimed(of, "m", "a"), claimed(of, "n", "b")
        of.start(slot="m#0", epoch=first.epoch)
        of.ready(slot="m#0", epoch=first.epoch, report=REPORT)
        of.retire("m#0")
        assert isinstance(of.start(slot="n#0", epoch=second.epoch), Tenure)

    def test_a_slot_of_a_lost_node_is_gone_with_its_holder(self) -> None:
        of = ledger(slot("m#0"))
        claimed(of, "m", "a")
        of.abandon("m#0")
        assert not of.slots
        assert not of.tenures


class LedgerHistory(RuleBasedStateMachine):
    """Any order of claims, starts, deaths and clean-ups."""

    tenures = Bundle("tenures")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger(*(slot(f"{model}#{index}") for model in "mn" for index in range(2)))
        self.num_replicas = 0
        self.epochs: list[int] = []
        self.dead: set[int] = set()

    @rule(target=tenures, model=st.sampled_from("mn"))
    def claim_one(self, model: str) -> Tenure | None:
        self.num_replicas += 1
        answer = claim(self.ledger, model, f"r{self.num_replicas}")
        if isinstance(answer, Waiting):
            return None
        self.epochs.append(answer.epoch)
        return answer

    @rule(tenure=tenures)
    def start(self, tenure: Tenure | None) -> None:
        if tenure is not None:
            self.ledger.start(slot=tenure.slot, epoch=tenure.epoch)

    @rule(tenure=tenures)
    def ready(self, tenure: Tenure | None) -> None:
        if tenure is not None:
            self.ledger.ready(slot=tenure.slot, epoch=tenure.epoch, report=REPORT)

    @rule(tenure=tenures)
    def lose(self, tenure: Tenure | None) -> None:
        if tenure is not None:
            self.ledger.lost(slot=tenure.slot, epoch=tenure.epoch)
            self.dead.add(tenure.epoch)

    @rule(tenure=consumes(tenures))
    def free(self, tenure: Tenure | None) -> None:
        if tenure is not None:
            self.ledger.lost(slot=tenure.slot, epoch=tenure.epoch)
            self.ledger.freed(slot=tenure.slot, epoch=tenure.epoch)

    @rule(tenure=tenures)
    def retire(self, tenure: Tenure | None) -> None:
        if tenure is not None and tenure.slot in self.ledger.slots:
            self.ledger.retire(tenure.slot)

    @rule(name=st.sampled_from(["m#0", "m#1", "n#0", "n#1"]))
    def add_again(self, name: str) -> None:
        self.ledger.add([slot(name)])

    @invariant()
    def one_start_per_device(self) -> None:
        assert sum(t.state is SlotState.STARTING for t in self.ledger.tenures.values()) <= 1

    @invariant()
    def the_dead_stay_dead(self) -> None:
        assert all(t.state is SlotState.REAPING for t in self.ledger.tenures.values() if t.epoch in self.dead)

    @invariant()
    def epochs_rise(self) -> None:
        assert self.epochs == sorted(set(self.epochs))

    @invariant()
    def a_tenure_is_of_a_planned_slot(self) -> None:
        assert set(self.ledger.tenures) <= set(self.ledger.slots)


TestLedgerHistory = pytest.mark.filterwarnings("ignore")(LedgerHistory.TestCase)
