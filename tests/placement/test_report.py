"""The rows of `headroom plan`: every holder, every byte, the peak, the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from placement.demand import Demand, PartName
from placement.inventory import HoldingKind, Inventory
from placement.policy import Policy
from placement.report import Verdict, device_report
from placement.solver import solve
from tests.placement.builders import GIB, demand, fleet, problems, with_device

Question = tuple[Inventory, tuple[Demand, ...], Policy]


class TestDeviceReport:
    def test_it_splits_a_device_by_holder_and_part(self) -> None:
        inventory = with_device(fleet("n: 1x40GiB"), "n/gpu-0", held_bytes=2 * GIB)
        (report,) = device_report(solve(inventory, [demand("m", gib=10, kv_gib=4, loading_gib=3)], Policy()), inventory)
        foreign, replica = report.holders
        assert (foreign.name, foreign.holding_kind, foreign.rest_bytes) == ("pid 4711", HoldingKind.FOREIGN, 2 * GIB)
        assert [(part.name, part.num_bytes) for part in replica.parts] == [
            (PartName.WEIGHTS, 10 * GIB),
            (PartName.KV_CACHE, 4 * GIB),
        ]
        assert (report.rest_bytes, report.peak_bytes, report.largest_start) == (16 * GIB, 19 * GIB, "m#0")
        assert report.free_at_peak_bytes == 21 * GIB
        assert report.free_at_peak_ratio == pytest.approx(21 / 40)
        assert report.verdict is Verdict.PASS

    def test_a_device_whose_headroom_is_eaten_fails(self) -> None:
        inventory = fleet("n: 1x24GiB")
        plan = solve(inventory, [demand("m", gib=19)], Policy())
        held = with_device(inventory, "n/gpu-0", held_bytes=GIB)
        assert [report.verdict for report in device_report(plan, held)] == [Verdict.FAIL]

    def test_weights_in_host_memory_are_told_apart(self) -> None:
        offloading = replace(demand("m", gib=20), max_offload_bytes=4 * GIB)
        (report,) = device_report(solve(fleet("n: 1x24GiB"), [offloading], Policy()), fleet("n: 1x24GiB"))
        (replica,) = report.holders
        assert replica.rest_bytes + replica.offload_bytes == 20 * GIB
        assert replica.offload_bytes > 0

    def test_empty_devices_are_reported_too(self) -> None:
        inventory = fleet("a: 2x24GiB", "b: 1x24GiB")
        reports = device_report(solve(inventory, [], Policy()), inventory)
        assert [report.device for report in reports] == ["a/gpu-0", "a/gpu-1", "b/gpu-0"]
        assert {report.verdict for report in reports} == {Verdict.PASS}

    @given(problems())
    @settings(max_examples=60, deadline=None)
    def test_every_byte_has_a_holder_and_no_device_with_shares_fails(self, question: Question) -> None:
        plan = solve(*question)
        for report in device_report(plan, question[0]):
            assert report.rest_bytes == sum(holder.rest_bytes for holder in report.holders)
            if any(holder.holding_kind is None for holder in report.holders):
                assert report.verdict is Verdict.PASS

    def test_the_property_finds_a_report_that_hides_a_holding(self) -> None:
        inventory = with_device(fleet("n: 1x40GiB"), "n/gpu-0", held_bytes=2 * GIB)
        (report,) = device_report(solve(inventory, [demand("m", gib=1)], Policy()), inventory)
        hiding = replace(report, holders=report.holders[1:])
        assert hiding.rest_bytes != sum(holder.rest_bytes for holder in hiding.holders)
