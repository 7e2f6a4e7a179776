"""One engine run as tracing and the engine's HTTP server see it: its client span and its request head."""

from __future__ import annotations

import orjson

from serve_app.engines.protocol import Endpoint
from serve_app.gateway.decide import Decision
from serve_app.gateway.request_heads import engine_head
from serve_app.gateway.routing_table import Backend
from serve_app.gateway.run_terms import Report
from tracing.names import Operation
from tracing.spans import CallSpan, RouteSpan

_OPERATIONS = {Endpoint.CHAT: Operation.CHAT, Endpoint.COMPLETION: Operation.TEXT_COMPLETION}


class EngineCall:
    """The span ends with the run, not with the caller: others may still be reading.

    `request_id` is the gateway's own, or a plain word of the caller's. `recorded`: somebody will see the span.
    """

    def __init__(self, decision: Decision, *, route: RouteSpan, recorded: bool, secret: str, request_id: bytes) -> None:
        self._decision = decision
        self._route = route
        self._secret = secret
        self._request_id = request_id
        self._span = _begin_span(decision, route, recorded=recorded)

    def head(self, backend: Backend) -> bytes:
        return engine_head(
            url=backend.url,
            path=self._decision.endpoint,
            secret=self._secret,
            num_bytes=len(self._decision.body),
            request_id=self._request_id,
            trace_headers=self._span.outgoing_headers(),
        )

    def report(self, report: Report) -> None:
        """End the span with what is known of the run."""
        tokens = report.tokens
        self._span.answered(
            response_model=self._decision.model,
            response_id=report.response_id,
            finish_reasons=report.finish_reasons or None,
            input_tokens=tokens.input if tokens else None,
            output_tokens=tokens.output if tokens else None,
            weights_version=self._decision.weights_version,
            device=report.backend.device if report.backend else None,
        )
        if report.backend is not None:
            self._route.decided(deployment=report.backend.deployment)
        self._span.end(error_type=_error_type(report))


def _begin_span(decision: Decision, route: RouteSpan, *, recorded: bool) -> CallSpan:
    operation = _OPERATIONS[decision.endpoint]
    if not recorded:
        return route.call(operation, decision.model)
    fields = orjson.loads(decision.body)
    return route.call(
        operation,
        decision.model,
        stream=decision.stream,
        max_tokens=fields.get("max_completion_tokens", fields.get("max_tokens")),
        temperature=fields.get("temperature"),
        top_p=fields.get("top_p"),
        choices=fields.get("n"),
    )


def _error_type(report: Report) -> str | None:
    if report.cancelled:
        return "cancelled"
    if report.failure is None:
        return None
    return report.failure.code or str(report.failure.status)
