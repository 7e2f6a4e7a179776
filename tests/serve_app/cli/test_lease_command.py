"""`headroom lease` against a standalone lease server: lists, single steps, and programs run inside a lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from serve_app.leases.client import LeaseClient
from tests.serve_app.leases.processes import LeaseProcess, lease_process

SILENT = "127.0.0.1:9"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LeaseProcess]:
    with lease_process(tmp_path / "leases.db", "GPU-aaaa=24GB", "--min-hold-s=0.5", "--grace-s=3") as process:
        yield process


def headroom(server: LeaseProcess | str, *arguments: str) -> Result:
    address = server if isinstance(server, str) else f"127.0.0.1:{server.port}"
    return CliRunner().invoke(main, ["lease", *arguments], env={"HEADROOM_LEASES": address})


def running(server: LeaseProcess, script: str, *options: str) -> subprocess.Popen[str]:
    """`headroom lease run` as a process of its own, with a Python program in it."""
    program = [sys.executable, "-c", textwrap.dedent(script)]
    command = [sys.executable, "-c", "from serve_app.cli import main; main()", "lease", "run", *options, "--", *program]
    environment = {**os.environ, "HEADROOM_LEASES": f"127.0.0.1:{server.port}"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def leases(server: LeaseProcess) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(headroom(server, "list", "--json").stdout)["leases"]
    return found


def wait_until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


class TestSteps:
    def test_a_lease_is_acquired_listed_renewed_and_released(self, server: LeaseProcess) -> None:
        acquired = headroom(server, "acquire", "--vram", "12GiB", "--ttl", "5m", "--client", "me", "--json")
        lease = json.loads(acquired.stdout)
        assert (lease["vram_reserved_mb"], lease["device"]) == (12_885, "GPU-aaaa")
        assert "12,885" in headroom(server, "list").stdout
        hold = [lease["lease_id"], "--epoch", str(lease["epoch"]), "--client", "me"]
        assert "expires in 300 s" in headroom(server, "renew", *hold).stdout
        assert headroom(server, "release", *hold).exit_code == 0
        assert headroom(server, "list").stdout == "No leases.\n"

    def test_no_room_is_exit_code_1_and_says_how_much_there_is(self, server: LeaseProcess) -> None:
        headroom(server, "acquire", "--vram", "17GB")
        refused = headroom(server, "acquire", "--vram", "1GB")
        assert refused.exit_code == 1
        assert "the best has 280 MB left" in refused.stderr

    def test_another_s_lease_stays(self, server: LeaseProcess) -> None:
        headroom(server, "acquire", "--vram", "1GB", "--client", "me")
        refused = headroom(server, "release", "lease-1", "--epoch", "1", "--client", "you")
        assert refused.exit_code == 1
        assert "belongs to another client" in refused.stderr
        assert len(leases(server)) == 1

    @pytest.mark.parametrize("options", [["--vram", "12"], ["--vram", "big"], ["--vram", "1GB", "--ttl", "soon"], []])
    def test_what_is_no_size_or_duration_is_bad_usage(self, options: list[str]) -> None:
        assert headroom(SILENT, "acquire", *options).exit_code == 2

    def test_nothing_there_is_exit_code_3(self) -> None:
        assert headroom(SILENT, "list").exit_code == 3


class TestRun:
    def test_the_program_sees_its_lease_and_its_exit_code_comes_back(self, server: LeaseProcess) -> None:
        script = """
            import os, sys
            print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["HEADROOM_LEASE_VRAM_MB"])
            sys.exit(7)
        """
        process = running(server, script, "--vram", "2GB")
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (7, "GPU-aaaa 2000\n")
        assert leases(server) == []

    def test_signals_reach_the_program_and_the_lease_is_given_back(self, server: LeaseProcess) -> None:
        process = running(server, "import time; print('up', flush=True); time.sleep(600)", "--vram", "2GB")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode in (1, 128 + signal.SIGINT)  # Python ends an interrupted program by the signal itself
        assert leases(server) == []

    def test_a_lease_is_renewed_for_as_long_as_the_program_runs(self, server: LeaseProcess, tmp_path: Path) -> None:
        script = f"""
            import pathlib, time
            while not pathlib.Path({str(tmp_path / "end")!r}).exists():
                time.sleep(0.05)
        """
        process = running(server, script, "--vram", "2GB", "--ttl", "2s")
        wait_until(lambda: bool(leases(server)))
        began_s = time.monotonic()
        wait_until(lambda: time.monotonic() > began_s + 4)
        assert [lease["lease_id"] for lease in leases(server)] == ["lease-1"]
        (tmp_path / "end").touch()
        process.communicate(timeout=60)
        assert process.returncode == 0

    def test_a_preempted_program_finds_a_notice_and_then_gets_sigterm(self, server: LeaseProcess) -> None:
        script = """
            import json, os, pathlib, signal, sys, time
            def end(number, frame):
                print(json.loads(pathlib.Path(os.environ["HEADROOM_LEASE_NOTICE"]).read_text())["reason"])
                sys.exit(0)
            signal.signal(signal.SIGTERM, end)
            print("up", flush=True)
            time.sleep(600)
        """
        process = running(server, script, "--vram", "17GB", "--ttl", "30m")
        assert process.stdout is not None
        process.stdout.readline()
        client = LeaseClient(f"127.0.0.1:{server.port}")
        asking = {"client": "urgent", "model_name": "m", "vram_mb": 10_000, "priority": 5, "ttl_s": 30.0}
        wait_until(lambda: hasattr(client.acquire(**asking), "lease_id"), within_s=60)  # type: ignore[arg-type]  # by key
        out, _ = process.communicate(timeout=60)
        client.close()
        assert out == "a lease of priority 5 needs the room\n"

    def test_it_ends_its_program_before_its_time_is_over_when_no_server_answers(self, server: LeaseProcess) -> None:
        script = """
            import signal, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("up", flush=True)
            time.sleep(600)
        """
        process = running(server, script, "--vram", "2GB", "--ttl", "4s")
        assert process.stdout is not None
        process.stdout.readline()
        server.end(signal.SIGKILL)
        last_possible_renewal_s = time.monotonic()
        process.wait(timeout=60)
        ended_s = time.monotonic()
        process.communicate()
        server.start()
        assert process.returncode == 128 + signal.SIGKILL
        assert ended_s < last_possible_renewal_s + 4

    def test_the_program_ends_with_the_command_that_runs_it(self, server: LeaseProcess) -> None:
        process = running(server, "import os, time; print(os.getpid(), flush=True); time.sleep(600)", "--vram", "2GB")
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        process.communicate(timeout=60)
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())

    def test_a_program_that_is_not_there_is_exit_code_127(self, server: LeaseProcess) -> None:
        refused = headroom(server, "run", "--vram", "2GB", "--", "no-such-program-here")
        assert refused.exit_code == 127
        assert leases(server) == []

    def test_it_waits_for_room_when_asked_to(self, server: LeaseProcess) -> None:
        first = json.loads(headroom(server, "acquire", "--vram", "17GB", "--client", "me", "--json").stdout)
        process = running(server, "print('at last')", "--vram", "2GB", "--wait")
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for 2,000 MB, 0 s: No device has")
        headroom(server, "release", first["lease_id"], "--epoch", str(first["epoch"]), "--client", "me")
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "at last\n")
