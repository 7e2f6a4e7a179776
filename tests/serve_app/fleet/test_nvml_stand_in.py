"""What whole programs see of scripted GPUs: they find the stand-in by the name they know the driver's library by."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pynvml

from tests.nvml_stand_in.script import FULL_VALUES, GIB, NvmlScript, ScriptedGpu

RAY_DETECTS = """
import json
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as gpus
print(json.dumps([gpus.get_current_node_num_accelerators(), gpus.get_current_node_accelerator_type()]))
"""
RAY_DASHBOARD_READS = """
import json
from ray.dashboard.modules.reporter.gpu_providers import NvidiaGpuProvider
provider = NvidiaGpuProvider()
assert provider.is_available()
print(json.dumps(provider.get_gpu_utilization()))
"""


def answer_of(program: str) -> Any:
    """The JSON on the last line of what a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    return json.loads(done.stdout.splitlines()[-1])


class TestRay:
    def test_detects_the_gpus_and_their_type(self, nvml: NvmlScript) -> None:
        nvml.devices(ScriptedGpu("GPU-a", product="NVIDIA H100 80GB HBM3"), ScriptedGpu("GPU-b"))
        assert answer_of(RAY_DETECTS) == [2, "H100"]

    def test_detects_none_where_the_driver_does_not_start(self, nvml: NvmlScript) -> None:
        nvml.devices(ScriptedGpu("GPU-a"))
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        assert answer_of(RAY_DETECTS) == [0, None]

    def test_shows_them_in_its_dashboard(self, nvml: NvmlScript) -> None:
        nvml.devices(ScriptedGpu("GPU-a", used_bytes=3 * GIB, processes={7: GIB}, values=FULL_VALUES))
        (gpu,) = answer_of(RAY_DASHBOARD_READS)
        assert (gpu["uuid"], gpu["memory_used"], gpu["utilization_gpu"]) == ("GPU-a", 3 * 1024, 87)


class TestHeadroomGpus:
    def test_shows_scripted_devices_without_a_cluster(self, nvml: NvmlScript) -> None:
        """Exit code 1: more than 80 % of the second one is taken."""
        nvml.devices(ScriptedGpu("GPU-a"), ScriptedGpu("GPU-b", used_bytes=20 * GIB))
        program = "from serve_app.cli import main; main()"
        options = ["gpus", "--once", "--json", "--config", "none.yaml", "--address", "http://127.0.0.1:9"]
        command = [sys.executable, "-c", program, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        seen = [(one["kind"], one["used_bytes"], one["passes"]) for one in json.loads(done.stdout)["devices"]]
        assert (done.returncode, seen) == (1, [("cuda", 0, True), ("cuda", 20 * GIB, False)])
