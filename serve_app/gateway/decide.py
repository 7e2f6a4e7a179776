"""Where a checked request goes and how: mode, model, body to forward, cache key or the reason for none.

Pure: the same request, terms and catalog give the same decision. Knows no HTTP, no clock, no load; which of
several equal backends is asked first is `choose`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any, TypedDict

import orjson

from serve_app.access.authorize import not_allowed
from serve_app.api.errors import ApiError, Origin, conflict, invalid, not_found, unavailable
from serve_app.api.requests import InferenceRequest
from serve_app.config.settings import ModeSettings
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.cache_key import cache_key
from serve_app.gateway.canary import falls_into
from serve_app.gateway.catalog import Catalog
from serve_app.gateway.question import Question, question_of
from serve_app.gateway.routing_table import Backend
from tracing.names import NO_MODE

MODE_HEADER = "x-headroom-mode"
VERSION_HEADER = "x-headroom-weights-version"
DOWNSHIFT_HEADER = "x-headroom-downshift"
NOT_READY_RETRY_S = 5
PREFIX_CHARS = 1024


class Bypass(StrEnum):
    """Why the cache is not asked."""

    NO_MODE = "no_mode"
    MODE_HAS_NO_CACHE = "mode_has_no_cache"
    NO_STORE = "no_store"
    NO_CACHE = "no_cache"
    """Not read, but the fresh answer is stored."""
    OWNER_AWAY = "owner_away"
    """The gateway replica that keeps the key does not answer, so this one answers without a cache."""
    DOWNSHIFTED = "downshifted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the request's headers and its sender add to the body."""

    tenant: str
    models: frozenset[str] | None = None
    """Those that the caller may use; None: all."""
    salt: str | None = None
    """Goes to the engine, whose prefix cache shares nothing between two salts."""
    mode: str | None = None
    pinned: str | None = None
    """The one weights version that may answer."""
    may_downshift: bool = True
    no_store: bool = False
    no_cache: bool = False
    may_be_similar: bool = True
    """An answer to a similar question will do."""
    max_age_s: float | None = None
    """A stored answer that is older is not wanted; None sets no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`body` is what the engine gets. `key` is None when the answer is neither looked up nor stored.

    `backends` are all ready replicas of the model with one weights version, in table order.
    """

    endpoint: Endpoint
    asked_for: str
    """`model` as the caller wrote it; empty when only the header named a mode."""
    mode: str
    model: str
    backends: tuple[Backend, ...]
    body: bytes
    stream: bool
    include_usage: bool
    num_choices: int
    key: bytes | None
    bypass: Bypass | None
    cache_ttl_s: float
    max_age_s: float | None = None
    question: Question | None = None
    """By which similar requests are known; None where the mode does not compare them, or this one cannot be."""
    may_be_similar: bool = True
    settings: ModeSettings | None
    """Of the mode; None where none was asked for."""
    prefix: bytes | None
    """Equal for requests that begin alike, so that one replica's prefix cache serves them; None with one replica."""
    downshifted_from: str | None = None
    """The mode, or within one mode the model, that was under pressure."""

    @property
    def room(self) -> str:
        """Requests of one model and weights version wait for the same replicas."""
        return f"{self.model}@{self.weights_version}"

    @property
    def weights_version(self) -> str:
        return self.backends[0].weights_version

    @property
    def checkpoint_step(self) -> int | None:
        return self.backends[0].checkpoint_step


@dataclass(frozen=True, slots=True)
class Asleep:
    """Nobody serves the request now, but this model may be brought back for it."""

    model: str


def decide(request: InferenceRequest, terms: Terms, catalog: Catalog) -> Decision | ApiError | Asleep:
    """Route one request; an `ApiError` says what is wrong with it or what is not ready."""
    mode = _mode(request, terms, catalog)
    if isinstance(mode, ApiError):
        return mode
    candidates = _candidates(request, mode, catalog)
    if not isinstance(candidates, ApiError):
        candidates = _allowed(candidates, terms)
    if isinstance(candidates, ApiError):
        return candidates
    model = next((candidate for candidate in candidates if candidate in catalog.serving), None)
    if model is None:
        asleep = next((candidate for candidate in candidates if candidate in catalog.wakeable), None)
        return Asleep(asleep) if asleep is not None else _not_ready(candidates, mode, catalog)
    problem = _pin_problem(terms, model, catalog) or _length_problem(request, model, catalog)
    return problem or _decision(request, terms, mode, model, catalog)


