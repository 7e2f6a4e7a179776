"""The Ray Serve config around our arguments: which keys Serve knows, and the few whose values matter to us.

Ray itself lets unknown keys pass, so a misspelt one would be silently ignored; here it is an error. Ray is not
imported for that: a test keeps the key names equal to `ray.serve.schema`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.config.schema import ClusterArgs

APPLICATION = "headroom"
IMPORT_PATH = "serve_app.app:build"
DEFAULT_PORT = 8000


class ServeSection(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ServeHttp(ServeSection):
    """Keys of `ray.serve.schema.HTTPOptionsSchema`; defaults of `host` and `port` are Ray's."""

    host: str = Field("0.0.0.0", min_length=1, description="Address to listen on.")
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="Port to listen on.")
    root_path: Any = None
    request_timeout_s: Any = None
    keep_alive_timeout_s: Any = None
    ssl_keyfile: Any = None
    ssl_certfile: Any = None
    ssl_keyfile_password: Any = None
    ssl_ca_certs: Any = None


class ServeApplication(ServeSection):
    """Keys of `ray.serve.schema.ServeApplicationSchema`. `args` of ours are checked apart, see `load.py`."""

    name: str
    route_prefix: str | None = "/"
    import_path: str
    args: dict[str, Any] = Field(default_factory=dict)
    runtime_env: Any = None
    host: Any = None
    port: Any = None
    deployments: Any = None
    autoscaling_policy: Any = None
    logging_config: Any = None
    external_scaler_enabled: Any = None


class ServeFile(ServeSection):
    """Keys of `ray.serve.schema.ServeDeploySchema`."""

    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] = "EveryNode"
    http_options: ServeHttp = Field(default_factory=ServeHttp)
    applications: list[ServeApplication] = Field(min_length=1)
    grpc_options: Any = None
    controller_options: Any = None
    logging_config: Any = None
    tracing_config: Any = None
    target_capacity: Any = None


def json_schema() -> dict[str, Any]:
    """JSON Schema of the whole file, for editors: our arguments where the application is ours."""
    whole = ServeFile.model_json_schema()
    ours = ClusterArgs.model_json_schema(ref_template="#/$defs/{model}")
    whole["$defs"] |= ours.pop("$defs") | {"ClusterArgs": ours}
    whole["$defs"]["ServeApplication"] |= {
        "if": {"properties": {"name": {"const": APPLICATION}}},
        "then": {"properties": {"args": {"$ref": "#/$defs/ClusterArgs"}, "import_path": {"const": IMPORT_PATH}}},
    }
    return whole | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "cluster.yaml"}
