"""Ask Ray Serve for the engine deployments of a plan: one application per model and node, nothing deployed twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from ray import serve
from ray.serve.schema import ApplicationStatus

from serve_app.controller.slots import EngineDeployment
from serve_app.controller.store import Store
from serve_app.engines.replica import EngineReplica
from serve_app.logs import logger

_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 30.0
_SHUTDOWN_S = 20.0
_START_TRIES = 20
_GONE = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DELETING, ApplicationStatus.DEPLOY_FAILED)


def deploy_engines(wanted: Sequence[EngineDeployment], selector: Callable[[str], dict[str, str]], store: Store) -> None:
    """Deploy what is new or has changed, delete engine applications that the plan no longer has. Blocks."""
    existing = serve.status().applications
    changed = []
    for deployment in wanted:
        name, digest = deployment.spec.deployment, _digest(deployment)
        overview = existing.get(name)
        if overview is None or overview.status in _GONE or store.deployed(name) != digest:
            store.save_deployed(name, digest)
            changed.append(_target(deployment, selector(deployment.node)))
    if changed:
        _log.info("deploying", applications=[target.name for target in changed])
        serve.run_many(changed, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    names = {deployment.spec.deployment for deployment in wanted}
    for name in existing:
        if "@" in name and name not in names:
            serve.delete(name, _blocking=False)


def _target(deployment: EngineDeployment, selector: dict[str, str]) -> Any:
    spec = deployment.spec
    application = serve.deployment(EngineReplica).options(
        name=spec.deployment,
        num_replicas=deployment.num_replicas,
        # The share actor holds the device; the replica itself takes no counted resource.
        ray_actor_options={"num_cpus": 0, "label_selector": selector},
        user_config={"devices": list(deployment.devices), "share_bytes": deployment.share_bytes},
        # A start may fail for a while, for a device that is not free yet; the controller shows why.
        max_constructor_retry_count=_START_TRIES,
        max_ongoing_requests=spec.max_num_seqs,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
    )
    return serve.api.RunTarget(
        target=application.bind(spec), name=spec.deployment, route_prefix=None, external_scaler_enabled=True
    )


def _digest(deployment: EngineDeployment) -> str:
    return hashlib.sha256(repr(deployment).encode()).hexdigest()


_log = logger("headroom.controller")
