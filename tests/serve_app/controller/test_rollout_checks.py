"""The service is checked after a switch: once for each rollout, and what failed is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from serve_app.config.settings import RolloutSettings
from serve_app.controller.rollout_checks import PAUSES_S, LiveChecks
from serve_app.rollout.triggers import CheckFound, Passed
from serve_app.validate.checks import Check, Finding, Group, Outcome, Status, skipped
from serve_app.validate.limits import Limits

SERVICE = [check for check in Check if check.group is Group.SERVICE]
GOOD = Finding(status=Status.PASS, measured="0.1 s")
BAD = Finding(status=Status.FAIL, reason="Status 500: broken.")
Answer = Callable[[Check, int], Finding]


class Scene:
    """`answer` says what a check finds at its n-th asking, from 1."""

    def __init__(self, answer: Answer, *, gateways: Sequence[str] = ("http://gateway",)) -> None:
        self.asked: list[tuple[str, str, tuple[Check, ...], Limits]] = []
        self.pauses_s: list[float] = []
        self._answer = answer
        self.checks = LiveChecks(
            gateways=lambda: gateways,
            settings=lambda: RolloutSettings(check_request_s=9.0),
            ask=self,
            pause=self._pause,
        )

    async def __call__(self, url: str, model: str, checks: Sequence[Check], limits: Limits) -> Sequence[Outcome]:
        self.asked.append((url, model, tuple(checks), limits))
        return [Outcome(check=one, finding=self._answer(one, len(self.asked))) for one in checks]

    async def _pause(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)

    async def found(self, rollout_id: int = 1) -> dict[str, CheckFound]:
        found = await self.checks.found(rollout_id, "mini")
        for _ in range(50):
            if found is not None:
                break
            await asyncio.sleep(0)
            found = await self.checks.found(rollout_id, "mini")
        assert found is not None
        return {one.check: one for one in found}


class TestTheChecksAfterASwitch:
    async def test_are_the_service_group_asked_of_a_gateway_within_the_limits_of_the_settings(self) -> None:
        scene = Scene(lambda *_: GOOD)
        found = await scene.found()
        assert list(found) == [one.value for one in SERVICE]
        assert {one.passed for one in found.values()} == {Passed.PASS}
        ((url, model, checks, limits),) = scene.asked
        assert (url, model, list(checks), limits.request_s) == ("http://gateway", "mini", SERVICE, 9.0)

    async def test_are_made_once_for_each_rollout(self) -> None:
        scene = Scene(lambda *_: GOOD)
        assert await scene.found(1) == await scene.found(1)
        assert len(scene.asked) == 1
        await scene.found(2)
        assert len(scene.asked) == 2

    async def test_are_under_way_before_they_are_known(self) -> None:
        assert await Scene(lambda *_: GOOD).checks.found(1, "mini") is None

    async def test_ask_again_only_for_what_failed(self) -> None:
        scene = Scene(lambda check, time: BAD if check is Check.CHAT and time == 1 else GOOD)
        assert {one.passed for one in (await scene.found()).values()} == {Passed.PASS}
        assert [checks for _, _, checks, _ in scene.asked] == [tuple(SERVICE), (Check.CHAT,)]

    async def test_fail_with_their_reason_when_they_go_on_failing(self) -> None:
        scene = Scene(lambda check, _: BAD if check is Check.CHAT else GOOD)
        found = await scene.found()
        assert (found["service.chat"].passed, found["service.chat"].reason) == (Passed.FAIL, BAD.reason)
        assert scene.pauses_s == [0.0, *PAUSES_S]

    async def test_ask_another_gateway_each_time(self) -> None:
        scene = Scene(lambda *_: BAD, gateways=("http://a", "http://b"))
        await scene.found()
        assert [url for url, *_ in scene.asked] == ["http://a", "http://b", "http://a", "http://b"]

    @pytest.mark.parametrize("reason", ["Mode 'fast': Status 429: too many requests.", "ConnectError: no answer"])
    async def test_say_nothing_where_a_gateway_has_too_much_to_do_or_is_gone(self, reason: str) -> None:
        full = Finding(status=Status.FAIL, reason=reason)
        assert (await Scene(lambda *_: full).found())["service.chat"].passed is Passed.SKIP

    async def test_skip_what_was_skipped_and_say_why(self) -> None:
        found = await Scene(lambda *_: skipped("No mode keeps answers.")).found()
        assert (found["service.cache"].passed, found["service.cache"].reason) == (Passed.SKIP, "No mode keeps answers.")

    async def test_are_skipped_where_nobody_can_be_asked(self) -> None:
        nobody = await Scene(lambda *_: GOOD, gateways=()).found()
        assert {one.passed for one in nobody.values()} == {Passed.SKIP}

        def breaks(check: Check, time: int) -> Finding:
            raise OSError("no network")

        broken = await Scene(breaks).found()
        assert {one.passed for one in broken.values()} == {Passed.SKIP}
        assert "OSError" in broken["service.chat"].reason
