"""One engine run: sends a decided request to a replica and feeds what comes back into a flight.

A state machine driven by the connection (`Sink`) and one timer; nothing here awaits.
Where the model has all it can take, the run waits in its bulkhead first. Before the first byte a lost replica is
replaced (`attempts`); after it the answer ends with an error event. Knows neither cache nor client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from serve_app.api.errors import ApiError, Outcome, timed_out
from serve_app.gateway import sse
from serve_app.gateway.answer_headers import Answered
from serve_app.gateway.answers import (
    Tokens,
    died_midway,
    no_completion,
    read_error,
    read_unary,
    read_usage,
    too_large,
)
from serve_app.gateway.attempts import Attempts
from serve_app.gateway.breakers import Verdict
from serve_app.gateway.bulkheads import Ticket
from serve_app.gateway.decide import Decision
from serve_app.gateway.flight import Flight
from serve_app.gateway.overload import overloaded
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.run_terms import Engines, Origin, Report
from serve_app.gateway.version_meters import BLAMELESS

MAX_PIECE_BYTES: Final = 64 * 1024 * 1024
"""Largest unary answer, and largest single event of a stream."""

_RETRY_AFTER: Final = b"retry-after"
_VERSION: Final = b"x-headroom-weights-version"
_SLACK_S: Final = 0.001


class Run:
    """Use once: make it, `start` it. `on_ended` is called exactly once, after the flight knows the end."""

    def __init__(
        self,
        *,
        engines: Engines,
        decision: Decision,
        flight: Flight,
        request_head: Callable[[Backend], bytes],
        on_ended: Callable[[Report], None],
        tenant: str = "",
    ) -> None:
        self._engines = engines
        self._decision = decision
        self._flight = flight
        self._attempts = Attempts(
            engines=engines, decision=decision, request_head=request_head, sink=self, on_failed=self._fail
        )
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._deadlines = engines.deadlines_of(decision.settings)
        self._ticket = Ticket(decision.room, tenant, self._admitted)
        self._is_queued = False
        self._is_starting = False
        self._timer: asyncio.TimerHandle | None = None
        self._made_s = self._heard_s = self._loop.time()
        self._queued_s = 0.0
        self._asked_rest_s = 0
        self._first_byte_s: float | None = None
        self._status = 0
        self._is_stream = self._are_events = False
        self._answered: Answered = decision
        self._parts: list[bytes] = []
        self._num_bytes = 0
        self._splitter = sse.EventSplitter()
        self._last_event = b""
        self._tokens: Tokens | None = None
        self._paused_s: float | None = None
        self._over = False
        flight.fed_by(on_abandoned=self.cancel, on_lag=self._on_lag)

    def start(self) -> None:
        self._engines.retries.earn()
        limit_s = min(self._deadlines.first_token_s, self._deadlines.queue_s)
        self._timer = self._loop.call_later(limit_s, self._on_timer)
        self._is_queued = True
        limit = sum(min(one.max_num_seqs, one.max_in_flight or one.max_num_seqs) for one in self._decision.backends)
        self._is_starting = True
        self._engines.bulkheads.enter(self._ticket.room, limit=limit, ticket=self._ticket)
        self._is_starting = False

    def cancel(self) -> None:
        """Nobody waits any more: close the connection, so that the engine aborts at once."""
        if not self._over:
            self._attempts.drop(abort=True)
            self._end(None, cancelled=True)

    def _admitted(self) -> None:
        """Called from within `start`, or when another run leaves: that one must not wait for what follows here."""
        self._is_queued = False
        if not self._is_starting:
            self._queued_s = self._loop.time() - self._made_s
        self._attempts.begin(at_once=self._is_starting)

    def _replace(self, *, rest_s: int = 0) -> None:
        self._forget_answer()
        self._attempts.replace(rest_s=rest_s)

    def _forget_answer(self) -> None:
        """What the lost replica has sent: none of it was handed on."""
        self._status = 0
        self._parts.clear()
        self._num_bytes = 0
        self._splitter = sse.EventSplitter()

    # Sink

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._heard_s = self._attempts.hear()
        self._status = status
        self._asked_rest_s = _seconds(headers.get(_RETRY_AFTER, b""))
        self._is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        self._are_events = self._is_stream and self._decision.stream and status == HTTPStatus.OK
        version = headers.get(_VERSION, b"").decode("latin-1")
        self._answered = self._origin(version) if version else self._decision

    def on_data(self, data: bytes) -> None:
        self._heard_s = self._attempts.hear()
        if not self._are_events:
            self._parts.append(data)
            self._num_bytes += len(data)
            self._limit(self._num_bytes)
        elif events := self._splitter.feed(data):
            self._on_events(events)
        else:
            self._limit(self._splitter.held_bytes)

    def on_end(self) -> None:
        self._attempts.answered()
        if self._status == HTTPStatus.OK:
            self._end_of_stream() if self._decision.stream else self._end_of_unary()
        elif self._status == HTTPStatus.SERVICE_UNAVAILABLE:
            self._replace(rest_s=self._asked_rest_s)
        else:
            self._fail(read_error(self._status, b"".join(self._parts), model=self._decision.model))

    def on_lost(self) -> None:
        if self._first_byte_s is not None:
            self._break(died_midway(self._decision.model))
        elif self._status != 0 or not self._attempts.reconnected():
            self._replace()

    def _limit(self, held_bytes: int) -> None:
        if held_bytes > MAX_PIECE_BYTES and not self._over:
            self._break(too_large(self._decision.model, MAX_PIECE_BYTES))

    # the answer

    def _on_events(self, events: bytes) -> None:
        if self._over:
            return
        rest, usage = sse.take_usage(events)
        if usage is not None:
            self._tokens = read_usage(usage)
            events = events if self._decision.include_usage else rest
            if not events:
                return
        if self._first_byte_s is None:
            self._first_byte()
        self._last_event = events
        self._flight.feed(events)

    def _first_byte(self) -> None:
        self._first_byte_s = self._heard_s - self._made_s
        self._flight.begin(self._answered)
        if self._timer is not None and self._decision.stream:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._deadlines.between_tokens_s, self._on_timer)

    def _end_of_stream(self) -> None:
        if self._first_byte_s is None and self._is_stream:
            self._replace()  # the head was there, then the engine died: nothing was answered yet
        elif self._first_byte_s is None:
            self._fail(no_completion(self._decision.model))
        elif not self._last_event.endswith(sse.DONE) or self._splitter.held_bytes:
            self._break(died_midway(self._decision.model))
        else:
            stream = self._flight.whole() if self._may_store() else None
            self._flight.finish()
            whole = stream is not None and sse.is_whole(stream, num_choices=self._decision.num_choices)
            self._end(None, whole=whole, finishes=sse.finish_reasons(stream) if stream else ())

    def _end_of_unary(self) -> None:
        body = b"".join(self._parts)
        answer = read_unary(body, model=self._decision.model, num_choices=self._decision.num_choices)
        if isinstance(answer, ApiError) or self._is_stream:
            self._fail(answer if isinstance(answer, ApiError) else no_completion(self._decision.model))
            return
        self._first_byte()
        self._tokens = answer.tokens
        self._flight.feed(body)
        self._flight.finish()
        whole = answer.whole and self._may_store()
        self._end(None, whole=whole, finishes=answer.finish_reasons, response_id=answer.response_id)

    def _may_store(self) -> bool:
        """The answer must come from the weights its key names."""
        return self._answered.weights_version == self._decision.weights_version

    def _origin(self, version: str) -> Answered:
        if version == self._decision.weights_version:
            return self._decision
        decision = self._decision
        return Origin(mode=decision.mode, model=decision.model, weights_version=version, checkpoint_step=None)

    # ends

    def _fail(self, failure: ApiError) -> None:
        """End without an answer."""
        if not self._over:
            self._attempts.drop(abort=True, verdict=_verdict(failure))
            self._flight.fail(failure)
            self._end(failure)

    def _break(self, failure: ApiError) -> None:
        """End an answer that may have begun: its last event says what happened."""
        if self._first_byte_s is None:
            self._fail(failure)
        elif not self._over:
            self._attempts.drop(abort=True, verdict=_verdict(failure))
            self._flight.keeps = False
            self._flight.feed(failure.event())
            self._flight.finish(broken=failure)
            self._end(failure)

    def _end(
        self,
        failure: ApiError | None,
        *,
        cancelled: bool = False,
        whole: bool = False,
        finishes: tuple[str, ...] = (),
        response_id: str | None = None,
    ) -> None:
        self._over = True
        self._attempts.drop(abort=False, verdict=Verdict.UNKNOWN if cancelled else Verdict.GOOD)
        self._engines.bulkheads.leave(self._ticket, self._loop.time())
        if self._timer is not None:
            self._timer.cancel()
        self._on_ended(
            Report(
                failure=failure,
                cancelled=cancelled,
                whole=whole,
                tokens=self._tokens,
                response_id=response_id,
                finish_reasons=finishes,
                backend=self._attempts.asked,
                first_byte_s=self._first_byte_s,
                duration_s=self._loop.time() - self._made_s,
                num_retries=self._attempts.num_retries,
                queued_s=self._queued_s,
            )
        )

    def _on_timer(self) -> None:
        since_s, limit_s, overdue = self._deadline()
        left_s = since_s + limit_s - self._loop.time()
        if left_s > _SLACK_S:
            self._timer = self._loop.call_later(left_s, self._on_timer)
        else:
            self._break(overdue)

    def _deadline(self) -> tuple[float, float, ApiError]:
        """Since when something is awaited, for how long at most, and what to say when it does not come."""
        deadlines, model = self._deadlines, self._decision.model
        if self._is_queued:
            retry_after_s = self._engines.bulkheads.retry_after_s(self._decision.room)
            return self._made_s, deadlines.queue_s, overloaded(model, retry_after_s=retry_after_s, waited=True)
        if self._paused_s is not None:
            limit_s = deadlines.unread_s
            message = f"The answer was left unread for {limit_s:g} s and is cut here."
            return self._paused_s, limit_s, timed_out(message, code="client_too_slow")
        if self._first_byte_s is not None:
            limit_s = deadlines.between_tokens_s
            message = f"The engine of '{model}' gave no further token for {limit_s:g} s."
            return self._heard_s, limit_s, timed_out(message, code="between_tokens_timeout")
        limit_s = deadlines.first_token_s
        message = f"The engine of '{model}' gave no first token for {limit_s:g} s."
        return self._made_s, limit_s, timed_out(message, code="first_token_timeout")

    def _on_lag(self, lags: bool) -> None:
        if lags == (self._paused_s is not None) or not self._attempts.hold(lags):
            return
        now_s = self._loop.time()
        if lags:
            self._paused_s = now_s
        else:
            self._paused_s, self._heard_s = None, now_s


def _verdict(failure: ApiError) -> Verdict:
    """What the caller did wrong says nothing against the replica that told it so."""
    if failure.code in BLAMELESS:
        return Verdict.UNKNOWN
    return Verdict.GOOD if failure.outcome is Outcome.REJECTED else Verdict.BAD


def _seconds(value: bytes) -> int:
    """Of `Retry-After`; 0 where it says nothing we can use, a date included."""
    return int(value) if value.isdigit() else 0
