"""Which weights one replica serves, and the steps of changing them: prepare, close, switch, open.

The replica's part of a change that is for all replicas or none: it never opens by itself with weights that nobody
decided on. Knows nothing of HTTP, of Ray, nor of other replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn, Protocol

from serve_app.engines.ask_fingerprint import fingerprint_of
from serve_app.engines.fingerprint import Fingerprint, difference
from serve_app.engines.fit import check_fit
from serve_app.engines.gate import Gate
from serve_app.engines.protocol import Reloadable, Reloaded, ReloadFailed, ReloadNotBegun
from serve_app.engines.switch_values import (
    Loaded,
    Opened,
    Prepared,
    Refusal,
    ReplicaState,
    Said,
    Switched,
    SwitchRefused,
    Unproved,
)
from serve_app.errors import BadAnswer, CheckpointRefused, EngineStartFailed
from tracing import names
from tracing.propagation import Parent
from tracing.setup import Exporting
from tracing.spans import Value, operation

LIMIT_S: Final = 120.0
"""Longest time of one reload with its proof, where the caller names none."""


class Fits(Protocol):
    """`check_fit`, or a test's own."""

    def __call__(self, running: Path, new: Path, *, version: str, verified: bool) -> int: ...


class WeightsSwitch:
    """One at a time: a step that comes while another is under way is refused.

    `overdue` is called when the gate stays closed past its deadline, `lost` when nobody knows the weights any more.
    """

    def __init__(
        self,
        engine: Reloadable,
        *,
        model: str,
        path: Path,
        version: str,
        gate: Gate | None = None,
        fits: Fits = check_fit,
        measured: Callable[[], int] | None = None,
        exporting: Exporting | None = None,
    ) -> None:
        """`measured` gives the bytes the replica holds; it runs in a thread. `exporting` None: the process's own."""
        self.gate = gate or Gate()
        self.overdue: Callable[[], None] = lambda: None
        self.lost: Callable[[str], None] = lambda _: None
        self._engine = engine
        self._model = model
        self._fits = fits
        self._measured = measured
        self._exporting = exporting
        self._turn = asyncio.Lock()
        self._serving = Loaded(path=path, version=version)
        self._is_sure = True
        self._num_closings = 0
        self._before: Loaded | None = None
        self._prepared: Loaded | None = None

    @property
    def version(self) -> str | None:
        """Of the weights that answer, None when nobody is sure. While anything runs it does not change."""
        return self._serving.version if self._is_sure else None

    def state(self) -> ReplicaState:
        return ReplicaState(
            model=self._model,
            version=self.version,
            before=self._before.version if self._before is not None else None,
            prepared=self._prepared.version if self._prepared is not None else None,
            is_open=self.gate.is_open,
            is_changing=self._turn.locked(),
            num_running=self.gate.num_running,
            num_waiting=self.gate.num_waiting,
        )

    async def prove(self, expected: Fingerprint | None) -> Fingerprint:
        """After a start, restart or wake: what the weights say, which is remembered.

        `expected` None: nobody knows what they should say, so only that they answer is proved.
        Raises: EngineStartFailed if they say something else.
        """
        try:
            found = await fingerprint_of(self._engine, self._model)
        except BadAnswer as error:
            raise EngineStartFailed(error.what, expected=error.expected, advice=error.advice) from error
        if expected is not None and (why := difference(expected, found)):
            raise EngineStartFailed(
                f"The weights {self._serving.version} of {self._model!r} do not say what they should: {why}",
                expected="Expected the answers that were recorded when they were rolled out, or first served here.",
                advice="Verify the checkpoint with `headroom checkpoints verify`. If the machine has changed and "
                "not the weights, `headroom models unload` and `load` let the next start be believed.",
            )
        self._serving = replace(self._serving, fingerprint=expected or found)
        return found

    async def prepare(self, path: Path, version: str, *, verified: bool = False) -> Prepared:
        """Looks at everything that can be looked at beforehand. Changes nothing, traffic goes on."""
        async with self._alone():
            try:
                num_bytes = await asyncio.to_thread(
                    self._fits, self._serving.path, path, version=version, verified=verified
                )
            except CheckpointRefused as error:
                raise self._refused(Refusal.CHECKPOINT, str(error)) from error
            self._prepared = Loaded(path=path, version=version)
            return Prepared(version=version, num_bytes=num_bytes)

    def close(self, *, deadline_s: float) -> ReplicaState:
        """New requests wait from now on. Not open after `deadline_s`: `overdue` is called."""
        if self._turn.locked():
            raise self._refused(Refusal.BUSY, "Another change of the weights is under way.")
        self._num_closings += 1
        self.gate.close(deadline_s=deadline_s, on_overdue=self.overdue)
        return self.state()

    async def switch(
        self,
        version: str,
        *,
        expected: Fingerprint | None,
        drain_s: float,
        limit_s: float = LIMIT_S,
        parent: Parent | None = None,
    ) -> Switched:
        """Change to weights that were prepared, or served before. The gate stays closed, whatever happens.

        Raises: SwitchRefused, which says what serves then.
        """
        async with self._alone():
            new = self._to_switch_to(version, expected)
            span = names.RELOAD_MODEL_SPAN.format(self._model)
            facts: dict[str, Value] = {names.WEIGHTS_VERSION: version, names.TRIGGER: "rollout"}
            with operation(span, facts, parent=parent, exporting=self._exporting):
                return await self._switch(new, drain_s, limit_s)

    def open(self, version: str) -> Opened:
        """Let everybody in, if `version` is what answers."""
        if self._turn.locked():
            raise self._refused(Refusal.BUSY, "Another change of the weights is under way.")
        if version != self.version:
            raise self._refused(Refusal.OTHER_WEIGHTS, f"This replica has {self.version or 'unknown weights'}.")
        num_waited = self.gate.num_waiting
        self.gate.open()
        return Opened(version=version, num_waited=num_waited)

    async def fingerprint(self) -> Said:
        """Of what answers now, gate open or closed."""
        async with self._alone():
            self._check_sure()
            try:
                return Said(version=self._serving.version, fingerprint=await fingerprint_of(self._engine, self._model))
            except BadAnswer as error:
                raise self._refused(Refusal.WRONG_ANSWERS, str(error)) from error

    async def settle(self, in_force: Callable[[], Awaitable[str | None]], *, ask_again_s: float) -> None:
        """The gate is overdue: ask which version is in force until somebody knows, then serve that one.

        `in_force` gives None while nobody knows. Ends early when somebody opens the gate, or closes it anew.
        """
        closing = self._num_closings
        while not self.gate.is_open and closing == self._num_closings:
            async with self._turn:  # asked within: no step may begin before the answer is acted on
                version = await in_force()
                if version is not None and not self.gate.is_open:
                    await self._bring(version)
                    return
            await asyncio.sleep(ask_again_s)

    # -- steps of a switch ---------------------------------------------------------------------------

    def _to_switch_to(self, version: str, expected: Fingerprint | None) -> Loaded:
        new = self._known(version)
        if new is None:
            raise self._refused(Refusal.NOT_PREPARED, f"The weights {version} were not prepared here.")
        if self.gate.is_open:
            raise self._refused(Refusal.NOT_CLOSED, "The gate is open: weights change behind a closed gate only.")
        self._check_sure()
        return replace(new, fingerprint=expected or new.fingerprint)

    def _check_sure(self) -> None:
        if not self._is_sure:
            raise self._refused(Refusal.LOST, "Nobody knows which weights this replica has.")

    async def _switch(self, new: Loaded, drain_s: float, limit_s: float) -> Switched:
        began_s = time.monotonic()
        await self._drained(drain_s)
        old = await self._with_fingerprint(limit_s)
        drained_s = time.monotonic() - began_s
        self._is_sure = False  # until the new weights are proved
        try:
            timing, found, proof_s = await self._loaded(new, drain_s=max(1.0, drain_s - drained_s), limit_s=limit_s)
        except ReloadNotBegun as error:
            self._is_sure = True
            raise self._refused(Refusal.NOT_DRAINED, str(error)) from error
        except Unproved as error:
            await self._back(old, error, limit_s)
        self._now(new, found)
        self._prepared = None
        return Switched(
            version=new.version,
            pause_s=drained_s + timing.pause_s,
            reload_s=timing.reload_s,
            resume_s=timing.resume_s,
            fingerprint_s=proof_s,
            measured_bytes=await asyncio.to_thread(self._measured) if self._measured is not None else None,
            fingerprint=found,
        )

    async def _drained(self, drain_s: float) -> None:
        try:
            async with asyncio.timeout(drain_s):
                await self.gate.drained()
        except TimeoutError as error:
            message = f"{self.gate.num_running} requests still ran after {drain_s:g} s."
            raise self._refused(Refusal.NOT_DRAINED, message) from error

    async def _with_fingerprint(self, limit_s: float) -> Loaded:
        """What serves now, with what it says, so that it can be proved when it comes back."""
        if self._serving.fingerprint is not None:
            return self._serving
        try:
            async with asyncio.timeout(limit_s):
                found = await fingerprint_of(self._engine, self._model)
        except (BadAnswer, TimeoutError) as error:
            raise self._refused(
                Refusal.WRONG_ANSWERS, f"The weights that serve give no fingerprint: {error}"
            ) from error
        self._serving = replace(self._serving, fingerprint=found)
        return self._serving

    async def _loaded(self, new: Loaded, *, drain_s: float, limit_s: float) -> tuple[Reloaded, Fingerprint, float]:
        """Load and prove. Raises: ReloadNotBegun, Unproved."""
        try:
            async with asyncio.timeout(limit_s):
                timing = await self._engine.reload(new.path, drain_s=drain_s)
                began_s = time.monotonic()
                found = await fingerprint_of(self._engine, self._model)
                proof_s = time.monotonic() - began_s
        except (ReloadFailed, TimeoutError) as error:
            why = str(error) or f"the engine did not load them within {limit_s:g} s."
            raise Unproved(Refusal.NOT_LOADED, f"The weights {new.version} were not loaded: {why}") from error
        except BadAnswer as error:
            raise Unproved(Refusal.WRONG_ANSWERS, f"The weights {new.version} do not answer: {error}") from error
        if new.fingerprint is not None and (why := difference(new.fingerprint, found)):
            raise Unproved(Refusal.WRONG_ANSWERS, f"The weights {new.version} say something else: {why}")
        return timing, found, proof_s

    async def _back(self, old: Loaded, cause: Unproved, limit_s: float) -> NoReturn:
        """Raises: SwitchRefused, with the old weights loaded and proved, or with nothing known."""
        try:
            await self._loaded(old, drain_s=limit_s, limit_s=limit_s)
        except (Unproved, ReloadNotBegun) as error:
            message = f"{cause} The old weights {old.version} did not come back: {error}"
            self.lost(message)
            raise self._refused(Refusal.LOST, message) from error
        self._is_sure = True
        raise self._refused(cause.code, str(cause)) from cause

    async def _bring(self, version: str) -> None:
        """Serve `version` and open, or be lost."""
        if version != self.version:
            wanted = self._known(version)
            if wanted is None:
                self.lost(f"The weights {version} are in force, and were never prepared here.")
                return
            self._is_sure = False
            try:
                await self.gate.drained()
                _, found, _ = await self._loaded(wanted, drain_s=LIMIT_S, limit_s=LIMIT_S)
            except (Unproved, ReloadNotBegun) as error:
                self.lost(f"The weights {version} are in force, and cannot be loaded: {error}")
                return
            self._now(wanted, found)
        self.gate.open()

    def _now(self, new: Loaded, found: Fingerprint) -> None:
        """These answer from here on. What answered before can be gone back to."""
        if new.version != self._serving.version:
            self._before = self._serving
        self._serving, self._is_sure = replace(new, fingerprint=found), True

    def _known(self, version: str) -> Loaded | None:
        ever = (self._serving, self._prepared, self._before)
        return next((one for one in ever if one is not None and one.version == version), None)

    def _refused(self, code: Refusal, message: str) -> SwitchRefused:
        return SwitchRefused(code, message, serves=self.version)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._turn.locked():
            raise self._refused(Refusal.BUSY, "Another change of the weights is under way.")
        async with self._turn:
            yield
