"""Real programs as jobs: what they say, how they end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from serve_app.fleet.process_memory import marked_processes
from serve_app.jobs import changes
from serve_app.jobs.endings import ending_of
from serve_app.jobs.job import GIB, Ending, JobKind, JobLimits, JobReason, JobSpec, Moment, Placed
from serve_app.jobs.log_file import read_log
from serve_app.jobs.messages import Progress, Result, Said, Saved, line_of
from serve_app.jobs.ports import Ended, RunOrder
from serve_app.jobs.program import LEAST_FREE_BYTES, Program, environment, mark_of

PLACED = Placed(node="node-1", devices=("node-1/gpu-0",), epoch=1, uuids=("GPU-aaaa",))
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
PATIENT = JobLimits(run_s=100.0, silence_s=100.0)
SAY = "from serve_app.jobs.messages import *\ndef say(m): print(line_of(m), flush=True)\n"


def order(script: str, tmp_path: Path, *, limits: JobLimits = PATIENT, command: tuple[str, ...] = ()) -> RunOrder:
    spec = JobSpec(
        kind=JobKind.SCRIPT,
        command=command or (sys.executable, "-c", SAY + textwrap.dedent(script)),
        num_bytes=GIB,
        limits=limits,
        config='{"steps": 3}',
        resume_from="/models/mini/checkpoint-2",
    )
    job = changes.submitted(f"job-{tmp_path.name}-{os.getpid()}", spec, at=Moment(0.0, 0.0))
    return RunOrder(job=changes.scheduled(job, PLACED, at=Moment(0.0, 0.0)), placed=PLACED, traceparent=TRACEPARENT)


async def heard(program: Program) -> tuple[list[Said], Ending]:
    events = [event async for event in program.events()]
    last = events.pop()
    assert isinstance(last, Ended)
    return [event for event in events if not isinstance(event, Ended)], last.ending


async def outcome(tmp_path: Path, script: str, *, limits: JobLimits = PATIENT) -> Ending:
    return (await heard(Program(order(script, tmp_path, limits=limits), folder=tmp_path)))[1]


def log_of(folder: Path) -> str:
    return read_log(folder, offset=0, max_bytes=1 << 20).text


class TestWhatItSays:
    async def test_is_heard_in_order_and_all_else_is_its_log(self, tmp_path: Path) -> None:
        script = """
            import sys
            print("reading data")
            say(Progress(step=1, num_steps=2, metrics={"loss": 2.5}))
            print("careful", file=sys.stderr)
            say(Saved(path="/c", step=2, weights_version="0" * 12))
            say(Result(value={"accuracy": 1}))
        """
        said, ending = await heard(Program(order(script, tmp_path), folder=tmp_path))
        assert [type(one) for one in said] == [Progress, Saved, Result]
        assert ending.reason is JobReason.DONE
        log = log_of(tmp_path)
        assert "reading data\n" in log
        assert "careful\n" in log
        assert "@headroom" not in log

    async def test_is_heard_though_another_stream_has_an_unfinished_line(self, tmp_path: Path) -> None:
        script = """
            import sys
            print("50 %", end="\\r", file=sys.stderr, flush=True)
            say(Progress(step=1, num_steps=2))
        """
        assert len((await heard(Program(order(script, tmp_path), folder=tmp_path)))[0]) == 1

    async def test_that_looks_like_a_message_and_is_none_is_log_with_a_remark(self, tmp_path: Path) -> None:
        assert (await outcome(tmp_path, "print('@headroom {}')")).reason is JobReason.DONE
        assert "is none\n@headroom {}\n" in log_of(tmp_path)

    async def test_in_thousands_loses_nothing(self, tmp_path: Path) -> None:
        script = "for step in range(3000): say(Progress(step=step, num_steps=3000))"
        said, _ = await heard(Program(order(script, tmp_path), folder=tmp_path))
        assert len(said) == 3000


class TestItsEnvironment:
    async def test_tells_what_to_do_and_where(self, tmp_path: Path) -> None:
        script = """
            import os
            names = ("HEADROOM_JOB", "HEADROOM_JOB_FOLDER", "HEADROOM_RESUME_FROM", "HEADROOM_JOB_CONFIG",
                     "HEADROOM_SHARE", "TRACEPARENT", "CUDA_VISIBLE_DEVICES")
            say(Result(value={name: os.environ.get(name) for name in names} | {"cwd": os.getcwd()}))
        """
        asked = order(script, tmp_path)
        said, _ = await heard(Program(asked, folder=tmp_path))
        assert isinstance(said[0], Result)
        assert said[0].value == {
            "HEADROOM_JOB": asked.job.id,
            "HEADROOM_JOB_FOLDER": str(tmp_path),
            "HEADROOM_RESUME_FROM": "/models/mini/checkpoint-2",
            "HEADROOM_JOB_CONFIG": '{"steps": 3}',
            "HEADROOM_SHARE": mark_of(asked.job.id),
            "TRACEPARENT": TRACEPARENT,
            "CUDA_VISIBLE_DEVICES": "GPU-aaaa",
            "cwd": str(tmp_path),
        }

    def test_has_nothing_of_ray_s_and_of_our_secrets(self, tmp_path: Path) -> None:
        inherited = {"RAY_AUTH_TOKEN": "t", "HEADROOM_KEY": "k", "HEADROOM_HOME": "/home", "PATH": "/bin"}
        found = environment(order("", tmp_path), tmp_path, inherited)
        assert not {"RAY_AUTH_TOKEN", "HEADROOM_KEY"} & found.keys()
        assert (found["HEADROOM_HOME"], found["PATH"]) == ("/home", "/bin")


class TestHowItFails:
    async def test_with_an_exit_status_and_its_last_lines(self, tmp_path: Path) -> None:
        ending = await outcome(tmp_path, "raise SystemExit('no such data')")
        assert (ending.reason, ending.exit_status) == (JobReason.EXITED, 1)
        assert "status 1" in ending.message
        assert "no such data" in ending.message

    async def test_by_saying_so(self, tmp_path: Path) -> None:
        script = "say(Failed(what='No data at /d.', advice='Name another.')); raise SystemExit(1)"
        ending = await outcome(tmp_path, script)
        assert (ending.reason, ending.message) == (JobReason.SAID_SO, "No data at /d. Name another.")

    async def test_killed_as_the_kernel_does_without_memory(self, tmp_path: Path) -> None:
        ending = await outcome(tmp_path, "import os; os.kill(os.getpid(), 9)")
        assert ending.reason is JobReason.KILLED
        assert "ran out of memory" in ending.message

    async def test_hung(self, tmp_path: Path) -> None:
        ending = await outcome(tmp_path, "import time; time.sleep(600)", limits=replace(PATIENT, silence_s=0.8))
        assert ending.reason is JobReason.HUNG
        assert "0.8 s" in ending.message

    async def test_too_long_though_it_talks(self, tmp_path: Path) -> None:
        script = "import time\nwhile True: print('on', flush=True); time.sleep(0.05)"
        ending = await outcome(tmp_path, script, limits=replace(PATIENT, run_s=1.0))
        assert ending.reason is JobReason.TOO_LONG

    async def test_not_started(self, tmp_path: Path) -> None:
        asked = order("", tmp_path, command=("no-such-program",))
        ending = (await heard(Program(asked, folder=tmp_path)))[1]
        assert ending.reason is JobReason.NOT_STARTED
        assert "'no-such-program' cannot be started: No such file" in ending.message

    async def test_with_a_disk_it_fills(self, tmp_path: Path) -> None:
        left = iter([LEAST_FREE_BYTES, LEAST_FREE_BYTES - 1])
        program = Program(
            order("import time; time.sleep(600)", tmp_path),
            folder=tmp_path,
            free_bytes=lambda _: next(left, 0),
        )
        assert (await heard(program))[1].reason is JobReason.DISK_FULL

    async def test_before_it_begins_where_the_disk_is_full(self, tmp_path: Path) -> None:
        program = Program(order("open('mark', 'w')", tmp_path), folder=tmp_path, free_bytes=lambda _: 0)
        assert (await heard(program))[1].reason is JobReason.DISK_FULL
        assert not (tmp_path / "mark").exists()

    def test_with_a_disk_that_was_full_for_itself(self) -> None:
        words = "OSError: [Errno 28] No space left on device"
        assert ending_of(1, stopped=None, failed=None, last_lines=words).reason is JobReason.DISK_FULL


class TestStopping:
    async def test_is_asked_for_politely_and_the_program_may_say_more(self, tmp_path: Path) -> None:
        script = """
            import signal, sys, time
            def end(number, frame):
                say(Saved(path="/c", step=7, weights_version="0" * 12))
                sys.exit(0)
            signal.signal(signal.SIGTERM, end)
            say(Progress(step=1, num_steps=9))
            time.sleep(600)
        """
        said, ending = await self._stopped(tmp_path, script, grace_s=60.0)
        assert isinstance(said[-1], Saved)
        assert ending.exit_status == 0

    async def test_kills_what_does_not_go_with_all_it_started(self, tmp_path: Path) -> None:
        script = """
            import signal, subprocess, sys, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            say(Progress(step=1, num_steps=9))
            time.sleep(600)
        """
        _, ending = await self._stopped(tmp_path, script, grace_s=0.2)
        assert ending.exit_status == -9
        assert mark_of(order("", tmp_path).job.id) not in marked_processes()

    async def test_after_the_end_does_nothing(self, tmp_path: Path) -> None:
        program = Program(order("", tmp_path), folder=tmp_path)
        assert (await heard(program))[1].reason is JobReason.DONE
        await program.stop(grace_s=1.0)

    async def test_by_going_away_ends_the_program_too(self, tmp_path: Path) -> None:
        program = Program(
            order("import time, os; say(Result(value={'pid': os.getpid()})); time.sleep(600)", tmp_path),
            folder=tmp_path,
        )
        events = program.events()
        first = await anext(events)
        assert isinstance(first, Result)
        await events.aclose()  # type: ignore[attr-defined]  # an async generator, told as an iterator
        assert not _lives(first.value["pid"])

    @staticmethod
    async def _stopped(tmp_path: Path, script: str, *, grace_s: float) -> tuple[list[Said], Ending]:
        """Stopped once it has said its first word."""
        program = Program(order(script, tmp_path), folder=tmp_path)
        said: list[Said] = []
        stopping: list[asyncio.Task[None]] = []
        async for event in program.events():
            if isinstance(event, Ended):
                return said, event.ending
            said.append(event)
            if not stopping:
                stopping.append(asyncio.create_task(program.stop(grace_s=grace_s)))
        raise AssertionError("no end")


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class TestTheShellIsNeverAsked:
    async def test_so_its_signs_are_plain_words(self, tmp_path: Path) -> None:
        asked = order("", tmp_path, command=("echo", "$HOME; touch mark", "`id`"))
        assert (await heard(Program(asked, folder=tmp_path)))[1].reason is JobReason.DONE
        assert "$HOME; touch mark `id`\n" in log_of(tmp_path)
        assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("status", [-15, -11])
def test_signals_have_their_names(status: int) -> None:
    ending = ending_of(status, stopped=None, failed=None, last_lines="")
    assert ("SIGTERM" if status == -15 else "SIGSEGV") in ending.message


def test_messages_stay_one_line() -> None:
    assert "\n" not in line_of(Result(value={"text": "a\nb"}))
