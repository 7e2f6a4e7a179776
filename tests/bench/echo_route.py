"""A bare echo route as a Serve application of its own, behind the same ingress as the product.

    RAY_ADDRESS=... python -m tests.bench.echo_route --answer TEXT

Run as a program, so that its classes travel by value and the cluster needs no code of the bench.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from ray import serve
from ray.serve.schema import LoggingConfig

ECHO_PATH = "/bench-echo"


class EchoReplica:
    """Under Serve as the gateway is: a plain ASGI application, no access log."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]

    def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                with contextlib.suppress(Exception):
                    while True:
                        kind = (await receive())["type"].removeprefix("lifespan.")
                        await send({"type": f"lifespan.{kind}.complete"})
                return
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._answer})

        return app


def deploy(answer: bytes) -> None:
    """Add the route to the running cluster; returns when it serves."""
    application = serve.deployment(serve.ingress()(EchoReplica)).options(
        name="bench-echo",
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    serve.run(application.bind(answer), name="bench-echo", route_prefix=ECHO_PATH)


def main() -> None:
    parser = argparse.ArgumentParser(description="Add an echo route to the cluster at RAY_ADDRESS.")
    parser.add_argument("--answer", required=True)
    deploy(parser.parse_args().answer.encode())


if __name__ == "__main__":
    main()
