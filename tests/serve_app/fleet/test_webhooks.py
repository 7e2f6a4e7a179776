"""Webhooks against a real receiver on loopback: signed, retried, bounded, never in the way."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from placement.health_rules import Action, RuleName, Severity
from serve_app.config.settings import WebhookSettings
from serve_app.errors import HeadroomError
from serve_app.fleet.alerts import AlertEntry
from serve_app.fleet.webhooks import (
    DELIVERY_HEADER,
    MAX_QUEUED,
    SIGNATURE_HEADER,
    Patience,
    Webhook,
    Webhooks,
    read_secret,
    webhooks_of,
)

SECRET = b"between the two of us"
AT_ONCE = Patience(attempts=3, first_wait_s=0.001, longest_wait_s=0.002, jitter_s=0.0)
DEADLINE_S = 30.0
ENTRY = AlertEntry(
    id=1,
    rule=RuleName.ECC_UNCORRECTABLE,
    device="n/gpu-0",
    severity=Severity.CRITICAL,
    action=Action.QUARANTINE,
    dry_run=False,
    message="broken",
    value=1.0,
    limit=1.0,
    fired_at_s=100.0,
    acted_at_s=None,
    cleared_at_s=None,
)
SETTINGS = WebhookSettings(
    url="http://127.0.0.1:1/", secret_file=None, secret_env="S", min_severity=Severity.WARNING, timeout_s=5.0
)


@dataclass
class Receiver:
    """Answers with `statuses` in turn and 200 afterwards; keeps what came."""

    statuses: list[int] = field(default_factory=list)
    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        headers = {"Location": "/elsewhere"} if 300 <= status < 400 else {}
        return web.Response(status=status, text="x" * 100_000, headers=headers)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(statuses=list(statuses))
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = runner.addresses[0]
    receiver.url = f"http://{address[0]}:{address[1]}/hooks/s3cret-path"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def webhook(url: str, *, patience: Patience = AT_ONCE, clock: Callable[[], float] = lambda: 1234.5) -> Webhook:
    return Webhook(replace(SETTINGS, url=url), SECRET, patience=patience, wall_clock=clock)


async def delivered(hook: Webhook, *entries: AlertEntry) -> Webhook:
    """After every entry was delivered or given up."""
    hook.start()
    for entry in entries:
        hook.offer(entry)
    await hook.close(DEADLINE_S)
    return hook


class TestDelivery:
    async def test_posts_the_entry_as_json(self) -> None:
        async with receiving() as receiver:
            hook = await delivered(webhook(receiver.url), ENTRY, replace(ENTRY, cleared_at_s=160.0))
        assert [(body["status"], body["rule"], body["device"]) for body in receiver.bodies] == [
            ("fired", "ECC_UNCORRECTABLE", "n/gpu-0"),
            ("cleared", "ECC_UNCORRECTABLE", "n/gpu-0"),
        ]
        assert hook.counts.num_delivered == 2

    async def test_is_signed_with_its_time(self) -> None:
        async with receiving() as receiver:
            await delivered(webhook(receiver.url), ENTRY)
        ((headers, body),) = receiver.requests
        expected = hmac.new(SECRET, b"1234." + body, hashlib.sha256).hexdigest()
        assert headers[SIGNATURE_HEADER] == f"t=1234,v1={expected}"

    async def test_every_attempt_has_its_own_time_and_the_same_number(self) -> None:
        times = iter([10.0, 20.0, 30.0])
        async with receiving(500, 503) as receiver:
            await delivered(webhook(receiver.url, clock=lambda: next(times)), ENTRY)
        headers = [headers for headers, _ in receiver.requests]
        assert [one[SIGNATURE_HEADER].split(",")[0] for one in headers] == ["t=10", "t=20", "t=30"]
        assert len({one[DELIVERY_HEADER] for one in headers}) == 1

    @pytest.mark.parametrize("statuses", [(500, 500, 500), (429, 408, 503)])
    async def test_gives_up_after_its_attempts_and_goes_on_with_the_next(self, statuses: tuple[int, ...]) -> None:
        async with receiving(*statuses) as receiver:
            hook = await delivered(webhook(receiver.url), ENTRY, replace(ENTRY, id=2))
        assert [body["id"] for body in receiver.bodies] == [1, 1, 1, 2]
        assert (hook.counts.num_failed, hook.counts.num_delivered) == (1, 1)

    @pytest.mark.parametrize("status", [301, 400, 401, 404, 410])
    async def test_a_refusal_for_good_is_not_tried_again_and_no_redirection_followed(self, status: int) -> None:
        async with receiving(status) as receiver:
            hook = await delivered(webhook(receiver.url), ENTRY)
        assert (len(receiver.requests), hook.counts.num_failed) == (1, 1)

    async def test_an_address_where_nobody_listens_is_counted_and_harms_nothing(self) -> None:
        async with receiving() as receiver:
            url = receiver.url
        hook = await delivered(webhook(url), ENTRY, ENTRY)
        assert hook.counts.num_failed == 2

    async def test_a_receiver_that_never_answers_costs_its_timeout_only(self) -> None:
        async with receiving() as receiver:
            hook = webhook(receiver.url, patience=replace(AT_ONCE, attempts=1))
            silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
            port = silent.sockets[0].getsockname()[1]
            mute = Webhook(
                replace(SETTINGS, url=f"http://127.0.0.1:{port}/", timeout_s=0.05),
                SECRET,
                patience=replace(AT_ONCE, attempts=1),
            )
            await asyncio.gather(delivered(mute, ENTRY), delivered(hook, ENTRY))
            silent.close()
        assert (mute.counts.num_failed, hook.counts.num_delivered) == (1, 1)


class TestLimits:
    async def test_the_oldest_is_given_up_when_too_many_wait(self) -> None:
        async with receiving() as receiver:
            hook = webhook(receiver.url)
            for number in range(MAX_QUEUED + 3):
                hook.offer(replace(ENTRY, id=number))
            hook.start()
            await hook.close(DEADLINE_S)
        assert [body["id"] for body in receiver.bodies] == list(range(3, MAX_QUEUED + 3))
        assert hook.counts.num_dropped == 3

    async def test_closing_does_not_wait_for_an_address_that_is_down(self) -> None:
        hook = webhook("http://127.0.0.1:1/", patience=Patience(first_wait_s=3600.0, longest_wait_s=3600.0))
        hook.start()
        hook.offer(ENTRY)
        await hook.close(0.01)
        assert hook.counts.num_dropped == 1

    async def test_what_is_less_severe_than_wanted_is_not_sent(self) -> None:
        async with receiving() as receiver:
            hook = webhook(receiver.url)
            await delivered(hook, replace(ENTRY, severity=Severity.INFO), replace(ENTRY, severity=Severity.WARNING))
        assert [body["severity"] for body in receiver.bodies] == ["warning"]

    async def test_one_dead_address_does_not_hold_up_another(self) -> None:
        async with receiving() as receiver:
            dead = webhook("http://127.0.0.1:1/", patience=Patience(first_wait_s=3600.0, longest_wait_s=3600.0))
            both = Webhooks([dead, webhook(receiver.url)])
            both.start()
            both.offer(ENTRY)
            await both.each[1].close(DEADLINE_S)
            await both.close(0.01)
        assert len(receiver.requests) == 1


class TestSecrecy:
    async def test_neither_secret_nor_path_is_ever_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            async with receiving(500, 400) as receiver:
                await delivered(webhook(receiver.url), ENTRY)
        lines = [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]  # the receiver's
        assert any("webhook not delivered" in line for line in lines)
        assert not any("s3cret-path" in line or SECRET.decode() in line for line in lines)

    def test_a_secret_comes_from_a_file_or_a_variable(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_bytes(SECRET + b"\n")
        assert read_secret(replace(SETTINGS, secret_file=file, secret_env=None), {}) == SECRET
        assert read_secret(SETTINGS, {"S": SECRET.decode()}) == SECRET

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (SETTINGS, "the environment variable S is empty or missing"),
            (replace(SETTINGS, secret_file=Path("/nowhere/secret")), "cannot be read: No such file"),
            (replace(SETTINGS, secret_file=Path("/dev/zero")), "is too long"),
            (replace(SETTINGS, secret_file=Path("/dev/null")), "is empty or missing"),
        ],
    )
    def test_without_a_secret_there_is_no_webhook(self, settings: WebhookSettings, said: str) -> None:
        with pytest.raises(HeadroomError, match=said):
            webhooks_of([settings], {"S": " "})
