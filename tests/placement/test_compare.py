"""What is planned is what runs, or it is said which replica is not where it should be."""

from __future__ import annotations

from placement.compare import MeasuredShare, ShareStatus, compare, numa_local_ratio
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import GIB, demand, fleet, with_device

FLEET = fleet("n: 2x24GiB")
PLAN = solve(FLEET, [demand("m", gib=10, replicas=2), demand("pair", gib=2, tensor_parallel=2)], Policy())
AS_PLANNED = {
    "m#0": (MeasuredShare("GPU-n-0", 10 * GIB),),
    "m#1": (MeasuredShare("GPU-n-1", 10 * GIB),),
    "pair#0": (MeasuredShare("GPU-n-0", 2 * GIB), MeasuredShare("GPU-n-1", 2 * GIB)),
}


def statuses(measured: dict[str, tuple[MeasuredShare, ...]], *, tolerance: float = 0.05) -> dict[str, ShareStatus]:
    return {report.replica: report.status for report in compare(PLAN, FLEET, measured, tolerance=tolerance)}


class TestCompare:
    def test_what_runs_as_planned_is_ok(self) -> None:
        assert set(statuses(AS_PLANNED).values()) == {ShareStatus.OK}

    def test_a_replica_on_another_device_is_found(self) -> None:
        swapped = AS_PLANNED | {"m#0": AS_PLANNED["m#1"]}
        assert statuses(swapped)["m#0"] is ShareStatus.WRONG_DEVICE

    def test_a_rank_that_reached_only_one_of_its_devices_is_found(self) -> None:
        assert statuses(AS_PLANNED | {"pair#0": AS_PLANNED["m#0"]})["pair#0"] is ShareStatus.WRONG_DEVICE

    def test_a_replica_over_its_bytes_is_found_beyond_the_tolerance(self) -> None:
        at_the_edge = AS_PLANNED | {"m#0": (MeasuredShare("GPU-n-0", 10 * GIB * 105 // 100),)}
        beyond = AS_PLANNED | {"m#0": (MeasuredShare("GPU-n-0", 10 * GIB * 105 // 100 + 1),)}
        assert statuses(at_the_edge)["m#0"] is ShareStatus.OK
        assert statuses(beyond)["m#0"] is ShareStatus.OVER_BYTES
        assert statuses(at_the_edge, tolerance=0.0)["m#0"] is ShareStatus.OVER_BYTES

    def test_a_wrong_device_is_named_before_too_many_bytes(self) -> None:
        assert statuses(AS_PLANNED | {"m#0": (MeasuredShare("GPU-n-1", 99 * GIB),)})["m#0"] is ShareStatus.WRONG_DEVICE

    def test_a_planned_replica_that_nobody_saw_is_missing(self) -> None:
        assert statuses({})["m#0"] is ShareStatus.MISSING

    def test_a_replica_the_plan_does_not_know_is_unplanned(self) -> None:
        assert statuses(AS_PLANNED | {"ghost#0": (MeasuredShare("GPU-n-0", GIB),)})["ghost#0"] is ShareStatus.UNPLANNED

    def test_the_report_says_where_it_was_seen(self) -> None:
        (report, *_) = compare(PLAN, FLEET, {"m#0": (MeasuredShare("GPU-x", 1),)})
        assert report.message == "'m#0' is seen on GPU-x, planned on GPU-n-0"


class TestNumaLocalRatio:
    def test_counts_replicas_over_several_devices_that_stay_in_one_numa_node(self) -> None:
        inventory = fleet("n: 4x24GiB")
        for index, numa_node in enumerate((0, 0, 0, 1)):
            inventory = with_device(inventory, f"n/gpu-{index}", numa_node=numa_node)
        plan = solve(inventory, [demand("m", gib=15, replicas=2, tensor_parallel=2)], Policy())
        assert numa_local_ratio(plan.placements, inventory) == 0.5

    def test_a_numa_node_that_nobody_knows_is_elsewhere(self) -> None:
        inventory = fleet("n: 2x24GiB")
        plan = solve(inventory, [demand("m", gib=15, tensor_parallel=2)], Policy())
        assert numa_local_ratio(plan.placements, inventory) == 0.0

    def test_there_is_none_without_such_replicas(self) -> None:
        inventory = fleet("n: 1x24GiB")
        assert numa_local_ratio(solve(inventory, [demand("m", gib=1)], Policy()).placements, inventory) is None