def decide_lower(
    request: InferenceRequest, terms: Terms, catalog: Catalog, *, mode: ModeSettings, model: str, instead_of: str
) -> Decision | None:
    """The same request one step down, by the other mode's defaults; None where this model cannot take it.

    Such an answer is neither looked up nor stored: who asks again without pressure shall not get it.
    """
    if model not in catalog.serving or isinstance(_allowed((model,), terms), ApiError):
        return None
    if _pin_problem(terms, model, catalog) or _length_problem(request, model, catalog):
        return None
    lower = _decision(request, terms, mode, model, catalog)
    return replace(lower, key=None, question=None, bypass=Bypass.DOWNSHIFTED, downshifted_from=instead_of)


def _mode(request: InferenceRequest, terms: Terms, catalog: Catalog) -> ModeSettings | ApiError | None:
    if terms.mode is None:
        return catalog.modes.get(request.model or "")
    mode = catalog.modes.get(terms.mode)
    if mode is None:
        message = f"Unknown mode '{terms.mode[:64]}'. Valid modes: {', '.join(catalog.modes)}."
        return not_found(message, param=MODE_HEADER, code="mode_not_found")
    if request.model in catalog.modes and request.model != terms.mode:
        message = (
            f"`model` asks for the mode '{request.model}', the header `{MODE_HEADER}` for '{terms.mode}'. Send one."
        )
        return invalid(message, param=MODE_HEADER, code="conflict")
    return mode


def _candidates(request: InferenceRequest, mode: ModeSettings | None, catalog: Catalog) -> tuple[str, ...] | ApiError:
    """Models that may answer, in order: the model named, else those of the mode."""
    if request.model in catalog.models:
        return (request.model,)  # type: ignore[return-value]  # None is no key of `models`
    if request.model is not None and request.model not in catalog.modes:
        message = f"Unknown model '{request.model}'. Valid values: {catalog.names}."
        return not_found(message, param="model", code="model_not_found")
    if mode is None:
        message = f"The request needs `model`, or the header `{MODE_HEADER}`. Valid values: {catalog.names}."
        return invalid(message, param="model", code="missing_required_parameter")
    return mode.candidates


def _allowed(candidates: tuple[str, ...], terms: Terms) -> tuple[str, ...] | ApiError:
    """Of a mode's models those that the caller may use; refused where he may use none."""
    if terms.models is None:
        return candidates
    allowed = tuple(candidate for candidate in candidates if candidate in terms.models)
    return allowed or not_allowed(candidates[0], terms.models)


def _not_ready(candidates: tuple[str, ...], mode: ModeSettings | None, catalog: Catalog) -> ApiError:
    """What may serve soon is worth waiting for; what is refused says why and asks nobody to come back."""
    if all(candidate in catalog.refusals for candidate in candidates):
        whom = f"No model of the mode '{mode.name}'" if mode else f"The model '{candidates[0]}'"
        reasons = " ".join(catalog.refusals[candidate] for candidate in candidates)
        return unavailable(f"{whom} is not served. {reasons}", code="model_refused", origin=Origin.CONTROLLER)
    names = ", ".join(f"'{candidate}'" for candidate in candidates)
    asked = f"No model of the mode '{mode.name}' is ready" if mode and len(candidates) > 1 else "The model is not ready"
    message = f"{asked}: {names} {'have' if len(candidates) > 1 else 'has'} no serving replica now. Try again later."
    return unavailable(message, code="model_not_ready", retry_after_s=NOT_READY_RETRY_S)


def _length_problem(request: InferenceRequest, model: str, catalog: Catalog) -> ApiError | None:
    limit = min(backend.max_model_len for backend in catalog.serving[model])
    for name in ("max_completion_tokens", "max_tokens", "min_tokens"):
        if request.fields.get(name, 0) > limit:
            message = f"`{name}` is {request.fields[name]}; the model '{model}' takes at most {limit} tokens in all."
            return invalid(message, param=name, code="context_length_exceeded")
    return None


def _pin_problem(terms: Terms, model: str, catalog: Catalog) -> ApiError | None:
    versions = catalog.versions[model]
    if terms.pinned is None or terms.pinned in versions:
        return None
    message = f"The model '{model}' serves no weights '{terms.pinned[:64]}' now. It serves: {', '.join(versions)}."
    return conflict(message, param=VERSION_HEADER, code="weights_version_not_serving")


