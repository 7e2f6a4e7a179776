"""Ask Ray Serve for engine deployments: one application per model and node, a pool of replicas that claim slots.

The only file that deploys. A replica takes all that makes it different from others with its claim, so that a
changed model or count never gives a deployment a new version, and Serve never restarts what runs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ray import serve
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ReplicaState

from serve_app.controller.slots import EngineDeployment
from serve_app.controller.store import Store
from serve_app.engines.replica import EngineReplica
from serve_app.logs import logger

_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 30.0
_SHUTDOWN_S = 20.0
_START_TRIES = 20
_ONGOING = 100
"""Control calls at once; requests come to a replica over its own HTTP server."""
_VERSION = "1"
"""One version for ever: Serve gives each imperative deployment a new one otherwise, and restarts every replica."""
_GONE = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DELETING, ApplicationStatus.DEPLOY_FAILED)
_LEAVING = (ApplicationStatus.DELETING,)
_DELETE_S = 60.0
_NOTICE_S = 30.0
_POLL_S = 0.2


def deploy_engines(
    wanted: Iterable[EngineDeployment], selector: Callable[[str], dict[str, str]], store: Store, *, delete: bool = True
) -> None:
    """Deploy what is new, scale what has changed, `delete` engine applications that nobody wants. Blocks."""
    wanted = tuple(wanted)
    existing = _settled({deployment.name for deployment in wanted})
    names = set[str]()
    changed = []
    for deployment in wanted:
        names.add(deployment.name)
        digest, overview = _digest(deployment), existing.get(deployment.name)
        if overview is None or overview.status in _GONE or store.deployed(deployment.name) != digest:
            store.save_deployed(deployment.name, digest)
            changed.append(_target(deployment, selector(deployment.node)))
    if changed:
        _log.info("deploying", applications=[target.name for target in changed])
        serve.run_many(changed, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    for name in existing if delete else ():
        if "@" in name and name not in names:
            serve.delete(name, _blocking=False)


def _settled(names: Collection[str]) -> Mapping[str, ApplicationStatusOverview]:
    """The applications of now, once none of `names` is on its way out: Serve would end a new one with the old one."""
    until_s = time.monotonic() + _DELETE_S
    while True:
        applications: Mapping[str, ApplicationStatusOverview] = serve.status().applications
        leaving = [name for name in names if name in applications and applications[name].status in _LEAVING]
        if not leaving or time.monotonic() > until_s:
            return applications
        time.sleep(_POLL_S)


def wait_until_noticed(wanted: Iterable[EngineDeployment]) -> None:
    """Blocks until Serve knows that no deployment has more running replicas than wanted, or for half a minute.

    Asked to run fewer, Serve ends those first that do not run; asked before it has noticed who ended, it would end
    one that serves.
    """
    until_s = time.monotonic() + _NOTICE_S
    most = {deployment.name: deployment.num_replicas for deployment in wanted}
    while time.monotonic() < until_s:
        running = _num_running(most)
        if all(running.get(name, 0) <= number for name, number in most.items()):
            return
        time.sleep(_POLL_S)


def _num_running(names: Collection[str]) -> dict[str, int]:
    applications = serve.status().applications
    return {
        name: sum(one.replica_states.get(ReplicaState.RUNNING, 0) for one in applications[name].deployments.values())
        for name in names
        if name in applications
    }


def _target(deployment: EngineDeployment, selector: dict[str, str]) -> Any:
    application = serve.deployment(EngineReplica).options(
        name=deployment.name,
        version=_VERSION,
        _internal=True,
        num_replicas=deployment.num_replicas,
        # The share actor holds the device; the replica itself takes no counted resource.
        ray_actor_options={"num_cpus": 0, "label_selector": selector},
        user_config={"devices": list(deployment.devices), "share_bytes": deployment.share_bytes},
        # A start may fail for a while, for a device that is not free yet; the controller shows why.
        max_constructor_retry_count=_START_TRIES,
        max_ongoing_requests=_ONGOING,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
    )
    return serve.api.RunTarget(
        target=application.bind(deployment.model, deployment.name),
        name=deployment.name,
        route_prefix=None,
        external_scaler_enabled=True,
    )


def _digest(deployment: EngineDeployment) -> str:
    return hashlib.sha256(repr(deployment).encode()).hexdigest()


_log = logger("headroom.controller")
