"""Which role each route and each RPC asks for, by the route that was matched, never by the text of a path.

What is not listed needs an admin: forgetting a line closes a door. A test walks all routes and finds the forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serve_app.access.keys import Role


class Anyone(StrEnum):
    OPEN = "open"
    """No key is asked for."""
    ANY_KEY = "any_key"


Need = Role | Anyone


@dataclass(frozen=True, slots=True)
class RouteNeeds:
    reads: Need
    acts: Need = Role.ADMIN
    """Of methods other than GET and HEAD."""


_ADMIN: Final = RouteNeeds(Role.ADMIN)
_LEASES: Final = RouteNeeds(Role.LEASES, Role.LEASES)
_JOBS: Final = RouteNeeds(Role.JOBS, Role.JOBS)
_INFERENCE: Final = RouteNeeds(Role.INFERENCE, Role.INFERENCE)
_ANY: Final = RouteNeeds(Anyone.ANY_KEY)

ROUTE_NEEDS: Final = {
    "/health": RouteNeeds(Anyone.OPEN),  # for load balancers; it names models and says how well they are
    "/v1/chat/completions": _INFERENCE,
    "/v1/completions": _INFERENCE,
    "/v1/models": _ANY,
    "/v1/models/{id}": _ANY,
    "/models/info": _ANY,
    "/openapi.json": _ANY,
    "/metrics": _ADMIN,
    "/metrics/mma": _ADMIN,
    "/admin/fleet": _ADMIN,
    "/admin/apply": _ADMIN,
    "/admin/cache/stats": _ADMIN,
    "/admin/cache/ttl": _ADMIN,
    "/admin/scaling": _ADMIN,
    "/admin/keys": _ADMIN,
    "/admin/keys/{id}": _ADMIN,
    "/admin/cordon": _ADMIN,
    "/admin/drain": _ADMIN,
    "/admin/uncordon": _ADMIN,
    "/admin/forget": _ADMIN,
    "/models/load": _ADMIN,
    "/models/unload": _ADMIN,
    "/models/sleep": _ADMIN,
    "/models/wake": _ADMIN,
    "/models/pin": _ADMIN,
    "/models/unpin": _ADMIN,
    "/admin/downshift/stats": _ADMIN,
    "/admin/route/explain": _ADMIN,
    "/models/reload": _ADMIN,
    "/v1/jobs": _JOBS,
    "/v1/jobs/review": _JOBS,
    "/v1/jobs/{id}": _JOBS,
    "/v1/jobs/{id}/logs": _JOBS,
    "/v1/jobs/{id}/cancel": _JOBS,
    "/v1/goals": _JOBS,
    "/v1/goals/{id}": _JOBS,
    "/v1/comparisons": _JOBS,
    "/v1/rollouts": _ADMIN,
    "/v1/rollouts/{id}": _ADMIN,
    "/v1/rollouts/{id}/promote": _ADMIN,
    "/v1/rollouts/{id}/rollback": _ADMIN,
    "/v1/rollouts/{id}/pause": _ADMIN,
    "/v1/rollouts/{id}/resume": _ADMIN,
    "/v1/fleet": _ADMIN,
    "/v1/plan": _ADMIN,
    "/v1/alerts": _ADMIN,
    "/v1/objectives": _ADMIN,
    "/v1/leases": _LEASES,
    "/v1/leases/{id}": _LEASES,
    "/v1/leases/{id}/renew": _LEASES,
}
RPC_NEEDS: Final[dict[str, Need]] = {
    "AcquireGpuLease": Role.LEASES,
    "RenewGpuLease": Role.LEASES,
    "ReleaseGpuLease": Role.LEASES,
    "ListGpuLeases": Role.LEASES,
    "WatchGpuLeases": Role.LEASES,
    "GetHealth": Anyone.OPEN,
    "Infer": Role.INFERENCE,
    "InferStream": Role.INFERENCE,
    "LoadModel": Role.ADMIN,
    "UnloadModel": Role.ADMIN,
    "SubmitJob": Role.JOBS,
    # gRPC's own health service and reflection
    "Check": Anyone.OPEN,
    "Watch": Anyone.OPEN,
    "List": Anyone.OPEN,
    "ServerReflectionInfo": Anyone.ANY_KEY,
}


def need_of(route: str | None, method: str) -> Need:
    """`route` is the template that the router matched; None where it matched none, which any key may be told."""
    if route is None:
        return Anyone.ANY_KEY
    needs = ROUTE_NEEDS.get(route, _ADMIN)
    return needs.reads if method in ("GET", "HEAD") else needs.acts
