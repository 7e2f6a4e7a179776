"""A refusal carries facts, and one sentence that can be acted on."""

from __future__ import annotations

from hypothesis import given, settings

from placement.demand import Demand
from placement.inventory import DeviceHealth, Inventory
from placement.plan import Cause, Plan, Refusal, RefusalKind
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import GIB, demand, fleet, problems, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]


def refusal_of(plan: Plan, model: str) -> Refusal:
    return next(refusal for refusal in plan.refusals if refusal.model == model)


class TestSentence:
    def test_it_says_what_happened_what_was_expected_and_what_to_do(self) -> None:
        inventory = with_device(fleet("inference-1: 1x24GiB"), "inference-1/gpu-0", held_bytes=2 * GIB)
        demands = [
            demand("llama3-8b", gib=6.1, priority=2, path="models[1]"),
            demand("qwen-32b", gib=10.9, kv_gib=6.0, priority=1, path="models[0]"),
        ]
        assert refusal_of(solve(inventory, demands, Policy()), "qwen-32b").message == (
            "No room for 'qwen-32b': it needs 16.9 GiB on one device; the best of 1, 'inference-1/gpu-0', has 11.1 GiB "
            "above its 20 % headroom. Lower `models[0].max_model_len` or `models[0].max_num_seqs`, or set "
            "`models[0].kv_cache_bytes` to 214748365 (0.2 GiB) or less, or unload 'llama3-8b' (frees 6.1 GiB), "
            "or add a device of at least 22 GiB, or allow offload of 6227702579 bytes (5.8 GiB) in `models[0]`."
        )

    def test_figures_that_differ_are_shown_so_that_they_differ(self) -> None:
        (refusal,) = solve(fleet("n: 1x10GiB"), [demand("m", gib=8.004)], Policy()).refusals
        assert "needs 8.004 GiB" in refusal.message
        assert "has 8.000 GiB" in refusal.message

    def test_it_counts_the_replicas_that_are_missing(self) -> None:
        (refusal,) = solve(fleet("n: 2x24GiB"), [demand("m", gib=15, replicas=3)], Policy()).refusals
        assert refusal.num_replicas == 1
        assert refusal.message.startswith("No room for 1 of 3 replicas of 'm': each needs 15.0 GiB on one device;")

    def test_an_empty_fleet_is_said_to_be_empty(self) -> None:
        (refusal,) = solve(fleet(), [demand("m", gib=1)], Policy()).refusals
        assert "the fleet has no device" in refusal.message
        assert (refusal.best_device, refusal.best_room_bytes) == (None, 0)

    def test_a_fleet_that_takes_nothing_says_why(self) -> None:
        inventory = with_device(fleet("n: 2x24GiB"), "n/gpu-0", cordoned=True)
        inventory = with_device(inventory, "n/gpu-1", health=DeviceHealth.QUARANTINED)
        (refusal,) = solve(inventory, [demand("m", gib=1)], Policy()).refusals
        assert "of 2 devices none takes shares (1 unhealthy, 1 cordoned)" in refusal.message
        assert "ncordon 'n/gpu-0'" in refusal.advice


class TestKind:
    def test_what_no_device_could_hold_empty_is_infeasible(self) -> None:
        (refusal,) = solve(fleet("n: 2x24GiB"), [demand("m", gib=20)], Policy()).refusals
        assert (refusal.kind, refusal.causes) == (RefusalKind.INFEASIBLE, ((Cause.TOO_SMALL, 2),))

    def test_what_others_hold_is_blocked(self) -> None:
        plan = solve(fleet("n: 1x24GiB"), [demand("a", gib=15, priority=1), demand("b", gib=15)], Policy())
        assert refusal_of(plan, "b").kind is RefusalKind.BLOCKED
        assert refusal_of(plan, "b").causes == ((Cause.NO_ROOM, 1),)

    def test_more_replicas_than_the_fleet_holds_are_infeasible(self) -> None:
        (refusal,) = solve(fleet("n: 2x24GiB"), [demand("m", gib=15, replicas=3)], Policy()).refusals
        assert refusal.kind is RefusalKind.INFEASIBLE

    def test_what_waits_for_a_sick_device_is_blocked(self) -> None:
        inventory = with_device(fleet("n: 1x24GiB"), "n/gpu-0", health=DeviceHealth.QUARANTINED)
        (refusal,) = solve(inventory, [demand("m", gib=1)], Policy()).refusals
        assert (refusal.kind, refusal.causes) == (RefusalKind.BLOCKED, ((Cause.UNHEALTHY, 1),))
        assert "ring 'n/gpu-0' back (quarantined)" in refusal.advice

    def test_too_few_devices_in_a_node_are_counted_as_such(self) -> None:
        (refusal,) = solve(
            fleet("a: 1x80GiB", "b: 1x80GiB"), [demand("m", gib=9, tensor_parallel=2)], Policy()
        ).refusals
        assert refusal.causes == ((Cause.TOO_FEW_DEVICES, 2),)
        assert refusal.message.startswith("No room for 'm': it needs 9.0 GiB on each of 2 devices of one node;")


