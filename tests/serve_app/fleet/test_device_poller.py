"""Polls with a deadline, in a process that can be given up. The driver is the stand-in, the processes are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pynvml
import pytest

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll, Silence
from serve_app.fleet.device_poller import DevicePoller
from serve_app.fleet.poll_process import Known, NoAnswer
from tests.nvml_stand_in.script import FULL_VALUES, NvmlScript, ScriptedGpu

LONG_S = 60.0
"""For polls that must answer, on a busy machine."""
SHORT_S = 0.3
"""For polls that cannot."""
FULL, BARE = ScriptedGpu("GPU-full", values=FULL_VALUES), ScriptedGpu("GPU-bare", address="00000000:02:00.0")

PARENT = """
import psutil, time
from placement.inventory import DeviceKind
from serve_app.fleet.device_poller import DevicePoller
poller = DevicePoller(DeviceKind.CUDA, "n")
assert len(poller.poll(60)) == 1
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def poller(nvml: NvmlScript) -> Iterator[DevicePoller]:
    nvml.devices(FULL, BARE)
    poller = DevicePoller(DeviceKind.CUDA, "n")
    yield poller
    nvml.mend()
    poller.close()


def uuids(polls: tuple[Poll, ...]) -> list[str]:
    return [poll.uuid for poll in polls if isinstance(poll, DeviceSignals)]


def reasons(polls: tuple[Poll, ...]) -> set[str]:
    return {poll.reason for poll in polls if isinstance(poll, Silence)}


def pollers() -> list[psutil.Process]:
    """Processes that poll for this one, those that ended apart."""
    return [child for child in psutil.Process().children() if _polls(child)]


def _polls(process: psutil.Process) -> bool:
    try:
        return "serve_app.fleet.poll_process" in process.cmdline()
    except psutil.Error:  # it has ended
        return False


class TestAPoll:
    def test_reads_every_device_in_another_process(self, poller: DevicePoller) -> None:
        assert uuids(poller.poll(LONG_S)) == ["GPU-full", "GPU-bare"]
        assert uuids(poller.poll(LONG_S)) == ["GPU-full", "GPU-bare"]
        assert len(pollers()) == 1

    def test_sees_what_changes_meanwhile(self, nvml: NvmlScript, poller: DevicePoller) -> None:
        poller.poll(LONG_S)
        nvml.xid("GPU-full", 48)
        nvml.devices(ScriptedGpu("GPU-full", values={**FULL_VALUES, "ecc_1_0": 1}), BARE)
        first = poller.poll(LONG_S)[0]
        assert isinstance(first, DeviceSignals)
        assert (first.ecc_uncorrected, first.xids) == (1, (48,))

    def test_of_the_host_needs_no_driver(self) -> None:
        poller = DevicePoller(DeviceKind.HOST, "n", host_total_bytes=2**30)
        (host,) = poller.poll(LONG_S)
        poller.close()
        assert isinstance(host, DeviceSignals)
        assert (host.device, host.total_bytes) == ("n/host", 2**30)

    def test_leaves_no_process_behind_when_closed(self, poller: DevicePoller) -> None:
        poller.poll(LONG_S)
        poller.close()
        assert pollers() == []


class TestADriverThatHangs:
    def test_makes_every_device_silent_at_the_deadline(self, nvml: NvmlScript, poller: DevicePoller) -> None:
        poller.poll(LONG_S)
        nvml.hang("nvmlDeviceGetTemperature", whom="GPU-bare")
        polls = poller.poll(SHORT_S)
        assert [poll.device for poll in polls] == ["n/gpu-0", "n/gpu-1"]
        assert reasons(polls) == {"no answer within 0.3 s"}

    def test_is_read_again_when_it_answers(self, nvml: NvmlScript, poller: DevicePoller) -> None:
        poller.poll(LONG_S)
        nvml.hang("nvmlDeviceGetCount_v2")
        poller.poll(SHORT_S)
        nvml.mend()
        assert uuids(poller.poll(LONG_S)) == ["GPU-full", "GPU-bare"]

    def test_for_ever_costs_one_process_at_a_time(self, nvml: NvmlScript, poller: DevicePoller) -> None:
        poller.poll(LONG_S)
        nvml.hang("nvmlInitWithFlags")
        nvml.hang("nvmlDeviceGetCount_v2")
        for _ in range(4):
            assert uuids(poller.poll(SHORT_S)) == []
            assert len(pollers()) <= 1


