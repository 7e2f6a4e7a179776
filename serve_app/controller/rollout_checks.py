"""The service group of `headroom validate` after each switch, asked of a gateway at its own address.

Implements `rollout.world.Checks`. It asks with the secret that gateways share, so no key of a person is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from serve_app.config.settings import RolloutSettings
from serve_app.gateway.asgi import SECRET_HEADER
from serve_app.logs import logger
from serve_app.rollout.triggers import CheckFound, Passed
from serve_app.validate.checks import Check, Group, Outcome, Status
from serve_app.validate.limits import Limits

LIMIT_S: Final = 180.0
PAUSES_S: Final = (2.0, 5.0, 10.0)
"""Before what failed is asked again: a queue that is full for a moment says nothing about weights."""
_SERVICE: Final = tuple(check for check in Check if check.group is Group.SERVICE)
_SAYS_NOTHING: Final = ("Status 429", "ConnectError", "ConnectTimeout")
"""A gateway that has too much to do, or is gone."""


class Ask(Protocol):
    """`validate.suite.service_checks` of one gateway."""

    def __call__(
        self, url: str, model: str, checks: Sequence[Check], limits: Limits
    ) -> Awaitable[Sequence[Outcome]]: ...


class LiveChecks:
    """One run at a time, as there is one rollout. `gateways` are the addresses of now."""

    def __init__(
        self,
        *,
        gateways: Callable[[], Sequence[str]],
        settings: Callable[[], RolloutSettings],
        ask: Ask,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gateways = gateways
        self._settings = settings
        self._ask = ask
        self._pause = pause
        self._running: tuple[int, asyncio.Task[tuple[CheckFound, ...]]] | None = None

    async def found(self, rollout_id: int, model: str) -> tuple[CheckFound, ...] | None:
        if self._running is None or self._running[0] != rollout_id:
            self._running = rollout_id, asyncio.get_running_loop().create_task(self._checked(model))
        task = self._running[1]
        return task.result() if task.done() else None

    async def _checked(self, model: str) -> tuple[CheckFound, ...]:
        """Never raises: what cannot be asked is skipped, and says so."""
        if not self._gateways():
            return _skipped("No gateway is registered with the controller.")
        try:
            async with asyncio.timeout(LIMIT_S):
                found = await self._found(model)
        except TimeoutError:
            return _skipped(f"They were not done within {LIMIT_S:.0f} s.")
        except Exception as error:  # noqa: BLE001 - a fault of ours is no fault of the weights
            _log.error("a rollout could not be checked", model=model, error=repr(error))
            return _skipped(f"They could not be asked: {type(error).__name__}.")
        return tuple(_shown(found[check]) for check in _SERVICE)

    async def _found(self, model: str) -> dict[Check, Outcome]:
        """Each try asks the next gateway: the fault may be that one's own."""
        found: dict[Check, Outcome] = {}
        failed = _SERVICE
        for number, pause_s in enumerate((0.0, *PAUSES_S)):
            await self._pause(pause_s)
            gateways = self._gateways()
            url = gateways[number % len(gateways)]
            found |= {one.check: one for one in await self._ask(url, model, failed, _limits(self._settings()))}
            failed = tuple(check for check, one in found.items() if one.finding.status is Status.FAIL)
            if not failed:
                break
        return found


def asks_with(secret: str) -> Ask:
    async def ask(url: str, model: str, checks: Sequence[Check], limits: Limits) -> Sequence[Outcome]:
        from serve_app.validate.suite import service_checks

        return await service_checks(url, model, checks=checks, limits=limits, headers={SECRET_HEADER.decode(): secret})

    return ask


def _limits(settings: RolloutSettings) -> Limits:
    return Limits(
        request_s=settings.check_request_s,
        connect_s=settings.check_connect_s,
        cross_node_s=settings.check_connect_s,
        metrics_s=settings.check_metrics_s,
    )


def _shown(outcome: Outcome) -> CheckFound:
    finding = outcome.finding
    says_nothing = finding.status is Status.FAIL and any(words in finding.reason for words in _SAYS_NOTHING)
    return CheckFound(
        check=outcome.check.value,
        passed=Passed.SKIP if says_nothing else Passed(finding.status.value),
        measured=finding.measured,
        reason=finding.reason,
    )


def _skipped(reason: str) -> tuple[CheckFound, ...]:
    return tuple(CheckFound(check=check.value, passed=Passed.SKIP, reason=reason) for check in _SERVICE)


_log = logger("headroom.rollout")
