"""Asks one engine replica to change its weights, step by step, over its own HTTP server.

Every call has a deadline and ends in an answer or in `ReplicaCallFailed`. Decides nothing; the steps' order is the
caller's business. The current span goes along as `traceparent`.
"""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from pydantic import BaseModel, TypeAdapter, ValidationError

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
    RefusedAnswer,
    SwitchAsked,
)
from serve_app.engines.fingerprint import Fingerprint
from serve_app.engines.switch_values import Opened, Prepared, Refusal, ReplicaState, Said, Switched
from tracing.spans import current_headers

SHORT_S: Final = 5.0
"""Deadline of what only reads or sets a state."""
FINGERPRINT_S: Final = 60.0
PREPARE_S: Final = 300.0
"""Reads every byte of the checkpoint where the node's store has not."""
MARGIN_S: Final = 10.0
"""Beyond what a switch may take by its own limits: the way there and back, and looking at memory."""
_Answer = TypeVar("_Answer")
_PREPARED: Final = TypeAdapter(Prepared)
_SWITCHED: Final = TypeAdapter(Switched)
_OPENED: Final = TypeAdapter(Opened)
_STATE: Final = TypeAdapter(ReplicaState)
_SAID: Final = TypeAdapter(Said)


class Trouble(StrEnum):
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    STRANGE = "strange"
    """It answered, but not as a replica does."""


class ReplicaCallFailed(Exception):
    """`refusal` and `serves` are the replica's own words, both None unless `trouble` is REFUSED.

    `serves` None with a refusal: the replica does not know its weights. After UNREACHABLE and TIMED_OUT the step may
    have been done or not: ask for the state.
    """

    def __init__(
        self, message: str, *, trouble: Trouble, refusal: Refusal | None = None, serves: str | None = None
    ) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.refusal = refusal
        self.serves = serves


class ReplicaClient:
    """Of one replica. The session is the caller's and outlives it."""

    def __init__(self, session: aiohttp.ClientSession, *, url: str, secret: str) -> None:
        self._session = session
        self._url = url
        self._secret = secret

    async def state(self) -> ReplicaState:
        return await self._call("GET", STATE_PATH, None, _STATE, SHORT_S)

    async def prepare(self, path: Path, version: str, *, verified: bool, deadline_s: float = PREPARE_S) -> Prepared:
        """`verified`: the node's store has read every byte of `path` and found it right."""
        asked = PrepareAsked(path=path, version=version, verified=verified)
        return await self._call("POST", PREPARE_PATH, asked, _PREPARED, deadline_s)

    async def close(self, *, deadline_s: float) -> ReplicaState:
        """New requests wait. Not opened within `deadline_s`, the replica asks the controller what is in force."""
        return await self._call("POST", CLOSE_PATH, CloseAsked(deadline_s=deadline_s), _STATE, SHORT_S)

    async def switch(self, version: str, *, expected: Fingerprint | None, drain_s: float, limit_s: float) -> Switched:
        """`limit_s` is for the reload with its proof, and again for going back when that fails."""
        asked = SwitchAsked(version=version, expected=expected, drain_s=drain_s, limit_s=limit_s)
        deadline_s = drain_s + 3 * limit_s + MARGIN_S  # a first fingerprint of the old weights, the new, the old again
        return await self._call("POST", SWITCH_PATH, asked, _SWITCHED, deadline_s)

    async def open(self, version: str) -> Opened:
        """Refused where the replica has other weights."""
        return await self._call("POST", OPEN_PATH, OpenAsked(version=version), _OPENED, SHORT_S)

    async def fingerprint(self) -> Said:
        return await self._call("POST", FINGERPRINT_PATH, NothingAsked(), _SAID, FINGERPRINT_S)

    async def _call(
        self, method: str, path: str, asked: BaseModel | None, form: TypeAdapter[_Answer], deadline_s: float
    ) -> _Answer:
        status, body = await self._exchanged(method, path, asked, deadline_s)
        try:
            if status == HTTPStatus.OK:
                return form.validate_json(body)
            error = RefusedAnswer.model_validate_json(body).error
        except ValidationError as problem:
            said = body[:200].decode(errors="replace")
            raise self._failed(path, f"answered {status} with {said!r}", Trouble.STRANGE) from problem
        raise ReplicaCallFailed(error.message, trouble=Trouble.REFUSED, refusal=error.code, serves=error.serves)

    async def _exchanged(self, method: str, path: str, asked: BaseModel | None, deadline_s: float) -> tuple[int, bytes]:
        options: dict[str, Any] = {
            "headers": {"x-headroom-internal": self._secret, **current_headers()},
            "timeout": aiohttp.ClientTimeout(total=deadline_s),
            "allow_redirects": False,
        }
        if asked is not None:
            options["data"] = asked.model_dump_json().encode()
        try:
            async with self._session.request(method, self._url + path, **options) as answer:
                return answer.status, await answer.read()
        except TimeoutError as error:
            raise self._failed(path, f"did not answer within {deadline_s:g} s", Trouble.TIMED_OUT) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(path, f"cannot be reached ({error!r})", Trouble.UNREACHABLE) from error

    def _failed(self, path: str, what: str, trouble: Trouble) -> ReplicaCallFailed:
        return ReplicaCallFailed(f"The replica at {self._url} {what} when asked for {path}.", trouble=trouble)
