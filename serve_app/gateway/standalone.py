"""The gateway without Ray, in front of engine replicas that are named on the command line.

For development and measurements: `python -m serve_app.gateway.standalone --port 8000 --backend mini=http://127.0.0.1:9001`.
Everything the controller would say is answered from the arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.access.keys import NO_KEYS, KeySnapshot
from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer
from serve_app.api.errors import not_found
from serve_app.api.wire import ApplyOutcome, ApplyRequest, ModelAction, ModelOutcome
from serve_app.config.settings import (
    CacheSettings,
    DeviceChoice,
    FleetSettings,
    GatewaySettings,
    ModelSettings,
    ModeSettings,
    SamplingDefaults,
    Settings,
    StorageSettings,
    TracingSettings,
)
from serve_app.gateway.app import Gateway
from serve_app.gateway.routing_table import Backend, Peer, RoutingTable
from tracing import names
from tracing.metrics import Recorder
from tracing.setup import configure

VERSION = "standalone"
NUM_SEQS = 64
_MODES = (("fast", 0.0, 300.0, 2.5), ("balanced", 0.3, 600.0, 3.2), ("creative", 0.9, 1800.0, 4.5))
"""Name, temperature, cache TTL and latency target in seconds. Source: spec rows B3 and B4."""


class NoController:
    """`ControlPlane` of a gateway that stands alone: knows the models it was given and nothing of devices."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = models

    async def health(self) -> Mapping[str, Any]:
        return {"status": "ok", "controller": "none", "reason": "", "models": {}}

    async def models_info(self) -> Mapping[str, Any]:
        return {"models": [{"id": model, "loaded": True, "weights_version": VERSION} for model in self._models]}

    async def fleet(self) -> Mapping[str, Any]:
        return {"headroom": 0.0, "devices": [], "source": "cluster"}

    async def metrics(self) -> bytes:
        return b""

    async def apply(self, asked: ApplyRequest) -> Mapping[str, Any]:
        message = "This gateway stands alone: there is no cluster behind it to change."
        return {"outcome": ApplyOutcome.REFUSED.value, "message": message}

    async def act(self, action: ModelAction, model: str) -> Mapping[str, Any]:
        message = f"This gateway stands alone: there is no cluster behind it to {action.value} '{model}'."
        return {"outcome": ModelOutcome.REFUSED.value, "message": message}

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        message = "This gateway stands alone: there is no cluster behind it."
        return error_answer(not_found(message, code="standalone"))

    async def applying(self) -> Mapping[str, Any]:
        return {"status": "none", "done": 0, "num_batches": 0, "doing": "", "message": ""}


def standalone_settings(models: Sequence[str], *, cache_bytes: int = 64 * 1024 * 1024) -> Settings:
    """Three modes over the given models, in the order given."""
    return Settings(
        fleet=FleetSettings(headroom=0.2, devices=DeviceChoice.HOST),
        models=tuple(_model(model, index) for index, model in enumerate(models)),
        modes=tuple(_mode(row, tuple(models)) for row in _MODES),
        cache=CacheSettings(max_bytes=cache_bytes, redis_url=None),
        gateway=GatewaySettings(
            num_replicas=1, max_body_bytes=1024 * 1024, first_token_timeout_s=60.0, between_tokens_timeout_s=20.0
        ),
        tracing=TracingSettings(sample_ratio=0.0, keep_recent=0),
        storage=StorageSettings(home=Path(), model_roots=()),
    )


def standalone_table(
    backends: Sequence[tuple[str, str]],
    *,
    secret: str,
    peers: Sequence[tuple[str, str]] = (),
    access: KeySnapshot = NO_KEYS,
    num_seqs: int = NUM_SEQS,
) -> RoutingTable:
    """`backends` are pairs of model id and base address, `peers` of a gateway's name and base address.

    Each backend takes `num_seqs` requests at a time.
    """
    return RoutingTable(
        version=1,
        backends=tuple(_backend(index, model, url, num_seqs) for index, (model, url) in enumerate(backends)),
        peers=tuple(Peer(replica=replica, url=url) for replica, url in peers),
        internal_secret=secret,
        access=access,
    )


def standalone_gateway(
    backends: Sequence[tuple[str, str]],
    *,
    secret: str,
    replica: str = "local",
    peers: Sequence[tuple[str, str]] = (),
    access: KeySnapshot = NO_KEYS,
    num_seqs: int = NUM_SEQS,
) -> Gateway:
    """`peers` are all gateways that keep the cache together, this one under its name `replica` among them."""
    models = list(dict.fromkeys(model for model, _ in backends))
    gateway = Gateway(
        settings=standalone_settings(models),
        control=NoController(models),
        recorder=Recorder("standalone"),
        replica=replica,
    )
    gateway.update(standalone_table(backends, secret=secret, peers=peers, access=access, num_seqs=num_seqs))
    return gateway


def _model(model: str, index: int) -> ModelSettings:
    return ModelSettings(
        id=model,
        source=f"default:{model}",
        dtype="float32",
        max_model_len=512,
        max_num_seqs=NUM_SEQS,
        num_replicas=1,
        priority=10,
        kv_cache_bytes=None,
        tensor_parallel=1,
        path=f"models[{index}]",
    )


def _mode(row: tuple[str, float, float, float], candidates: tuple[str, ...]) -> ModeSettings:
    name, temperature, ttl_s, target_s = row
    return ModeSettings(
        name=name,
        candidates=candidates,
        sampling=SamplingDefaults(temperature=temperature, top_p=None, max_tokens=64),
        latency_target_s=target_s,
        cache_ttl_s=ttl_s,
    )


def _backend(index: int, model: str, url: str, num_seqs: int) -> Backend:
    return Backend(
        replica=f"{model}#{index}",
        model=model,
        deployment=f"{model}@local",
        url=url,
        weights_version=VERSION,
        checkpoint_step=None,
        device="local/host",
        max_num_seqs=num_seqs,
        max_model_len=512,
    )


def _pair(text: str) -> tuple[str, str]:
    model, found, url = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError("must be NAME=http://host:port")
    return model, url


def main() -> None:
    """Serve until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(description="The gateway alone, without Ray.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--secret", default="local-secret")
    parser.add_argument("--backend", type=_pair, action="append", required=True, metavar="MODEL=URL")
    parser.add_argument("--replica", default="local", help="this gateway's name among its peers")
    parser.add_argument("--peer", type=_pair, action="append", default=[], metavar="NAME=URL", help="itself as well")
    parser.add_argument("--num-seqs", type=int, default=NUM_SEQS, help="requests one engine works on at a time")
    args = parser.parse_args()
    configure(names.GATEWAY)  # spans go where the environment says, by default nowhere
    gateway = standalone_gateway(
        args.backend, secret=args.secret, replica=args.replica, peers=args.peer, num_seqs=args.num_seqs
    )
    uvicorn.run(gateway, host=args.host, port=args.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
