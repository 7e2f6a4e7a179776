"""From one plan to another: headroom at every moment, service where it can be kept, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from placement.changes import Rates
from placement.errors import InvalidProblem
from placement.inventory import DeviceHealth
from placement.plan import Plan
from placement.policy import Policy
from placement.solver import solve
from placement.steps import Order, Step, StepKind, Steps, steps
from tests.placement.builders import GB, GIB, demand, estimate, fleet, where, with_device
from tests.placement.step_play import Broken, Case, cases, plan_of, play, put, uninterrupted_order_exists

A, B, C = "n/gpu-0", "n/gpu-1", "n/gpu-2"
LOW, HIGH = demand("low", gib=15, priority=1), demand("high", gib=15, priority=2)


def placed(**places: str) -> Plan:
    """`placed(low=A, high=B)`: replica 0 of each model there, with 15 GiB, under 20 % headroom."""
    size = estimate(15 * GIB)
    return plan_of(*(put(f"{model}#0", devices, size) for model, devices in places.items()), headroom=0.2)


def of(made: Steps, replica: str) -> Step:
    return next(step for step in made.steps if step.replica == replica)


def kinds(made: Steps) -> dict[str, StepKind]:
    return {step.replica: step.kind for step in made.steps}


def written(made: Steps) -> list[list[str]]:
    """Batches as `["start low#0 n/gpu-2"]`."""
    return [[f"{a.kind.value} {a.replica} {'+'.join(a.devices)}" for a in batch] for batch in made.batches]


class TestKinds:
    def test_from_nothing_all_start_one_on_each_device_at_a_time(self) -> None:
        small = [demand("a", gib=4), demand("b", gib=4), demand("c", gib=15)]
        plan = solve(fleet("n: 2x24GiB"), small, Policy())
        made = steps(None, plan, fleet("n: 2x24GiB"), small)
        assert set(kinds(made).values()) == {StepKind.START}
        assert [len(batch) for batch in made.batches] == [2, 1]

    def test_the_same_plan_again_is_nothing_to_do(self) -> None:
        made = steps(placed(low=A), placed(low=A), fleet("n: 1x24GiB"), [LOW])
        assert (kinds(made), made.batches, made.price_s, made.num_moves) == (
            {"low#0": StepKind.UNCHANGED},
            (),
            0.0,
            0,
        )

    def test_what_has_room_on_both_sides_moves_side_by_side(self) -> None:
        made = steps(placed(low=A), placed(low=B), fleet("n: 2x24GiB"), [LOW])
        assert kinds(made) == {"low#0": StepKind.MOVE_SIDE_BY_SIDE}
        assert written(made) == [[f"start low#0 {B}"], [f"stop low#0 {A}"]]
        assert made.interruptions == ()

    def test_what_is_not_wanted_any_more_stops(self) -> None:
        made = steps(placed(low=A, high=B), placed(high=B), fleet("n: 2x24GiB"), [HIGH], demands_before=[LOW, HIGH])
        assert kinds(made) == {"low#0": StepKind.STOP, "high#0": StepKind.UNCHANGED}
        assert made.interruptions == ()

    def test_a_higher_priority_starts_when_the_lower_one_has_left(self) -> None:
        made = steps(placed(low=A), placed(high=A), fleet("n: 1x24GiB"), [LOW, HIGH])
        assert written(made) == [[f"stop low#0 {A}"], [f"start high#0 {A}"]]

    def test_a_corrected_prediction_moves_nothing_but_another_kv_cache_starts_anew(self) -> None:
        before = plan_of(put("m#0", A, estimate(10 * GIB, kv=GIB)), headroom=0.2)
        corrected = plan_of(put("m#0", A, estimate(9 * GIB, kv=GIB)), headroom=0.2)
        larger = plan_of(put("m#0", A, estimate(10 * GIB, kv=2 * GIB)), headroom=0.2)
        inventory, wanted = fleet("n: 1x24GiB"), [demand("m", gib=10)]
        assert kinds(steps(before, corrected, inventory, wanted)) == {"m#0": StepKind.UNCHANGED}
        assert kinds(steps(before, larger, inventory, wanted)) == {"m#0": StepKind.MOVE_IN_TURN}


class TestLostPlaces:
    def test_a_replica_whose_node_is_gone_starts_elsewhere_and_its_model_is_named_as_down(self) -> None:
        before = plan_of(put("low#0", "gone/gpu-0", estimate(15 * GIB)), headroom=0.2)
        made = steps(before, placed(low=A), fleet("n: 1x24GiB"), [LOW])
        assert (of(made, "low#0").kind, of(made, "low#0").reason) == (StepKind.START, "gone/gpu-0 is gone")
        assert [(i.model, i.was_down) for i in made.interruptions] == [("low", True)]

    def test_a_lost_device_is_gone_too_and_nothing_is_stopped_there(self) -> None:
        lost = with_device(fleet("n: 2x24GiB"), A, health=DeviceHealth.LOST)
        assert written(steps(placed(low=A), placed(low=B), lost, [LOW])) == [[f"start low#0 {B}"]]

    def test_a_lost_replica_that_nobody_wants_is_only_named(self) -> None:
        lost = with_device(fleet("n: 2x24GiB"), A, health=DeviceHealth.LOST)
        made = steps(placed(low=A), plan_of(headroom=0.2), lost, [LOW])
        assert (kinds(made), made.batches) == ({"low#0": StepKind.LOST}, ())

    def test_the_highest_priority_that_is_down_starts_first(self) -> None:
        size = estimate(4 * GIB)
        before = plan_of(put("low#0", B, size), put("high#0", C, size), headroom=0.2)
        after = plan_of(put("low#0", A, size), put("high#0", A, size), headroom=0.2)
        made = steps(before, after, fleet("n: 1x24GiB"), [LOW, HIGH])
        assert written(made) == [[f"start high#0 {A}"], [f"start low#0 {A}"]]

    def test_an_ailing_device_still_runs_what_moves_away_from_it(self) -> None:
        ailing = with_device(fleet("n: 2x24GiB"), A, health=DeviceHealth.DRAINING)
        assert kinds(steps(placed(low=A), placed(low=B), ailing, [LOW])) == {"low#0": StepKind.MOVE_SIDE_BY_SIDE}


class TestSwap:
    def test_without_a_third_device_the_lower_priority_is_interrupted_and_named_with_its_seconds(self) -> None:
        rates = Rates(load_bytes_per_s=GIB, start_s=5.0)
        made = steps(placed(low=A, high=B), placed(low=B, high=A), fleet("n: 2x24GiB"), [LOW, HIGH], rates=rates)
        assert kinds(made) == {"low#0": StepKind.MOVE_IN_TURN, "high#0": StepKind.MOVE_SIDE_BY_SIDE}
        assert [(i.model, i.seconds, i.was_down) for i in made.interruptions] == [("low", 40.0, False)]
        assert of(made, "low#0").interrupts

    def test_a_third_device_is_gone_through_and_nobody_is_interrupted(self) -> None:
        made = steps(placed(low=A, high=B), placed(low=B, high=A), fleet("n: 3x24GiB"), [LOW, HIGH])
        assert made.interruptions == ()
        assert [step.via for step in made.steps if step.via] == [(C,)]
        assert made.order is Order.EXACT

    def test_a_third_device_that_takes_no_shares_is_not_gone_through(self) -> None:
        cordoned = with_device(fleet("n: 3x24GiB"), C, cordoned=True)
        made = steps(placed(low=A, high=B), placed(low=B, high=A), cordoned, [LOW, HIGH])
        assert [interruption.model for interruption in made.interruptions] == ["low"]

    def test_a_third_device_of_another_type_is_not_gone_through(self) -> None:
        typed = [replace(one, device_types=("H100",)) for one in (LOW, HIGH)]
        made = steps(placed(low=A, high=B), placed(low=B, high=A), fleet("n: 3x24GiB"), typed)
        assert [interruption.model for interruption in made.interruptions] == ["low"]

    def test_a_second_replica_keeps_the_model_answering(self) -> None:
        size = estimate(15 * GIB)
        before = plan_of(put("low#0", A, size), put("low#1", C, size), put("high#0", B, size), headroom=0.2)
        after = plan_of(put("low#0", B, size), put("low#1", C, size), put("high#0", A, size), headroom=0.2)
        made = steps(before, after, fleet("n: 3x24GiB"), [LOW, HIGH])
        assert (of(made, "low#0").kind, made.interruptions) == (StepKind.MOVE_IN_TURN, ())


class TestPrice:
    def test_is_the_weights_of_all_devices_at_the_rate_and_a_constant(self) -> None:
        whole = plan_of(put("m#0", f"{A}+{B}", estimate(10 * GB, kv=GB)), headroom=0.2)
        wanted = [demand("m", num_bytes=10 * GB, tensor_parallel=2)]
        made = steps(None, whole, fleet("n: 2x24GiB"), wanted, rates=Rates(load_bytes_per_s=GB, start_s=3.0))
        assert (of(made, "m#0").num_bytes, made.price_s) == (20 * GB, 23.0)

    def test_the_default_rates_meet_the_load_limits_of_b11(self) -> None:
        seconds = {size: Rates().start_s + size / Rates().load_bytes_per_s for size in (2 * GB, 20 * GB, 80 * GB)}
        assert seconds[2 * GB] == pytest.approx(2.2)
        assert seconds[20 * GB] == pytest.approx(5.5)
        assert seconds[80 * GB] == pytest.approx(16.5)

    def test_a_detour_is_paid_twice_and_loads_at_the_same_time_last_as_long_as_the_slowest(self) -> None:
        swap = steps(placed(low=A, high=B), placed(low=B, high=A), fleet("n: 3x24GiB"), [LOW, HIGH])
        assert swap.price_s == pytest.approx(3 * steps(None, placed(low=A), fleet("n: 1x24GiB"), [LOW]).price_s)
        both = steps(None, placed(low=A, high=B), fleet("n: 2x24GiB"), [LOW, HIGH])
        assert both.duration_s == pytest.approx(both.price_s / 2)


class TestQuestion:
    def test_a_plan_for_another_inventory_is_an_error_that_names_the_replica(self) -> None:
        held = with_device(fleet("n: 1x24GiB"), A, held_bytes=8 * GIB)
        with pytest.raises(InvalidProblem, match=r"'low#0' does not fit on n/gpu-0"):
            steps(None, placed(low=A), held, [LOW])

    def test_a_replica_without_a_demand_is_an_error(self) -> None:
        with pytest.raises(InvalidProblem, match="no demand says"):
            steps(placed(low=A), placed(high=B), fleet("n: 2x24GiB"), [HIGH])


class TestManyChanges:
    def test_a_ring_of_more_replicas_than_are_searched_ends_with_one_interruption_at_most(self) -> None:
        models, inventory = [demand(f"m{i}", gib=15, priority=i) for i in range(12)], fleet("n: 12x24GiB")
        before = solve(inventory, models, Policy())
        made = steps(before, _turned(before), inventory, models)
        play(made, Case(before, _turned(before), inventory, tuple(models)))
        assert (made.order, [i.model for i in made.interruptions]) == (Order.HEURISTIC, ["m0"])

    @pytest.mark.parametrize("size", [12, 90])
    def test_a_free_device_spares_the_ring_its_interruption(self, size: int) -> None:
        models, inventory = [demand(f"m{i}", gib=15, priority=i) for i in range(size)], fleet(f"n: {size + 1}x24GiB")
        before = solve(inventory, models, Policy())
        made = steps(before, _turned(before), inventory, models)
        play(made, Case(before, _turned(before), inventory, tuple(models)))
        assert made.interruptions == ()

    def test_what_is_independent_runs_at_the_same_time(self) -> None:
        models, inventory = [demand(f"m{i}", gib=15) for i in range(20)], fleet("n: 20x24GiB")
        made = steps(None, solve(inventory, models, Policy()), inventory, models)
        assert [len(batch) for batch in made.batches] == [20]


def _turned(plan: Plan) -> Plan:
    """Every replica one place further, the last one on the first."""
    ring = plan.placements[1:] + plan.placements[:1]
    return replace(
        plan, placements=tuple(replace(p, devices=q.devices) for p, q in zip(plan.placements, ring, strict=True))
    )


def made_for(case: Case) -> Steps:
    return steps(case.before, case.after, case.inventory, case.demands)


class TestAnyTwoPlans:
    @given(cases())
    @settings(max_examples=300)
    def test_every_moment_keeps_headroom_and_service_and_the_end_is_the_plan(self, case: Case) -> None:
        play(made_for(case), case)

    @given(cases())
    @settings(max_examples=150)
    def test_the_heuristic_keeps_them_too(self, case: Case) -> None:
        play(steps(case.before, case.after, case.inventory, case.demands, max_exact_changes=0), case)

    @given(cases(max_models=3, min_devices=3, max_tensor_parallel=1))
    @settings(max_examples=400)
    def test_service_is_interrupted_only_where_no_order_at_all_avoids_it(self, case: Case) -> None:
        assert not made_for(case).interruptions or not uninterrupted_order_exists(case)

    @given(cases())
    @settings(max_examples=100)
    def test_prices_and_moves_add_up(self, case: Case) -> None:
        made = made_for(case)
        assert made.price_s == pytest.approx(sum(step.price_s for step in made.steps))
        assert made.duration_s <= made.price_s + 1e-9
        assert {step.replica for step in made.steps} == where(case.before).keys() | where(case.after).keys()


class TestThePropertiesFind:
    """Each rule of `play`, broken on purpose."""

    SWAP = Case(placed(low=A, high=B), placed(low=B, high=A), fleet("n: 3x24GiB"), (LOW, HIGH))

    def test_a_stop_left_out(self) -> None:
        made = made_for(self.SWAP)
        with pytest.raises(Broken, match="no headroom"):
            play(replace(made, batches=(made.batches[0], *made.batches[2:])), self.SWAP)

    def test_everything_at_once(self) -> None:
        made = made_for(self.SWAP)
        with pytest.raises(Broken):
            play(replace(made, batches=(tuple(a for batch in made.batches for a in batch),)), self.SWAP)

    def test_two_starts_on_one_device(self) -> None:
        small = (demand("a", gib=4), demand("b", gib=4))
        plan = solve(fleet("n: 1x24GiB"), small, Policy())
        made = steps(None, plan, fleet("n: 1x24GiB"), small)
        with pytest.raises(Broken, match="two starts"):
            play(
                replace(made, batches=(made.batches[0] + made.batches[1],)),
                Case(plan_of(headroom=0.2), plan, fleet("n: 1x24GiB"), small),
            )

    def test_an_interruption_that_is_not_announced(self) -> None:
        case = Case(self.SWAP.before, self.SWAP.after, fleet("n: 2x24GiB"), (LOW, HIGH))
        made = made_for(case)
        silent = tuple(tuple(replace(a, interrupts=False) for a in batch) for batch in made.batches)
        with pytest.raises(Broken, match="service of"):
            play(replace(made, batches=silent), case)

    def test_an_end_that_is_not_the_plan(self) -> None:
        made = made_for(self.SWAP)
        with pytest.raises(Broken, match="ends in"):
            play(replace(made, batches=made.batches[:-1]), self.SWAP)

    def test_too_many_cores(self) -> None:
        hungry = tuple(replace(one, cpu_millis=12_000) for one in (LOW, HIGH))
        made = steps(None, placed(low=A, high=B), fleet("n: 2x24GiB"), [LOW, HIGH])
        case = Case(plan_of(headroom=0.2), placed(low=A, high=B), fleet("n: 2x24GiB"), hungry)
        with pytest.raises(Broken, match="no cores"):
            play(made, case)

    def test_an_interruption_that_an_order_would_have_spared(self) -> None:
        assert uninterrupted_order_exists(self.SWAP)
        assert not uninterrupted_order_exists(replace(self.SWAP, inventory=fleet("n: 2x24GiB")))
