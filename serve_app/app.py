"""What `serve run cluster.yaml` imports: from the file's arguments to the Serve application.

Has no side effects: Serve calls it in a remote task, and again when that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve_app.config.load import settings_from_args
from serve_app.controller.deployment import Controller
from serve_app.gateway.deployment import GatewayReplica

_LONG_POLLS = 10_000
_NO_ACCESS_LOG = LoggingConfig(enable_access_log=False, log_level="WARNING")
"""Without the level Serve makes a record of each access before it is dropped. Our loggers have levels of their own."""


def build(args: Mapping[str, Any]) -> Application:
    """Gateway and controller; the controller deploys one further application per model and node.

    Raises: ConfigError, whose sentence Serve shows in the application's status.
    """
    settings = settings_from_args(args)
    controller = serve.deployment(Controller).options(
        name="controller",
        num_replicas=1,
        max_ongoing_requests=_LONG_POLLS,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=1,
        graceful_shutdown_timeout_s=2,
        logging_config=_NO_ACCESS_LOG,
    )
    gateway = serve.deployment(serve.ingress()(GatewayReplica)).options(
        name="gateway",
        num_replicas=settings.gateway.num_replicas,
        max_ongoing_requests=_LONG_POLLS,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=1,
        graceful_shutdown_timeout_s=5,
        logging_config=_NO_ACCESS_LOG,
    )
    return gateway.bind(dict(args), controller.bind(dict(args)))
