"""Bring a model back for a request, and let the request wait for it within bounds.

One question to the controller per model, however many requests wait. One owner: the gateway's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from serve_app.api.errors import ApiError, Origin, unavailable
from serve_app.api.wire import ModelAction, ModelOutcome
from serve_app.gateway.catalog import Catalog
from serve_app.gateway.control import ControlPlane
from serve_app.gateway.overload import too_many

MAX_WAITING: Final = 512
"""Most requests of one gateway replica that wait for models."""
RETRY_AFTER_S: Final = 5
_BUSY_PAUSE_S: Final = 0.5
_REFUSED_S: Final = 5.0
"""How long a refusal is repeated without asking again."""


class Waker:
    """`clock` is monotonic, in seconds; `timeout_s` is the longest wait of one request."""

    def __init__(self, *, control: ControlPlane, clock: Callable[[], float], timeout_s: float) -> None:
        self._control = control
        self._clock = clock
        self._timeout_s = timeout_s
        self._num_waiting = 0
        self._asking: dict[str, asyncio.Task[ApiError | None]] = {}
        self._serving: dict[str, asyncio.Event] = {}
        self._refused: dict[str, tuple[float, ApiError]] = {}

    def update(self, catalog: Catalog) -> None:
        for model in [model for model in self._serving if model in catalog.serving]:
            self._serving.pop(model).set()

    async def wake(self, model: str) -> ApiError | None:
        """None as soon as the model serves; else why it does not."""
        if self._num_waiting >= MAX_WAITING:
            return too_many(MAX_WAITING)
        until_s, refusal = self._refused.get(model, (0.0, None))
        if refusal is not None and self._clock() < until_s:
            return refusal
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._woken(model)
        except TimeoutError:
            message = f"The model '{model}' is waking up and was not ready within {self._timeout_s:g} s."
            return unavailable(message, code="model_waking", retry_after_s=RETRY_AFTER_S)
        finally:
            self._num_waiting -= 1

    async def _woken(self, model: str) -> ApiError | None:
        serving = self._serving.setdefault(model, asyncio.Event())
        if model not in self._asking:
            task = asyncio.get_running_loop().create_task(self._ask(model))
            self._asking[model] = task
            task.add_done_callback(lambda _: self._asking.pop(model))
        failure = await asyncio.shield(self._asking[model])
        if failure is None:
            await serving.wait()
        return failure

    async def _ask(self, model: str) -> ApiError | None:
        """None once the controller has it under way. Ends by itself when nobody can be waiting any more."""
        until_s = self._clock() + self._timeout_s
        while True:
            told = await self._told(model)
            if told is None:
                message = f"The model '{model}' is asleep, and the controller that wakes it does not answer."
                return unavailable(message, code="controller_unreachable", retry_after_s=2, origin=Origin.CONTROLLER)
            outcome = ModelOutcome(told["outcome"])
            if outcome in (ModelOutcome.DONE, ModelOutcome.ACCEPTED):
                return None
            if outcome is not ModelOutcome.BUSY:
                return self._refuse(model, str(told["message"]))
            if self._clock() > until_s:
                return unavailable(str(told["message"]), code="model_waking", retry_after_s=RETRY_AFTER_S)
            await asyncio.sleep(_BUSY_PAUSE_S)

    async def _told(self, model: str) -> Mapping[str, Any] | None:
        try:
            return await self._control.act(ModelAction.WAKE, model)
        except Exception:  # noqa: BLE001  # whatever the shell's transport raises means the same here
            return None

    def _refuse(self, model: str, reason: str) -> ApiError:
        message = f"The model '{model}' is not served. {reason}"
        refusal = unavailable(message, code="model_refused", origin=Origin.CONTROLLER)
        self._refused[model] = (self._clock() + _REFUSED_S, refusal)
        return refusal
