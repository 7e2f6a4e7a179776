"""From how a program ended to why, in words: pure, so that each kind of failure is told apart in one place."""

from __future__ import annotations

import signal
from typing import Final

from serve_app.jobs.job import Ending, JobReason
from serve_app.jobs.messages import Failed
from serve_app.ops.parent_death import NOT_STARTED

_DISK_FULL_WORDS: Final = ("No space left on device", "Errno 28", "Disk quota exceeded")


def ending_of(exit_status: int, *, stopped: Ending | None, failed: Failed | None, last_lines: str) -> Ending:
    """`stopped` is why we ended it, if we did; `failed` what it told before its end.

    What we did goes before what it told, and that before its exit status.
    """
    if stopped is not None:
        message = _with_lines(stopped.message, last_lines)
        return Ending(reason=stopped.reason, message=message, exit_status=exit_status)
    if failed is not None:
        message = " ".join(filter(None, (failed.what, failed.expected, failed.advice)))
        return Ending(reason=JobReason.SAID_SO, message=message, exit_status=exit_status)
    if exit_status == 0:
        return Ending(reason=JobReason.DONE, message="Its program ended well.", exit_status=0)
    reason, message = _failure(exit_status, last_lines)
    return Ending(reason=reason, message=_with_lines(message, last_lines), exit_status=exit_status)


def _failure(exit_status: int, last_lines: str) -> tuple[JobReason, str]:
    if exit_status == -signal.SIGKILL:
        advice = "Nobody of us did: most likely its machine ran out of memory. Ask for more `num_bytes`, or use less."
        return JobReason.KILLED, f"Its program was killed by SIGKILL. {advice}"
    if exit_status < 0:
        return JobReason.KILLED, f"Its program was ended by {_signal_name(-exit_status)}, which nobody of us sent."
    if any(words in last_lines for words in _DISK_FULL_WORDS):
        return JobReason.DISK_FULL, f"Its program found the disk full and ended with status {exit_status}. Make room."
    if exit_status in NOT_STARTED:
        return JobReason.NOT_STARTED, "Its program cannot be started."
    return JobReason.EXITED, f"Its program ended with status {exit_status}."


def _with_lines(message: str, last_lines: str) -> str:
    return f"{message} Its last lines:\n{last_lines}" if last_lines else f"{message} It printed nothing."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