class TestAProcessThatEnds:
    def test_makes_every_device_silent_and_is_replaced(self, poller: DevicePoller) -> None:
        poller.poll(LONG_S)
        (process,) = pollers()
        os.kill(process.pid, signal.SIGSEGV)
        polls = poller.poll(LONG_S)
        assert [poll.device for poll in polls] == ["n/gpu-0", "n/gpu-1"]
        assert reasons(polls) == {f"the poller (process {process.pid}) has ended"}
        assert uuids(poller.poll(LONG_S)) == ["GPU-full", "GPU-bare"]

    def test_is_never_left_behind_by_a_parent_that_was_killed(self, nvml: NvmlScript) -> None:
        nvml.devices(FULL)
        with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            parent.kill()
        assert psutil.wait_procs([child], timeout=LONG_S)[1] == []


class TestADriverThatDoesNotStart:
    def test_makes_known_devices_silent(self, nvml: NvmlScript) -> None:
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        poller = DevicePoller(DeviceKind.CUDA, "n", known={"n/gpu-0": "GPU-full", "n/gpu-1": "GPU-bare"})
        polls = poller.poll(LONG_S)
        poller.close()
        assert [poll.device for poll in polls] == ["n/gpu-0", "n/gpu-1"]
        assert reasons(polls) == {"NVML does not answer: RM has detected an NVML/RM version mismatch."}

    def test_is_asked_again_by_a_new_process_which_loads_it_anew(self, nvml: NvmlScript, poller: DevicePoller) -> None:
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        poller.poll(LONG_S)
        first = {process.pid for process in pollers()}
        nvml.mend()
        assert uuids(poller.poll(LONG_S)) == ["GPU-full", "GPU-bare"]
        assert not first & {process.pid for process in pollers()}

    def test_on_a_node_never_read_makes_its_first_device_silent(self, nvml: NvmlScript, poller: DevicePoller) -> None:
        nvml.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        assert [poll.device for poll in poller.poll(LONG_S)] == ["n/gpu-0"]


class ScriptedProcess:
    """A process that never answers, and lives on until it is let go: no signal ends what hangs in the kernel."""

    def __init__(self, *, is_starting: bool) -> None:
        self.pid = 7
        self.is_starting = is_starting
        self.is_gone = False

    def ask(self, known: Known, *, timeout_s: float) -> tuple[Poll, ...]:
        raise NoAnswer("no answer")

    def end(self) -> None:
        pass

    def has_ended(self, *, timeout_s: float) -> bool:
        return self.is_gone


class Starts:
    """A poller over scripted processes, and those it started."""

    def __init__(self, *, are_slow_to_start: bool = False) -> None:
        self.processes: list[ScriptedProcess] = []
        self._are_slow = are_slow_to_start
        self.poller = DevicePoller(DeviceKind.CUDA, "n", start=self._start)

    def _start(self) -> ScriptedProcess:
        self.processes.append(ScriptedProcess(is_starting=self._are_slow))
        return self.processes[-1]


class TestAProcessThatCannotBeKilled:
    def test_is_never_joined_by_a_second_one(self) -> None:
        starts = Starts()
        polls = [starts.poller.poll(1) for _ in range(5)]
        assert len(starts.processes) == 1
        assert reasons(polls[-1]) == {"the poller before (process 7) still hangs in the driver"}

    def test_is_followed_by_a_new_one_when_the_driver_lets_it_go(self) -> None:
        starts = Starts()
        starts.poller.poll(1)
        starts.processes[0].is_gone = True
        starts.poller.poll(1)
        assert len(starts.processes) == 2


class TestStarting:
    def test_a_process_that_comes_up_slowly_is_left_to_come_up(self) -> None:
        starts = Starts(are_slow_to_start=True)
        assert all(reasons(starts.poller.poll(1)) == {"no answer"} for _ in range(3))
        assert len(starts.processes) == 1

    def test_a_process_that_cannot_be_had_makes_every_device_silent(self) -> None:
        def start() -> ScriptedProcess:
            raise OSError("too many processes")

        polls = DevicePoller(DeviceKind.CUDA, "n", start=start).poll(1)
        assert reasons(polls) == {"no process could be started to poll: too many processes"}
