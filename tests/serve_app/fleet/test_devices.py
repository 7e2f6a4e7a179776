"""This machine's devices as an inventory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.inventory import DeviceHealth, DeviceKind, HoldingKind
from serve_app.config.settings import DeviceChoice
from serve_app.fleet.cuda_devices import UNATTRIBUTED, cuda_devices
from serve_app.fleet.devices import host_device, local_inventory
from serve_app.fleet.host_memory import HostMemory, read_host_memory
from serve_app.fleet.process_memory import own_process
from tests.serve_app.fleet.fake_nvml import GIB, FakeGpu, FakeNvml

byte_counts = st.integers(min_value=0, max_value=2**45)


class TestTheHostAsADevice:
    def test_takes_what_cannot_be_had_for_foreign(self) -> None:
        device = host_device(HostMemory(total_bytes=10 * GIB, available_bytes=7 * GIB), "n")
        (holding,) = device.holdings
        assert (device.id, device.kind, device.total_bytes) == ("n/host", DeviceKind.HOST, 10 * GIB)
        assert (holding.kind, holding.num_bytes) == (HoldingKind.FOREIGN, 3 * GIB)

    def test_never_takes_our_own_processes_for_foreign(self) -> None:
        memory = HostMemory(total_bytes=10 * GIB, available_bytes=7 * GIB)
        assert host_device(memory, "n", own_bytes=2 * GIB).holdings[0].num_bytes == 1 * GIB

    def test_of_a_part_only_what_cannot_be_had_of_that_part_is_foreign(self) -> None:
        memory = HostMemory(total_bytes=10 * GIB, available_bytes=7 * GIB)
        assert host_device(memory, "n", total_bytes=6 * GIB).holdings == ()
        assert host_device(memory, "n", total_bytes=8 * GIB).holdings[0].num_bytes == 1 * GIB

    @given(byte_counts, byte_counts, st.none() | st.integers(min_value=1, max_value=2**45), byte_counts)
    def test_never_promises_more_than_there_is(self, total: int, available: int, part: int | None, own: int) -> None:
        memory = HostMemory(total_bytes=max(total, available), available_bytes=available)
        device = host_device(memory, "n", total_bytes=part, own_bytes=own)
        free = device.total_bytes - sum(holding.num_bytes for holding in device.holdings)
        assert device.total_bytes <= memory.total_bytes
        assert free <= available + own


class TestLocalInventory:
    def test_of_the_host_needs_no_driver(self) -> None:
        inventory = local_inventory(DeviceChoice.HOST, "here")
        (device,) = inventory.devices
        assert device.id == "here/host"
        assert 0 < device.total_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def test_counts_what_this_process_holds_as_ours_when_told(self) -> None:
        def foreign(*, ours: bool) -> int:
            own = frozenset({own_process()}) if ours else frozenset()
            return sum(held.num_bytes for held in local_inventory(DeviceChoice.HOST, "n", own=own).devices[0].holdings)

        ballast = bytearray(os.urandom(2**20)) * 200
        assert foreign(ours=False) - foreign(ours=True) > len(ballast) / 2

    def test_has_at_least_one_device_when_the_choice_is_open(self) -> None:
        assert local_inventory(DeviceChoice.AUTO, "here").devices


class TestCudaDevices:
    def test_are_named_by_node_and_index_in_nvmls_order(self) -> None:
        devices = cuda_devices(FakeNvml(FakeGpu("0000:01:00.0"), FakeGpu("0000:02:00.0")), node="n")
        assert [(device.id, device.uuid) for device in devices] == [
            ("n/gpu-0", "GPU-0000:01:00.0"),
            ("n/gpu-1", "GPU-0000:02:00.0"),
        ]

    def test_foreign_processes_hold_their_bytes_and_the_driver_the_rest(self) -> None:
        gpu = FakeGpu("0000:01:00.0", used_bytes=5 * GIB, processes={2**22 + 1: 3 * GIB, 2**22 + 2: GIB})
        (device,) = cuda_devices(FakeNvml(gpu), node="n", own_pids=frozenset({2**22 + 2}))
        assert [(held.holder, held.num_bytes) for held in device.holdings] == [
            (f"pid {2**22 + 1}", 3 * GIB),
            (UNATTRIBUTED, GIB),
        ]

    def test_bytes_the_driver_does_not_attribute_are_never_free(self) -> None:
        gpu = FakeGpu("0000:01:00.0", used_bytes=5 * GIB, processes={2**22 + 1: None})
        (device,) = cuda_devices(FakeNvml(gpu), node="n")
        assert sum(held.num_bytes for held in device.holdings) == 5 * GIB

    def test_a_device_that_does_not_answer_is_lost_and_the_others_are_not(self) -> None:
        lost, good = cuda_devices(FakeNvml(FakeGpu("0000:01:00.0", lost=True), FakeGpu("0000:02:00.0")), node="n")
        assert (lost.id, lost.health, lost.total_bytes) == ("n/gpu-0", DeviceHealth.LOST, 0)
        assert good.health is DeviceHealth.HEALTHY

    def test_a_direct_nvlink_makes_peers(self) -> None:
        first = FakeGpu("00000000:01:00.0", links={0: "0000:02:00.0"})
        second = FakeGpu("00000000:02:00.0", links={0: "0000:01:00.0"})
        devices = cuda_devices(FakeNvml(first, second, FakeGpu("00000000:03:00.0")), node="n")
        assert [device.nvlink_peers for device in devices] == [("n/gpu-1",), ("n/gpu-0",), ()]

    def test_a_switch_makes_peers_of_all_that_reach_it(self) -> None:
        gpus = [FakeGpu(f"0000:0{n}:00.0", links={0: "0000:aa:00.0"}) for n in (1, 2, 3)]
        devices = cuda_devices(FakeNvml(*gpus), node="n")
        assert devices[0].nvlink_peers == ("n/gpu-1", "n/gpu-2")

    @pytest.mark.parametrize(("text", "numa_node"), [("1\n", 1), ("-1\n", None)])
    def test_the_numa_node_is_what_the_kernel_says(self, tmp_path: Path, text: str, numa_node: int | None) -> None:
        (tmp_path / "0000:3b:00.0").mkdir()
        (tmp_path / "0000:3b:00.0" / "numa_node").write_text(text)
        (device,) = cuda_devices(FakeNvml(FakeGpu("00000000:3B:00.0")), node="n", pci_devices=tmp_path)
        assert device.numa_node == numa_node


def group(directory: Path, *, limit: str, usage: int, inactive: int = 0, version: int = 2) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / names[0]).write_text(f"{limit}\n")
    (directory / names[1]).write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"anon 5\n{names[2]} {inactive}\n")


class TestHostMemory:
    def read(self, root: Path, own: str) -> HostMemory:
        (root / "own").write_text(own)
        return read_host_memory(cgroup_root=root, own_cgroups=root / "own")

    def test_without_a_limit_is_the_machines(self, tmp_path: Path) -> None:
        group(tmp_path / "a", limit="max", usage=2**30)
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert self.read(tmp_path, "0::/a\n").total_bytes == pytest.approx(total, rel=0.01)

    def test_is_the_control_groups_where_that_is_tighter(self, tmp_path: Path) -> None:
        group(tmp_path / "a/b", limit="100000000", usage=60_000_000, inactive=10_000_000)
        memory = self.read(tmp_path, "0::/a/b\n")
        assert memory == HostMemory(total_bytes=100_000_000, available_bytes=50_000_000)

    def test_is_the_tightest_of_all_groups_above(self, tmp_path: Path) -> None:
        group(tmp_path / "a/b", limit="100000000", usage=1)
        group(tmp_path / "a", limit="50000000", usage=20_000_000)
        assert self.read(tmp_path, "0::/a/b\n") == HostMemory(total_bytes=50_000_000, available_bytes=30_000_000)

    def test_knows_version_one(self, tmp_path: Path) -> None:
        group(tmp_path / "memory/docker/1f", limit="100000000", usage=60_000_000, inactive=20_000_000, version=1)
        memory = self.read(tmp_path, "5:cpu:/\n4:memory:/docker/1f\n0::/\n")
        assert memory == HostMemory(total_bytes=100_000_000, available_bytes=60_000_000)

    def test_inside_a_container_the_group_is_at_the_root(self, tmp_path: Path) -> None:
        group(tmp_path, limit="70000000", usage=70_000_001)
        assert self.read(tmp_path, "0::/\n") == HostMemory(total_bytes=70_000_000, available_bytes=0)
