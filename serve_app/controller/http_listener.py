"""Where the running Serve serves HTTP, and whether it encrypts: asked of Serve itself, not of cluster.yaml."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from serve_app.access.listening import HTTPS_VARIABLE, HttpListener, http_has_tls

_ANSWER_S = 10.0


def serve_listener() -> HttpListener:
    """Raises: what Ray raises."""
    controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    http = ray.get(controller.get_http_config.remote(), timeout=_ANSWER_S)
    has_tls = http_has_tls(
        haproxy=RAY_SERVE_ENABLE_HA_PROXY,
        haproxy_has_tls=os.environ.get(HTTPS_VARIABLE) == "1",
        ray_certificate=http.ssl_certfile,
    )
    return HttpListener(host=http.host, has_tls=has_tls)
