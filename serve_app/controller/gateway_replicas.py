"""How many gateways Ray Serve runs, and asking it for another number: in place, without a new deployment.

Serve does so only for applications with `external_scaler_enabled`; for others it says no, and so do we.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import ray
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.exceptions import ExternalScalerDisabledError
from ray.serve.schema import ReplicaState

from serve_app.config.serve_file import APPLICATION

DEPLOYMENT: Final = "gateway"
NOT_ALLOWED: Final = (
    "Ray Serve may not change the number of gateways. Set `external_scaler_enabled: true` beside `import_path` in "
    "cluster.yaml, and deploy it again."
)


class GatewayReplicas(Protocol):
    async def count(self) -> int: ...

    async def scale(self, count: int) -> str | None:
        """None once Serve has been told; else the sentence why it will not."""
        ...


class ServeGateways:
    """`GatewayReplicas` of the application this runs in. Raises what Ray raises."""

    async def count(self) -> int:
        """Those that run or start."""
        return await asyncio.to_thread(_count)

    async def scale(self, count: int) -> str | None:
        # What Serve's own REST route for scaling calls. Source: Ray 2.60 `dashboard/modules/serve/serve_head.py`.
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        deployment = DeploymentID(name=DEPLOYMENT, app_name=APPLICATION)
        try:
            await controller.update_deployment_replicas.remote(deployment, count)
        except ExternalScalerDisabledError:
            return NOT_ALLOWED
        return None


def _count() -> int:
    states = serve.status().applications[APPLICATION].deployments[DEPLOYMENT].replica_states
    return sum(number for state, number in states.items() if state != ReplicaState.STOPPING)