class TestAdvice:
    def test_a_smaller_kv_cache_is_advised_only_where_it_would_do(self) -> None:
        enough = solve(fleet("n: 1x24GiB"), [demand("m", gib=15, kv_gib=5, path="models[0]")], Policy())
        kept = 5 * GIB - (20 * GIB - 24 * GIB * 8 // 10)
        assert f"set `models[0].kv_cache_bytes` to {kept} (4.2 GiB) or less" in enough.refusals[0].advice
        too_little = solve(fleet("n: 1x24GiB"), [demand("m", gib=20, kv_gib=1, path="models[0]")], Policy())
        assert "kv_cache_bytes" not in too_little.refusals[0].advice

    def test_what_it_advises_about_the_kv_cache_really_fits(self) -> None:
        inventory = fleet("n: 1x24GiB")
        (refusal,) = solve(inventory, [demand("m", gib=15, kv_gib=5, path="models[0]")], Policy()).refusals
        advised = int(refusal.advice.split("kv_cache_bytes` to ")[1].split(" ")[0])
        assert solve(inventory, [demand("m", gib=15, kv_gib=advised / GIB)], Policy()).placements

    def test_unloading_the_least_important_model_that_makes_room_is_advised(self) -> None:
        demands = [demand("a", gib=8, priority=5), demand("b", gib=9, priority=4), demand("c", gib=10, priority=3)]
        assert "nload 'b' (frees 9.0 GiB)" in solve(fleet("n: 1x24GiB"), demands, Policy()).refusals[0].advice

    def test_several_models_are_named_when_no_single_one_would_do(self) -> None:
        demands = [demand("a", gib=8, priority=5), demand("b", gib=9, priority=4), demand("c", gib=18, priority=3)]
        advice = solve(fleet("n: 1x24GiB"), demands, Policy()).refusals[0].advice
        assert "nload 'b' and 'a' (frees 17.0 GiB)" in advice

    def test_more_devices_per_replica_are_advised_where_a_node_has_them(self) -> None:
        (refusal,) = solve(fleet("n: 4x24GiB"), [demand("m", gib=30, path="models[2]")], Policy()).refusals
        assert refusal.advice.startswith("Set `models[2].tensor_parallel` to 2, or add a device of at least 38 GiB")

    def test_after_a_hundred_refusals_only_the_last_resort_is_advised(self) -> None:
        inventory = with_device(fleet("n: 1x24GiB"), "n/gpu-0", held_bytes=20 * GIB)
        refusals = solve(inventory, [demand(f"m{i}", gib=3) for i in range(101)], Policy()).refusals
        assert refusals[99].advice.startswith("Free what 'pid 4711' holds")
        assert refusals[100].advice == "Add a device of at least 4 GiB."

    def test_more_devices_are_no_help_where_cores_are_missing(self) -> None:
        plan = solve(fleet("n: 4x24GiB"), [demand("m", gib=4, cpu_millis=17_000)], Policy())
        assert plan.refusals[0].kind is RefusalKind.INFEASIBLE
        assert plan.refusals[0].advice.startswith("Free 1000 thousandths of a core on 'n', or add a node with a device")


class TestFacts:
    @given(problems())
    @settings(max_examples=100, deadline=None)
    def test_causes_count_every_device_once(self, question: Question) -> None:
        for refusal in solve(*question).refusals:
            assert sum(count for _, count in refusal.causes) == len(question[0].devices)

    @given(problems(max_tensor_parallel=1))
    @settings(max_examples=100, deadline=None)
    def test_the_best_room_is_always_less_than_what_is_needed(self, question: Question) -> None:
        for refusal in solve(*question).refusals:
            assert (
                refusal.best_room_bytes < refusal.needed_bytes
                or refusal.best_device is None
                or not refusal.needed_bytes
            )
