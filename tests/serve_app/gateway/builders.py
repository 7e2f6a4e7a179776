"""Settings, tables and requests for gateway tests, written so that a test reads as a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import orjson

from serve_app.api.errors import ApiError
from serve_app.api.requests import InferenceRequest, parse_request
from serve_app.config.settings import ModelSettings, ModeSettings, Settings
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.catalog import Catalog, make_catalog
from serve_app.gateway.decide import Decision, Terms, decide
from serve_app.gateway.routing_table import Backend, Peer, RoutingTable
from serve_app.gateway.standalone import standalone_settings

SECRET = "test-secret"
MODELS = ("mini", "small", "base")


def settings(
    *,
    candidates: dict[str, tuple[str, ...]] | None = None,
    ttl_s: dict[str, float] | None = None,
    cache_bytes: int = 4 * 1024 * 1024,
    max_body_bytes: int = 64 * 1024,
    first_token_timeout_s: float = 10.0,
    between_tokens_timeout_s: float = 10.0,
) -> Settings:
    """`standalone_settings` of three models; by default every mode has all of them as candidates, in order."""
    made = standalone_settings(MODELS, cache_bytes=cache_bytes)
    gateway = dataclasses.replace(
        made.gateway,
        max_body_bytes=max_body_bytes,
        first_token_timeout_s=first_token_timeout_s,
        between_tokens_timeout_s=between_tokens_timeout_s,
    )
    modes = tuple(_changed(mode, candidates or {}, ttl_s or {}) for mode in made.modes)
    return dataclasses.replace(made, gateway=gateway, modes=modes)


def _changed(mode: ModeSettings, candidates: dict[str, tuple[str, ...]], ttl_s: dict[str, float]) -> ModeSettings:
    return dataclasses.replace(
        mode,
        candidates=candidates.get(mode.name, mode.candidates),
        cache_ttl_s=ttl_s.get(mode.name, mode.cache_ttl_s),
    )


def backend(
    model: str, *, url: str = "http://127.0.0.1:9", number: int = 0, version: str = "v1", max_model_len: int = 512
) -> Backend:
    return Backend(
        replica=f"{model}#{number}",
        model=model,
        deployment=f"{model}@node",
        url=url,
        weights_version=version,
        checkpoint_step=400,
        device="node/host",
        max_num_seqs=8,
        max_model_len=max_model_len,
    )


def table(*backends: Backend, peers: tuple[Peer, ...] = (), version: int = 1, secret: str = SECRET) -> RoutingTable:
    return RoutingTable(version=version, backends=backends, peers=peers, internal_secret=secret)


def catalog(
    *backends: Backend,
    of: Settings | None = None,
    refusals: Mapping[str, str] | None = None,
    wakeable: tuple[str, ...] = (),
) -> Catalog:
    shown = dataclasses.replace(table(*backends), refusals=tuple((refusals or {}).items()), wakeable=wakeable)
    return make_catalog(of or settings(), shown)


def model_settings(of: Settings, model: str) -> ModelSettings:
    return next(known for known in of.models if known.id == model)


def chat(model: str | None = "fast", text: str = "1+1", **fields: Any) -> dict[str, Any]:
    """Body of a chat request; `model=None` leaves the model out."""
    named = {} if model is None else {"model": model}
    return {**named, "messages": [{"role": "user", "content": text}], **fields}


def parsed(body: dict[str, Any], endpoint: Endpoint = Endpoint.CHAT) -> InferenceRequest:
    request = parse_request(endpoint, orjson.dumps(body))
    assert isinstance(request, InferenceRequest), request
    return request


def refused(body: Any, endpoint: Endpoint = Endpoint.CHAT) -> ApiError:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    request = parse_request(endpoint, raw)
    assert isinstance(request, ApiError), request
    return request


def decided(body: dict[str, Any], known: Catalog, **terms: Any) -> Decision:
    decision = decide(parsed(body), Terms(**{"tenant": "local", **terms}), known)
    assert isinstance(decision, Decision), decision
    return decision


def not_decided(body: dict[str, Any], known: Catalog, **terms: Any) -> ApiError:
    decision = decide(parsed(body), Terms(**{"tenant": "local", **terms}), known)
    assert isinstance(decision, ApiError), decision
    return decision
