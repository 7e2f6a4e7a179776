"""`headroom lease run`: a program that lives inside a lease, and never longer than it.

Renews, forwards signals, tells the program of a notice by a file and then by SIGTERM, and kills it before its share
can be granted again. Not covered: this process alone being stopped (SIGSTOP) while the program goes on; then only the
watch of the device keeps the share from being granted, because the program's bytes are still there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import grpc

from serve_app.errors import HeadroomError
from serve_app.fleet.process_memory import LEASE_MARK, SHARE_VARIABLE
from serve_app.leases import tenancy
from serve_app.leases.client import Grant, LeaseClient, LeaseLost, terms_of
from serve_app.leases.clock import SystemClock
from serve_app.leases.tenancy import Act, Tenancy
from serve_app.ops.parent_death import dying_with_us

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
_GPU_UUIDS: Final = ("GPU-", "MIG-")
_MIN_CALL_S: Final = 0.05
_MAX_CALL_S: Final = 2.0
_RECONNECT_S: Final = 1.0


def child_environment(grant: Grant, notice: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """`CUDA_VISIBLE_DEVICES` is left alone where the device is no GPU."""
    variables = {
        "HEADROOM_LEASE_ID": grant.lease_id,
        SHARE_VARIABLE: f"{LEASE_MARK}{grant.lease_id}",
        "HEADROOM_LEASE_EPOCH": str(grant.epoch),
        "HEADROOM_LEASE_CLIENT": grant.client,
        "HEADROOM_LEASE_DEVICE": grant.device,
        "HEADROOM_LEASE_VRAM_MB": str(grant.vram_mb),
        "HEADROOM_LEASE_NOTICE": str(notice),
    }
    if grant.device.startswith(_GPU_UUIDS):
        variables["CUDA_VISIBLE_DEVICES"] = grant.device
    return {**environment, **variables}


class LeasedChild:
    """One run of a program in a lease. `say` shows a line to whoever waits at the terminal."""

    def __init__(self, client: LeaseClient, grant: Grant, *, ttl_s: float, say: Callable[[str], None]) -> None:
        self._client = client
        self._grant = grant
        self._say = say
        self._clock = SystemClock()
        self._tenancy = tenancy.begun(grant.terms, ttl_s=ttl_s, asked_s=grant.asked_s)
        self._woken = threading.Event()
        self._must_look = threading.Event()
        self._is_terminated = False

    def run(self, command: Sequence[str]) -> int:
        """The program's exit code, 128 + n when signal n ended it. The lease is given back in any case."""
        with tempfile.TemporaryDirectory(prefix="headroom-lease-") as folder:
            self._notice = Path(folder) / "notice.json"
            try:
                self._child = self._started(command)
                return self._watched()
            finally:
                self._give_back()

    def _started(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """In a process group of its own, so that what it starts ends with it."""
        environment = child_environment(self._grant, self._notice, os.environ)
        return subprocess.Popen(dying_with_us(command), env=environment, start_new_session=True)  # noqa: S603  # the user's own command

    def _watched(self) -> int:
        before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        threading.Thread(target=self._await_end, daemon=True).start()
        threading.Thread(target=self._await_events, daemon=True).start()
        try:
            while self._child.returncode is None:
                self._step()
        finally:
            self._signal(signal.SIGKILL)  # what it started and left behind has no lease either
            for number, handler in before.items():
                signal.signal(number, handler)
        code = self._child.returncode
        return code if code >= 0 else 128 - code

    def _step(self) -> None:
        now_s = self._clock.now_s()
        act = self._tenancy.act(now_s, is_terminated=self._is_terminated)
        if act is Act.KILL:
            self._say("The lease's time is over: the program is killed.")
            self._signal(signal.SIGKILL)
            self._child.wait()
        elif act is Act.TERMINATE:
            self._terminate()
        elif act is Act.RENEW or (self._must_look.is_set() and not self._tenancy.is_lost):
            self._must_look.clear()
            self._renew()
        else:
            self._woken.wait(self._tenancy.next_s(is_terminated=self._is_terminated) - now_s)
            self._woken.clear()

    def _terminate(self) -> None:
        """The file first, so that a program that handles SIGTERM finds out why."""
        if not self._tenancy.has_notice:
            self._write_notice("no renewal was answered")
        left_s = self._tenancy.kill_at_s - self._clock.now_s()
        self._say(f"The program is asked to end; it has {left_s:.0f} s.")
        self._is_terminated = True
        self._signal(signal.SIGTERM)

    def _renew(self) -> None:
        """Twice under a notice: the server may count on its deadline only when it knows that we know it."""
        told = self._asked(acknowledges=False)
        if told is not None and self._tenancy.deadline_s is not None:
            self._asked(acknowledges=True)
        self._show_notice()

    def _asked(self, *, acknowledges: bool) -> Tenancy | None:
        asked_s = self._clock.now_s()
        grant = self._grant
        try:
            fields = self._client.renew(
                client=grant.client,
                lease_id=grant.lease_id,
                epoch=grant.epoch,
                acknowledges_notice=acknowledges,
                timeout_s=max(_MIN_CALL_S, min(_MAX_CALL_S, self._tenancy.kill_at_s - asked_s)),
            )
        except LeaseLost as error:
            self._tenancy = tenancy.lost(self._tenancy, error.what, now_s=self._clock.now_s())
            return None
        except HeadroomError:
            self._tenancy = tenancy.unanswered(self._tenancy, now_s=self._clock.now_s())
            return None
        self._tenancy = tenancy.renewed(self._tenancy, terms_of(fields), asked_s=asked_s, acknowledged=acknowledges)
        return self._tenancy

    def _show_notice(self) -> None:
        if self._tenancy.has_notice:
            if not self._notice.exists():
                self._say(f"The lease will be taken: {self._tenancy.reason}.")
            self._write_notice(self._tenancy.reason)
        else:
            self._notice.unlink(missing_ok=True)

    def _write_notice(self, reason: str) -> None:
        """Whole or not at all: the program may look at any moment."""
        left_s = max(0.0, self._tenancy.kill_at_s - self._clock.now_s())
        if self._tenancy.deadline_s is not None:
            left_s = min(left_s, max(0.0, self._tenancy.deadline_s - self._clock.now_s()))
        fields = {"reason": reason, "seconds_left": round(left_s, 3), "ends_unix": self._clock.unix_s() + left_s}
        draft = self._notice.with_suffix(".new")
        draft.write_text(json.dumps(fields), encoding="utf-8")
        draft.replace(self._notice)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._signal(signal.Signals(number))

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            pass  # it has just ended

    def _await_end(self) -> None:
        self._child.wait()
        self._woken.set()

    def _await_events(self) -> None:
        """Whatever happens to our lease is looked up by a renewal; so is what may have happened while nobody told."""
        while self._child.returncode is None:
            try:
                for event in self._client.events(self._grant.client):
                    if event.lease.lease_id == self._grant.lease_id and event.kind not in ("granted", "renewed"):
                        self._look()
            except grpc.RpcError:
                self._look()
            threading.Event().wait(_RECONNECT_S)

    def _look(self) -> None:
        self._must_look.set()
        self._woken.set()

    def _give_back(self) -> None:
        grant = self._grant
        try:
            self._client.release(client=grant.client, lease_id=grant.lease_id, epoch=grant.epoch)
        except HeadroomError as error:  # the program's exit code matters more
            self._say(f"The lease was not given back: {error.what} It ends by itself.")
