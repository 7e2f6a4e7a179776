"""Alerts posted to addresses of cluster.yaml: signed, retried, never waited for.

Body: one `AlertEntry` as JSON with `"status": "fired" | "cleared"`. Headers:

    X-Headroom-Delivery   the same for every attempt, so that a receiver can drop what it has
    X-Headroom-Signature  t=<seconds since 1970>,v1=<hex HMAC-SHA256 of "<t>." + body under the shared secret>

The time is inside the signature, so a receiver refuses what is old. An address is never written to the log whole: its
path may be a secret too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import NoReturn
from urllib.parse import urlsplit

import aiohttp
import stamina

from placement.health_rules import Severity
from serve_app.config.settings import WebhookSettings
from serve_app.errors import HeadroomError
from serve_app.fleet.alerts import AlertEntry
from serve_app.logs import logger

log = logger(__name__)

SIGNATURE_HEADER = "X-Headroom-Signature"
DELIVERY_HEADER = "X-Headroom-Delivery"
MAX_QUEUED = 256
"""Of one address; beyond it the oldest is given up."""
MAX_SECRET_BYTES = 4096
_RETRIED = frozenset({408, 425, 429})
_SEVERITIES = tuple(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one delivery is tried: waits double from `first_wait_s` to `longest_wait_s`, with jitter."""

    attempts: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    jitter_s: float = 1.0


@dataclass(slots=True, kw_only=True)
class WebhookCounts:
    num_delivered: int = 0
    num_failed: int = 0
    """Given up after all attempts, or refused for good."""
    num_dropped: int = 0
    """Given up unsent because the queue was full, or at the end."""


class _TryAgain(Exception):
    pass


class _Refused(Exception):
    pass


class Webhook:
    """One address: its queue and the task that empties it, in order."""

    def __init__(
        self,
        settings: WebhookSettings,
        secret: bytes,
        *,
        patience: Patience | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts = WebhookCounts()
        self.host = urlsplit(settings.url).netloc
        self._settings = settings
        self._secret = secret
        self._patience = patience or Patience()
        self._wall_clock = wall_clock
        self._queue: asyncio.Queue[AlertEntry] = asyncio.Queue(MAX_QUEUED)
        self._task: asyncio.Task[NoReturn] | None = None

    def start(self) -> None:
        """Needs a running loop."""
        self._task = asyncio.create_task(self._deliver_all(), name=f"webhook {self.host}")

    def offer(self, entry: AlertEntry) -> None:
        """Never blocks. What is less severe than wanted is passed over."""
        if _SEVERITIES.index(entry.severity) < _SEVERITIES.index(self._settings.min_severity):
            return
        if self._queue.full():
            self._queue.get_nowait()
            self._queue.task_done()
            self.counts.num_dropped += 1
            log.warning("webhook queue full", host=self.host, dropped=self.counts.num_dropped)
        self._queue.put_nowait(entry)

    async def close(self, grace_s: float) -> None:
        """What cannot be delivered within `grace_s` is dropped."""
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._queue.join(), grace_s)
        except TimeoutError:
            self.counts.num_dropped += self._queue.qsize()
            log.warning("webhook closed with alerts undelivered", host=self.host, queued=self._queue.qsize())
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _deliver_all(self) -> NoReturn:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                entry = await self._queue.get()
                try:
                    await self._deliver(session, entry)
                finally:
                    self._queue.task_done()

    async def _deliver(self, session: aiohttp.ClientSession, entry: AlertEntry) -> None:
        body, delivery = body_of(entry), str(uuid.uuid4())
        patience = self._patience
        attempts = stamina.retry_context(
            on=_TryAgain,
            attempts=patience.attempts,
            timeout=None,
            wait_initial=patience.first_wait_s,
            wait_max=patience.longest_wait_s,
            wait_jitter=patience.jitter_s,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self._post(session, body, delivery)
        except asyncio.CancelledError:
            self.counts.num_dropped += 1
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the next alert must go out
            self.counts.num_failed += 1
            reason = str(error) if isinstance(error, _TryAgain | _Refused) else type(error).__name__
            log.warning("webhook not delivered", host=self.host, alert=entry.id, reason=reason)
        else:
            self.counts.num_delivered += 1

    async def _post(self, session: aiohttp.ClientSession, body: bytes, delivery: str) -> None:
        """Raises: _TryAgain where another attempt may help, _Refused where none will."""
        headers = {
            "Content-Type": "application/json",
            DELIVERY_HEADER: delivery,
            SIGNATURE_HEADER: signature(body, self._secret, at_s=int(self._wall_clock())),
        }
        try:  # the answer's body is not read, however long it is
            async with session.post(self._settings.url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise _TryAgain(type(error).__name__) from None
        if status >= 500 or status in _RETRIED:
            raise _TryAgain(f"HTTP {status}")
        if not 200 <= status < 300:
            raise _Refused(f"HTTP {status}")


class Webhooks:
    """All addresses. An `offer` is a callback for `alerts.Callbacks`."""

    def __init__(self, webhooks: Iterable[Webhook]) -> None:
        self.each = tuple(webhooks)

    def start(self) -> None:
        for webhook in self.each:
            webhook.start()

    def offer(self, entry: AlertEntry) -> None:
        for webhook in self.each:
            webhook.offer(entry)

    async def close(self, grace_s: float = 5.0) -> None:
        await asyncio.gather(*(webhook.close(grace_s) for webhook in self.each))


def webhooks_of(settings: Iterable[WebhookSettings], environment: Mapping[str, str]) -> Webhooks:
    """Raises: HeadroomError when a secret cannot be read."""
    return Webhooks(Webhook(one, read_secret(one, environment)) for one in settings)


def read_secret(settings: WebhookSettings, environment: Mapping[str, str]) -> bytes:
    """Without the white space around it, so that an editor's last line feed is no part of it. Raises: HeadroomError."""
    if settings.secret_file is not None:
        place = f"the file {settings.secret_file}"
        try:
            with settings.secret_file.open("rb") as file:
                secret = file.read(MAX_SECRET_BYTES + 1).strip()
        except OSError as error:
            raise _bad_secret(settings, f"{place} cannot be read: {error.strerror}") from None
    else:
        assert settings.secret_env is not None
        place = f"the environment variable {settings.secret_env}"
        secret = environment.get(settings.secret_env, "").strip().encode()
    if not 1 <= len(secret) <= MAX_SECRET_BYTES:
        raise _bad_secret(settings, f"{place} is {'too long' if secret else 'empty or missing'}")
    return secret


def signature(body: bytes, secret: bytes, *, at_s: int) -> str:
    digest = hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def body_of(entry: AlertEntry) -> bytes:
    status = "fired" if entry.cleared_at_s is None else "cleared"
    return json.dumps({"status": status, **asdict(entry)}, separators=(",", ":")).encode()


def _bad_secret(settings: WebhookSettings, what: str) -> HeadroomError:
    return HeadroomError(
        f"The webhook at {urlsplit(settings.url).netloc} has no secret to sign with: {what}.",
        expected=f"Expected 1 to {MAX_SECRET_BYTES:,} bytes.",
        advice="Write the secret there, or take the webhook out of `health.webhooks`.",
    )