def _decision(
    request: InferenceRequest, terms: Terms, mode: ModeSettings | None, model: str, catalog: Catalog
) -> Decision:
    fields = _forwarded(request, mode, model)
    bypass = _bypass(terms, mode)
    keyed = bypass is None or bypass is Bypass.NO_CACHE
    mode_name = mode.name if mode else NO_MODE
    backends = _of_one_version(request, terms, mode_name, model, fields, catalog)
    parts = _parts(terms, mode_name, model, backends[0].weights_version, request, fields)
    compares = keyed and mode is not None and mode.semantic_similarity is not None
    return Decision(
        endpoint=request.endpoint,
        asked_for=request.model or "",
        mode=mode_name,
        model=model,
        backends=backends,
        body=orjson.dumps(_as_sent(fields, request, terms)),
        stream=request.stream,
        include_usage=request.include_usage,
        num_choices=request.num_choices,
        key=cache_key(**parts) if keyed else None,
        bypass=bypass,
        cache_ttl_s=mode.cache_ttl_s if mode else 0.0,
        max_age_s=terms.max_age_s,
        question=question_of(**parts) if compares else None,
        may_be_similar=terms.may_be_similar,
        settings=mode,
        prefix=_prefix(fields) if len(backends) > 1 else None,
    )


def _of_one_version(
    request: InferenceRequest, terms: Terms, mode: str, model: str, fields: Mapping[str, Any], catalog: Catalog
) -> tuple[Backend, ...]:
    """Who may answer, of a canary or not; the request itself decides, so that it always meets the same weights."""
    if terms.pinned is not None:
        return catalog.versions[model][terms.pinned]
    canary = catalog.canaries.get(model)
    if canary is not None:
        key = cache_key(**_parts(terms, mode, model, "", request, fields))
        if falls_into(key, share=canary.share, seed=canary.seed):
            return canary.backends
    return catalog.serving[model]


class _Parts(TypedDict):
    """All that an answer may depend on."""

    tenant: str
    mode: str
    model: str
    weights_version: str
    endpoint: str
    fields: Mapping[str, Any]


def _parts(
    terms: Terms, mode: str, model: str, version: str, request: InferenceRequest, fields: Mapping[str, Any]
) -> _Parts:
    return {
        "tenant": terms.tenant,
        "mode": mode,
        "model": model,
        "weights_version": version,
        "endpoint": request.endpoint.value,
        "fields": fields,
    }


def _prefix(fields: Mapping[str, Any]) -> bytes:
    """Of a conversation its first two messages, so that its later turns begin alike; of a prompt its beginning."""
    begin = fields["messages"][:2] if "messages" in fields else fields["prompt"][:PREFIX_CHARS]
    return blake2b(orjson.dumps(begin)[:PREFIX_CHARS], digest_size=8).digest()


def _bypass(terms: Terms, mode: ModeSettings | None) -> Bypass | None:
    if mode is None:
        return Bypass.NO_MODE
    if mode.cache_ttl_s <= 0:
        return Bypass.MODE_HAS_NO_CACHE
    if terms.no_store:
        return Bypass.NO_STORE
    return Bypass.NO_CACHE if terms.no_cache else None


def _forwarded(request: InferenceRequest, mode: ModeSettings | None, model: str) -> dict[str, Any]:
    """The caller's fields, the mode's defaults where the caller is silent, and the model's own id."""
    fields = {**request.fields, "model": model}
    if mode is None:
        return fields
    defaults = mode.sampling
    if defaults.temperature is not None:
        fields.setdefault("temperature", defaults.temperature)
    if defaults.top_p is not None:
        fields.setdefault("top_p", defaults.top_p)
    if defaults.max_tokens is not None and request.max_tokens is None:
        fields["max_tokens"] = defaults.max_tokens
    return fields


def _as_sent(fields: dict[str, Any], request: InferenceRequest, terms: Terms) -> dict[str, Any]:
    """Streams always report usage to the gateway, which counts tokens by it and takes it out where not asked for.

    The salt is no part of the key: the tenant is.
    """
    added: dict[str, Any] = {}
    if request.stream and not request.include_usage:
        added["stream_options"] = {"include_usage": True}
    if terms.salt is not None:
        added["cache_salt"] = terms.salt
    return {**fields, **added} if added else fields
