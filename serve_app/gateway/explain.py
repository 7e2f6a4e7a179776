"""Why a request would go where: the decision of this moment as a value for eyes. Sends nothing."""

from __future__ import annotations

from typing import Any

from serve_app.api.errors import ApiError
from serve_app.api.requests import InferenceRequest
from serve_app.gateway.board import may_read
from serve_app.gateway.cache import Store
from serve_app.gateway.catalog import Catalog
from serve_app.gateway.decide import Asleep, Decision, Terms, decide
from serve_app.gateway.loads import Loads
from serve_app.gateway.semantic_cache import SemanticCache
from serve_app.gateway.steering import Steering


async def explained(
    request: InferenceRequest,
    terms: Terms,
    *,
    catalog: Catalog,
    steering: Steering,
    loads: Loads,
    store: Store,
    semantic: SemanticCache,
) -> dict[str, Any] | ApiError:
    """`serve_app.api.wire.RouteView` as JSON values, or the refusal that the request would get."""
    decision = decide(request, terms, catalog)
    if isinstance(decision, ApiError):
        return decision
    if isinstance(decision, Asleep):
        return {"model": decision.model, "outcome": "would be woken first"}
    steps = steering.steps(decision)
    well = next((step for step in steps if step.why_not is None), steps[0])
    goes_down = well is not steps[0] and terms.may_downshift
    return {
        "mode": decision.mode,
        "model": well.model if goes_down else decision.model,
        "outcome": "downshifted" if goes_down else "as asked",
        "weights_version": decision.weights_version,
        "cache": await _cache(decision, store, semantic),
        "steps": [{"mode": step.mode, "model": step.model, "why_not": step.why_not} for step in steps],
        "replicas": _replicas(decision, loads),
    }


async def _cache(decision: Decision, store: Store, semantic: SemanticCache) -> str:
    if decision.bypass is not None and not may_read(decision):
        return f"bypass: {decision.bypass.value}"
    assert decision.key is not None
    if await store.get(decision.key) is not None:
        return "hit"
    similar = await semantic.find(decision)
    return "miss" if similar is None else f"semantic: {similar.similarity:.4f}"


def _replicas(decision: Decision, loads: Loads) -> list[dict[str, Any]]:
    """Of the undisturbed way, in table order; `rank` counts from 0, None: would not be asked."""
    target_s = decision.settings.latency_target_s if decision.settings else None
    choice = loads.choice(decision.backends, prefix=decision.prefix, target_s=target_s)
    reasons = {replica: reason.value for replica, reason in choice.passed}
    return [
        {
            "replica": one.replica,
            "deployment": one.deployment,
            "rank": choice.order.index(one.replica) if one.replica in choice.order else None,
            "in_flight": loads.in_flight.get(one.replica, 0),
            "max_num_seqs": one.max_num_seqs,
            "breaker": loads.state(one.replica).name.lower(),
            "passed_over": reasons.get(one.replica),
        }
        for one in decision.backends
    ]
