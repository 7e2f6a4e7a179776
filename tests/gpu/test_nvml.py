"""The laws of NVML on a real driver. Needs neither Ray nor vLLM: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from placement.inventory import DeviceKind
from serve_app.config.settings import DeviceChoice
from serve_app.fleet.device_poller import DevicePoller
from serve_app.fleet.devices import local_inventory
from serve_app.fleet.nvml import read_device_memory
from tests.contracts.nvml_contract import NvmlContract, PollDevices, answered

DRIVER = Path("/dev/nvidiactl")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not DRIVER.exists(), reason=f"no NVIDIA driver is loaded here: there is no {DRIVER}"),
]
TAKES_A_CONTEXT = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
context = ctypes.c_void_p()
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def poll() -> Iterator[PollDevices]:
    poller = DevicePoller(DeviceKind.CUDA, "here")
    yield lambda: poller.poll(30)
    poller.close()


class TestRealNvml(NvmlContract):
    def test_the_inventory_names_the_same_devices(self, poll: PollDevices) -> None:
        listed = [(device.id, device.uuid) for device in local_inventory(DeviceChoice.CUDA, "here").devices]
        assert [(one.device, one.uuid) for one in answered(poll())] == listed

    def test_temperature_power_and_their_limits_are_read(self, poll: PollDevices) -> None:
        for one in answered(poll()):
            assert None not in (one.temperature_c, one.slowdown_c, one.power_w, one.power_limit_w)

    def test_a_reading_of_memory_agrees_with_the_poll(self, poll: PollDevices) -> None:
        for one in answered(poll()):
            assert read_device_memory(one.uuid).total_bytes == one.total_bytes

    def test_a_process_with_a_context_takes_memory(self, poll: PollDevices) -> None:
        """Its pid may be another one here than NVML says, inside a container, so bytes are compared."""
        before = sum(one.used_bytes for one in answered(poll()))
        with subprocess.Popen(
            [sys.executable, "-c", TAKES_A_CONTEXT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert sum(one.used_bytes for one in answered(poll())) > before + 2**26
            process.communicate(b"")
