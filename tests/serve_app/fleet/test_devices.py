"""This machine's devices as an inventory."""

from __future__ import annotations

import os
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.inventory import Device, DeviceHealth, DeviceKind, HoldingKind
from serve_app.config.settings import DeviceChoice
from serve_app.errors import DeviceUnreadable
from serve_app.fleet.cuda_devices import UNATTRIBUTED, cuda_devices
from serve_app.fleet.devices import host_device, local_inventory
from serve_app.fleet.host_memory import HostMemory, read_host_memory
from serve_app.fleet.nvml import DeviceMemory, nvml_session, read_device_memory, uuid_of_visible_device
from serve_app.fleet.process_memory import own_process
from tests.nvml_stand_in.script import GIB, NvmlScript, ScriptedGpu

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


def devices_of(script: NvmlScript, *gpus: ScriptedGpu, own_pids: frozenset[int] = frozenset()) -> tuple[Device, ...]:
    script.devices(*gpus)
    with nvml_session():
        return cuda_devices(pynvml, node="n", own_pids=own_pids)


def gpus_linked_to(*remotes: str | None) -> list[ScriptedGpu]:
    """At PCI addresses 01, 02, ...; each with one NVLink to the address given, or with none."""
    return [
        ScriptedGpu(f"GPU-{n}", address=f"00000000:0{n}:00.0", links={0: remote} if remote else {})
        for n, remote in enumerate(remotes, start=1)
    ]


class TestCudaDevices:
    def test_are_named_by_node_and_index_in_nvmls_order(self, nvml: NvmlScript) -> None:
        devices = devices_of(nvml, ScriptedGpu("GPU-b"), ScriptedGpu("GPU-a"))
        assert [(device.id, device.uuid) for device in devices] == [("n/gpu-0", "GPU-b"), ("n/gpu-1", "GPU-a")]

    def test_foreign_processes_hold_their_bytes_and_the_driver_the_rest(self, nvml: NvmlScript) -> None:
        gpu = ScriptedGpu("GPU-a", used_bytes=5 * GIB, processes={2**22 + 1: 3 * GIB, 2**22 + 2: GIB})
        (device,) = devices_of(nvml, gpu, own_pids=frozenset({2**22 + 2}))
        assert [(held.holder, held.num_bytes) for held in device.holdings] == [
            (f"pid {2**22 + 1}", 3 * GIB),
            (UNATTRIBUTED, GIB),
        ]

    def test_bytes_the_driver_does_not_attribute_are_never_free(self, nvml: NvmlScript) -> None:
        (device,) = devices_of(nvml, ScriptedGpu("GPU-a", used_bytes=5 * GIB, processes={2**22 + 1: None}))
        assert sum(held.num_bytes for held in device.holdings) == 5 * GIB

    def test_a_device_that_does_not_answer_is_lost_and_the_others_are_not(self, nvml: NvmlScript) -> None:
        nvml.fail("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_GPU_IS_LOST, whom="GPU-a")
        lost, good = devices_of(nvml, ScriptedGpu("GPU-a"), ScriptedGpu("GPU-b"))
        assert (lost.id, lost.health, lost.total_bytes) == ("n/gpu-0", DeviceHealth.LOST, 0)
        assert good.health is DeviceHealth.HEALTHY

    def test_a_direct_nvlink_makes_peers(self, nvml: NvmlScript) -> None:
        devices = devices_of(nvml, *gpus_linked_to("00000000:02:00.0", "00000000:01:00.0", None))
        assert [device.nvlink_peers for device in devices] == [("n/gpu-1",), ("n/gpu-0",), ()]

    def test_a_switch_makes_peers_of_all_that_reach_it(self, nvml: NvmlScript) -> None:
        devices = devices_of(nvml, *gpus_linked_to(*["00000000:AA:00.0"] * 3))
        assert devices[0].nvlink_peers == ("n/gpu-1", "n/gpu-2")

    @pytest.mark.parametrize(("text", "node"), [("1\n", 1), ("-1\n", None)])
    def test_the_numa_node_is_what_the_kernel_says(
        self, nvml: NvmlScript, tmp_path: Path, text: str, node: int | None
    ) -> None:
        (tmp_path / "0000:3b:00.0").mkdir()
        (tmp_path / "0000:3b:00.0" / "numa_node").write_text(text)
        nvml.devices(ScriptedGpu("GPU-a", address="00000000:3B:00.0"))
        with nvml_session():
            (device,) = cuda_devices(pynvml, node="n", pci_devices=tmp_path)
        assert device.numa_node == node


class TestLocalInventoryOfGpus:
    def test_takes_gpus_when_the_choice_is_open(self, nvml: NvmlScript) -> None:
        nvml.devices(ScriptedGpu("GPU-a"))
        assert [device.uuid for device in local_inventory(DeviceChoice.AUTO, "n").devices] == ["GPU-a"]

    def test_takes_the_host_where_no_driver_is_loaded(self, nvml: NvmlScript) -> None:
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        assert [device.id for device in local_inventory(DeviceChoice.AUTO, "n").devices] == ["n/host"]

    def test_never_takes_a_broken_driver_for_no_gpu(self, nvml: NvmlScript) -> None:
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        with pytest.raises(DeviceUnreadable, match="version mismatch"):
            local_inventory(DeviceChoice.AUTO, "n")

    def test_needs_a_gpu_when_one_was_asked_for(self, nvml: NvmlScript) -> None:
        with pytest.raises(DeviceUnreadable, match="No CUDA device"):
            local_inventory(DeviceChoice.CUDA, "n")


class TestDeviceMemory:
    def test_is_read_by_uuid_and_process(self, nvml: NvmlScript) -> None:
        nvml.devices(ScriptedGpu("GPU-a"), ScriptedGpu("GPU-b", used_bytes=3 * GIB, processes={5: GIB, 6: None}))
        assert read_device_memory("GPU-b") == DeviceMemory(
            total_bytes=24 * GIB, used_bytes=3 * GIB, bytes_by_pid={5: GIB, 6: 0}
        )

    def test_of_a_device_that_is_not_there_is_an_error_that_names_it(self, nvml: NvmlScript) -> None:
        with pytest.raises(DeviceUnreadable, match="GPU-c: Not Found"):
            read_device_memory("GPU-c")

    @pytest.mark.parametrize("visible", ["1", "GPU-b", "1,0"])
    def test_a_visible_device_is_known_by_index_or_uuid(self, nvml: NvmlScript, visible: str) -> None:
        nvml.devices(ScriptedGpu("GPU-a"), ScriptedGpu("GPU-b"))
        assert uuid_of_visible_device(visible) == "GPU-b"


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
