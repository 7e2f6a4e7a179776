"""The control routes of a replica, over its own HTTP server: bytes in, bytes out. What they do: `weights_switch.py`.

Who may ask is decided by the server around it. A caller that leaves does not stop a change that has begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson
from pydantic import ValidationError

from serve_app.engines.control_wire import (
    CLOSE_PATH,
    FINGERPRINT_PATH,
    OPEN_PATH,
    PREPARE_PATH,
    STATE_PATH,
    SWITCH_PATH,
    CloseAsked,
    NothingAsked,
    OpenAsked,
    PrepareAsked,
    SwitchAsked,
)
from serve_app.engines.switch_values import Opened, Prepared, Refusal, ReplicaState, Said, Switched, SwitchRefused
from serve_app.engines.weights_switch import WeightsSwitch
from tracing.propagation import Parent

Answer = Prepared | Switched | Opened | ReplicaState | Said


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    status: int
    body: bytes


_STATUS: Final = {
    Refusal.INVALID: HTTPStatus.BAD_REQUEST,
    Refusal.CHECKPOINT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Refusal.NOT_LOADED: HTTPStatus.INTERNAL_SERVER_ERROR,
    Refusal.WRONG_ANSWERS: HTTPStatus.INTERNAL_SERVER_ERROR,
    Refusal.LOST: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""All others are 409: the replica is not in the state that the step wants."""


class Control:
    """One replica's control routes."""

    def __init__(self, switch: WeightsSwitch) -> None:
        self._switch = switch
        self._routes: dict[tuple[str, str], Callable[[bytes, Parent | None], Awaitable[Answer]]] = {
            ("GET", STATE_PATH): self._state,
            ("POST", PREPARE_PATH): self._prepare,
            ("POST", CLOSE_PATH): self._close,
            ("POST", SWITCH_PATH): self._change,
            ("POST", OPEN_PATH): self._open,
            ("POST", FINGERPRINT_PATH): self._fingerprint,
        }

    def has(self, method: str, path: str) -> bool:
        return (method, path) in self._routes

    async def answer(self, method: str, path: str, body: bytes, parent: Parent | None) -> ControlAnswer:
        """Of a route that it has. `parent` is the caller's span."""
        try:
            return ControlAnswer(HTTPStatus.OK, orjson.dumps(await self._routes[method, path](body, parent)))
        except SwitchRefused as refused:
            return _refused(refused.code, str(refused), refused.serves)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            return _refused(Refusal.INVALID, f"{where}: {first['msg']}", self._switch.version)

    async def _state(self, body: bytes, parent: Parent | None) -> ReplicaState:
        return self._switch.state()

    async def _prepare(self, body: bytes, parent: Parent | None) -> Prepared:
        asked = PrepareAsked.model_validate_json(body)
        return await self._switch.prepare(asked.path, asked.version, verified=asked.verified)

    async def _close(self, body: bytes, parent: Parent | None) -> ReplicaState:
        return self._switch.close(deadline_s=CloseAsked.model_validate_json(body).deadline_s)

    async def _change(self, body: bytes, parent: Parent | None) -> Switched:
        asked = SwitchAsked.model_validate_json(body)
        return await self._switch.switch(
            asked.version, expected=asked.expected, drain_s=asked.drain_s, limit_s=asked.limit_s, parent=parent
        )

    async def _open(self, body: bytes, parent: Parent | None) -> Opened:
        return self._switch.open(OpenAsked.model_validate_json(body).version)

    async def _fingerprint(self, body: bytes, parent: Parent | None) -> Said:
        NothingAsked.model_validate_json(body)
        return await self._switch.fingerprint()


def _refused(code: Refusal, message: str, serves: str | None) -> ControlAnswer:
    status = _STATUS.get(code, HTTPStatus.CONFLICT)
    error = {
        "message": message,
        "type": status.phrase,
        "param": None,
        "code": code,
        "origin": "engine",
        "serves": serves,
    }
    return ControlAnswer(status, orjson.dumps({"error": error}))
