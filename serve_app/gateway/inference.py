"""POST /v1/chat/completions and /v1/completions: read, decide, look up, fly, deliver, count.

The order of a request's life and nothing else; each step is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import orjson

from serve_app.access.authorize import LOCAL
from serve_app.api.errors import ApiError, Outcome, unavailable
from serve_app.api.requests import parse_request
from serve_app.api.wire import RouteAsked
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.admission import Admission, pin_refusal, tenant_mark
from serve_app.gateway.answer_headers import CacheState, Headers, own_headers, similar_headers
from serve_app.gateway.asgi import BODY, START, BodyReader, Receive, Scope, Send, read_headers
from serve_app.gateway.board import FlightBoard, may_read
from serve_app.gateway.cache import Entry, ReadyEntry, Store
from serve_app.gateway.cache_key import owner
from serve_app.gateway.catalog import Catalog
from serve_app.gateway.decide import Asleep, Bypass, Decision, Terms, decide
from serve_app.gateway.delivery import CLIENT_GONE, Client, Delivered, deliver
from serve_app.gateway.engine_call import EngineCall
from serve_app.gateway.explain import explained
from serve_app.gateway.flight import Flight
from serve_app.gateway.memo import Memo
from serve_app.gateway.meters import NO_MODEL, Meters
from serve_app.gateway.peers import Peers
from serve_app.gateway.pulse_probes import PulseProbes
from serve_app.gateway.routing_table import Peer, RoutingTable
from serve_app.gateway.run_terms import Engines, Report
from serve_app.gateway.semantic_cache import SemanticCache, Similar, asks_for_similar
from serve_app.gateway.steering import Steering
from serve_app.gateway.visit import Visit
from serve_app.gateway.waker import RETRY_AFTER_S, Waker
from tracing import names
from tracing.spans import RouteSpan, begin_request

_METHOD = "POST"
_DOWNSHIFTED_FROM: Final = b"x-headroom-downshifted-from"


class Inference:
    """The hot route. `update` gives it what may be asked for; everything it owns is used from one event loop."""

    def __init__(
        self,
        *,
        admission: Admission,
        replica: str,
        clock: Callable[[], float],
        bodies: BodyReader,
        store: Store,
        semantic: SemanticCache,
        board: FlightBoard,
        engines: Engines,
        steering: Steering,
        probes: PulseProbes,
        peers: Peers,
        meters: Meters,
        waker: Waker,
        names_requests: bool,
    ) -> None:
        self._waker = waker
        self._names_requests = names_requests
        self._admission = admission
        self._replica = replica
        self._clock = clock
        self._bodies = bodies
        self._store = store
        self._is_shared = store.kind != "memory"
        self._semantic = semantic
        self._board = board
        self._engines = engines
        self._steering = steering
        self._probes = probes
        self._peers = peers
        self._meters = meters
        self._memo = Memo()
        self._catalog = Catalog(models={}, modes={}, serving={})
        self._secret = ""
        self._owners: tuple[Peer, ...] = ()

    def update(self, catalog: Catalog, table: RoutingTable) -> None:
        self._catalog = catalog
        self._secret = table.internal_secret
        self._owners = table.peers if len(table.peers) > 1 else ()
        self._memo.clear()
        self._waker.update(catalog)
        self._steering.update(catalog)

    async def __call__(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = self._clock()
        headers = scope["headers"]
        trace = begin_request(_METHOD, endpoint, headers)
        asked, refusal = read_headers(headers)
        named = own_headers(trace.trace_id, asked.request_id if self._names_requests else None)
        visit = Visit(
            endpoint=endpoint,
            client=Client(receive, send, named),
            asked=asked,
            trace=trace,
            headers=headers,
            started_s=started_s,
        )
        delivered = Delivered(CLIENT_GONE, Outcome.CANCELLED)
        try:
            delivered = await self._admitted(visit, refusal)
        finally:
            self._count(visit, delivered)

    # steps

    async def _admitted(self, visit: Visit, refusal: ApiError | None) -> Delivered:
        """Who may not ask learns nothing else; `refusal` is of the headers."""
        asked = visit.asked
        visit.internal = self._admission.is_internal(asked)
        if asked.secret is not None and not visit.internal:
            return await visit.client.refuse(_FORBIDDEN)
        caller = self._admission.admit(visit.endpoint, _METHOD, visit.headers, asked, internal=visit.internal)
        if isinstance(caller, ApiError):
            return await visit.client.refuse(caller)
        visit.caller = caller
        if refusal is None and asked.version is not None and not visit.internal:
            refusal = pin_refusal(caller)
        return await (self._answer(visit) if refusal is None else visit.client.refuse(refusal))

    async def _answer(self, visit: Visit) -> Delivered:
        body = await self._bodies.read(visit.client.receive, content_length=visit.asked.content_length)
        if body is None:
            return Delivered(CLIENT_GONE, Outcome.CANCELLED)
        if isinstance(body, ApiError):
            return await visit.client.refuse(body)
        decision = self._decide(visit, body)
        if isinstance(decision, Asleep):
            asleep_s = self._clock()
            woken = await self._woken(decision.model, visit, body)
            visit.away_s = self._clock() - asleep_s
            if woken is None:
                return Delivered(CLIENT_GONE, Outcome.CANCELLED)
            decision = woken
        if isinstance(decision, ApiError):
            return await visit.client.refuse(decision)
        visit.decision = decision
        keeper = None if visit.internal else self._keeper(decision)
        if keeper is None:
            return await self._serve(visit, decision, body)
        if self._is_shared:
            answer = await self._stored(decision)
            if answer is not None:
                return await self._hit(visit, decision, answer.entry, answer.headers, CacheState.HIT)
        return await self._relay(visit, keeper, decision, body)

    def _keeper(self, decision: Decision) -> Peer | None:
        """The other gateway where requests equal to this one meet; None: here.

        A store that all share is asked here first, and only runs that others may join are worth the way.
        """
        if not self._owners or decision.key is None or (self._is_shared and not may_read(decision)):
            return None
        keeper = owner(decision.question.group if decision.question else decision.key, self._owners)
        return keeper if keeper.replica != self._replica else None

    async def _stored(self, decision: Decision) -> ReadyEntry | None:
        if not may_read(decision):
            return None
        assert decision.key is not None
        return await self._store.get(decision.key, max_age_s=decision.max_age_s)

    async def _woken(self, model: str, visit: Visit, body: bytes) -> Decision | ApiError | None:
        """None: the client has left, and nobody needs the answer."""
        waking = asyncio.ensure_future(self._waker.wake(model))
        leaving = asyncio.ensure_future(_left(visit.client.receive))
        try:
            await asyncio.wait((waking, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waking, leaving):
                task.cancel()
            await asyncio.gather(waking, leaving, return_exceptions=True)
        if waking.cancelled():
            return None
        failure = waking.result()
        if failure is not None:
            return failure
        decision = self._decide(visit, body)
        if isinstance(decision, Asleep):  # gone again before its request came through
            message = f"The model '{model}' has just gone to sleep again. Try again."
            return unavailable(message, code="model_waking", retry_after_s=RETRY_AFTER_S)
        return decision

    def _decide(self, visit: Visit, body: bytes) -> Decision | ApiError | Asleep:
        asked = visit.asked
        caller = visit.caller
        memo_key = (visit.endpoint, body, asked.mode, asked.version, caller.tenant, caller.grant.models)
        if asked.cache_control is None:
            known = self._memo.get(memo_key)
            if known is not None:
                return known
        request = parse_request(visit.endpoint, body)
        if isinstance(request, ApiError):
            return request
        decision = decide(request, visit.terms(), self._catalog)
        if isinstance(decision, Decision) and decision.key is not None and decision.bypass is None:
            self._memo.put(memo_key, decision)
        return decision

    async def explain(self, asked: RouteAsked) -> dict[str, Any] | ApiError:
        """Where this request would go now, and why; nothing is sent."""
        endpoint = Endpoint.COMPLETION if "prompt" in asked.request else Endpoint.CHAT
        request = parse_request(endpoint, orjson.dumps(asked.request))
        if isinstance(request, ApiError):
            return request
        terms = Terms(tenant=LOCAL.tenant, mode=asked.mode, pinned=asked.weights_version, may_downshift=asked.downshift)
        return await explained(
            request,
            terms,
            catalog=self._catalog,
            steering=self._steering,
            loads=self._engines.loads,
            store=self._store,
            semantic=self._semantic,
        )

    def _steered(self, visit: Visit, decision: Decision, body: bytes) -> Decision:
        """One step down while the model is under pressure, said in a header; else the decision itself."""
        why = self._steering.why(decision)
        if why is None:
            return decision
        lower = self._steering.lower(decision, visit.terms(), body, why)
        if lower is None:
            return decision
        assert lower.downshifted_from is not None
        visit.decision = lower
        visit.client.own_headers.append((_DOWNSHIFTED_FROM, lower.downshifted_from.encode()))
        self._meters.downshifted(lower.downshifted_from, lower.model if lower.mode == decision.mode else lower.mode)
        return lower

    async def _serve(self, visit: Visit, decision: Decision, body: bytes) -> Delivered:
        if self._board.joinable(decision) is None:  # else it might end unseen while the store is asked
            answer = await self._stored(decision)
            if answer is not None:
                return await self._hit(visit, decision, answer.entry, answer.headers, CacheState.HIT)
            similar = await self._similar(decision)
            if similar is not None:
                headers = similar_headers(similar.entry, similar.similarity)
                return await self._hit(visit, decision, similar.entry, headers, CacheState.SEMANTIC)
        flight, state = self._board.joinable(decision), CacheState.SHARED
        if flight is None:
            decision = self._steered(visit, decision, body)
        route = _route_of(visit, decision)
        if flight is None:
            self._probes.wake()
            call = EngineCall(
                decision,
                route=route,
                recorded=visit.trace.recorded,
                secret=self._secret,
                request_id=visit.asked.request_id,
            )

            def ended(report: Report) -> None:
                visit.away_s = (visit.away_s or 0.0) + report.duration_s
                call.report(report)
                self._admission.spent(visit.caller, report.tokens)

            departed = self._board.depart(decision, tenant=visit.caller.tenant, request_head=call.head, on_report=ended)
            if isinstance(departed, ApiError):
                route.end(error_type=departed.code)
                return await visit.client.refuse(departed)
            flight, state = departed
        else:
            visit.away_s = None
        return await self._ride(visit, decision, route, flight, state)

    async def _ride(
        self, visit: Visit, decision: Decision, route: RouteSpan, flight: Flight, state: CacheState
    ) -> Delivered:
        self._meters.cached(decision.mode, state)
        route.decided(
            model=decision.model,
            cache=state.value,
            decision=decision.bypass,
            downshifted_from=decision.downshifted_from,
        )
        outcome = Outcome.CANCELLED
        try:
            delivered = await deliver(flight, visit.client, answering=decision, stream=decision.stream, state=state)
            outcome = delivered.outcome
            return delivered
        finally:
            route.end(error_type=None if outcome is Outcome.SUCCESS else outcome.value)

    async def _similar(self, decision: Decision) -> Similar | None:
        """Who may wait for the answer to this very request waits for it."""
        if not asks_for_similar(decision) or self._board.joinable(decision) is not None:
            return None
        similar = await self._semantic.find(decision)
        self._meters.semantic(decision.mode, hit=similar is not None)
        return similar

    async def _hit(
        self, visit: Visit, decision: Decision, entry: Entry, headers: Headers, state: CacheState
    ) -> Delivered:
        self._meters.cached(decision.mode, state)
        if visit.trace.recorded:
            route = _route_of(visit, decision)
            route.decided(model=decision.model, cache=state.value)
            route.end()
        client = visit.client
        await client.send({"type": START, "status": 200, "headers": headers + client.own_headers})
        await client.send({"type": BODY, "body": entry.body})
        return Delivered(HTTPStatus.OK, Outcome.SUCCESS)

    async def _relay(self, visit: Visit, keeper: Peer, decision: Decision, body: bytes) -> Delivered:
        delivered = await self._peers.relay(
            keeper,
            path=visit.endpoint.value,
            body=body,
            headers=visit.headers,
            request_id=visit.asked.request_id,
            key_id=visit.caller.key_id,
            trace_headers=visit.trace.outgoing_headers(),
            client=visit.client,
        )
        if delivered is not None:
            visit.relayed = True
            return delivered
        if not self._is_shared:
            decision = visit.decision = replace(decision, key=None, question=None, bypass=Bypass.OWNER_AWAY)
        return await self._serve(visit, decision, body)

    def _count(self, visit: Visit, delivered: Delivered) -> None:
        duration_s = self._clock() - visit.started_s
        error_type = None if delivered.outcome in (Outcome.SUCCESS, Outcome.REJECTED) else delivered.outcome.value
        visit.trace.end(status=delivered.status, error_type=error_type)
        if not visit.internal:
            self._meters.http(visit.endpoint, _METHOD, delivered.status, duration_s)
        if not visit.relayed:
            decision = visit.decision
            mode, model = (decision.mode, decision.model) if decision else (names.NO_MODE, NO_MODEL)
            self._meters.inference(mode, model, delivered.outcome, duration_s)
            if visit.away_s is not None and delivered.outcome is Outcome.SUCCESS:
                self._meters.overhead(duration_s - visit.away_s)


def _route_of(visit: Visit, decision: Decision) -> RouteSpan:
    tenant = tenant_mark(visit.caller) if visit.trace.recorded else None
    return visit.trace.route(decision.mode, requested_model=decision.asked_for, tenant=tenant)


async def _left(receive: Receive) -> None:
    """Returns when the client has left; its body has been read, so nothing else can come."""
    while (await receive())["type"] != "http.disconnect":
        pass


_FORBIDDEN = ApiError(
    status=HTTPStatus.FORBIDDEN,
    message="The header `x-headroom-internal` is for gateways among themselves.",
    type="invalid_request_error",
    code="forbidden",
    outcome=Outcome.REJECTED,
)
