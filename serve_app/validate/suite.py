"""Runs the checks one after another: what is timed must not wait for another check.

A check whose questions fail is itself a finding: the suite always ends with one outcome for each check asked for.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from serve_app.errors import HeadroomError
from serve_app.validate import ask_devices, ask_models, ask_nodes, ask_service
from serve_app.validate.asker import Asker, asking
from serve_app.validate.checks import Check, Finding, Group, Outcome, Status, skipped
from serve_app.validate.limits import Limits

_QUICK: Final = "Left out with --quick."
Findings = Mapping[Check, Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to look at. `model` None: whichever the modes choose. `trace_folder`: where this machine keeps spans."""

    groups: Collection[Group] = tuple(Group)
    model: str | None = None
    is_quick: bool = False
    is_disruptive: bool = False
    limits: Limits = field(default_factory=Limits)
    trace_folder: Path = Path("~/.headroom/traces")


async def validate(
    address: str, wish: Wish, *, key: str | None = None, trust: ssl.SSLContext | bool = True
) -> tuple[Outcome, ...]:
    """All checks of the groups, in the order of `Check`. Raises: nothing of the cluster's."""
    async with asking(address, key=key, trust=trust) as asker:
        found: dict[Check, Finding] = {}
        for group in Group:
            if group in wish.groups:
                found |= await _GROUPS[group](asker, wish)
    return tuple(Outcome(check=check, finding=found[check]) for check in Check if check in found)


async def service_checks(
    base_url: str,
    model: str | None = None,
    *,
    checks: Collection[Check] = (Check.CHAT, Check.STREAM, Check.CACHE, Check.METRIC_TRACE, Check.ERRORS),
    limits: Limits | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[Outcome, ...]:
    """The checks of the service alone, or those of them named, as a rollout asks for them."""
    made = _service(model, limits or Limits())
    async with asking(base_url, key=key, headers=headers) as asker:
        return tuple([Outcome(check=one, finding=await _found(made[one], asker)) for one in made if one in checks])


_Ask = Callable[[Asker], Awaitable[Finding]]


async def _found(ask: _Ask, asker: Asker) -> Finding:
    """What went wrong with asking is the finding."""
    try:
        return await ask(asker)
    except (httpx.HTTPError, HeadroomError, OSError, TimeoutError) as error:
        what = str(error) or "no answer in time"
        return Finding(status=Status.FAIL, reason=f"{type(error).__name__}: {what}"[:600])
    except (KeyError, TypeError, AttributeError) as error:
        return Finding(status=Status.FAIL, reason=f"A page has not the expected form: {error!r}"[:600])


async def _each(asks: Mapping[Check, _Ask], asker: Asker) -> Findings:
    return {check: await _found(ask, asker) for check, ask in asks.items()}


async def _devices(asker: Asker, wish: Wish) -> Findings:
    limits = wish.limits
    asks: dict[Check, _Ask] = {
        Check.TELEMETRY: lambda asker: ask_devices.telemetry(asker, limits),
        Check.SHARE: lambda asker: ask_devices.share(asker, limits),
        Check.AS_PLANNED: lambda asker: ask_devices.as_planned(asker, limits),
        Check.HEADROOM: ask_devices.headroom,
        Check.IDENTITY: ask_devices.identity,
    }
    return await _each(asks, asker)


async def _models(asker: Asker, wish: Wish) -> Findings:
    found: dict[Check, Finding] = {Check.INFO: await _found(ask_models.info, asker)}
    if wish.is_quick:
        return found | dict.fromkeys((Check.LOAD, Check.UNLOAD, Check.RELOAD, Check.SLEEP_WAKE), skipped(_QUICK))
    found[Check.RELOAD] = await _found(lambda one: ask_models.reload(one, wish.limits, model=wish.model), asker)
    try:
        return found | await ask_models.moved(asker, wish.limits, model=wish.model, is_allowed=wish.is_disruptive)
    except (httpx.HTTPError, HeadroomError) as error:
        failed = Finding(status=Status.FAIL, reason=f"{type(error).__name__}: {error}"[:600])
        return found | dict.fromkeys((Check.LOAD, Check.UNLOAD, Check.SLEEP_WAKE), failed)


def _service(model: str | None, limits: Limits) -> dict[Check, _Ask]:
    return {
        Check.CHAT: lambda asker: ask_service.chat(asker, limits, model=model),
        Check.STREAM: lambda asker: ask_service.stream(asker, limits, model=model),
        Check.CACHE: lambda asker: ask_service.cache(asker, limits, model=model),
        Check.METRIC_TRACE: lambda asker: ask_service.metric_trace(asker, limits, model=model),
        Check.ERRORS: lambda asker: ask_service.errors(asker, limits, model=model),
    }


async def _services(asker: Asker, wish: Wish) -> Findings:
    return await _each(_service(wish.model, wish.limits), asker)


async def _nodes(asker: Asker, wish: Wish) -> Findings:
    limits = wish.limits
    try:
        if await ask_nodes.is_one_node(asker):
            return ask_nodes.all_skipped()
    except (httpx.HTTPError, HeadroomError) as error:
        failed = Finding(status=Status.FAIL, reason=f"The nodes cannot be read: {type(error).__name__}: {error}"[:600])
        return dict.fromkeys(ask_nodes.CROSS_NODE, failed)
    asks: dict[Check, _Ask] = {
        Check.REACH: lambda asker: ask_nodes.reach(asker, limits),
        Check.SHIP: ask_nodes.ship,
        Check.REMOTE_ANSWER: lambda asker: ask_nodes.remote_answer(asker, limits),
        Check.TAKEOVER: lambda asker: ask_nodes.takeover(asker, limits),
        Check.TRACE_CROSSES: lambda asker: ask_nodes.trace(asker, trace_folder=wish.trace_folder),
    }
    return await _each(asks, asker)


_GROUPS: Final[Mapping[Group, Callable[[Asker, Wish], Awaitable[Findings]]]] = {
    Group.DEVICE: _devices,
    Group.MODEL: _models,
    Group.SERVICE: _services,
    Group.CROSS_NODE: _nodes,
}
