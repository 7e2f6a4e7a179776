"""What the gateway may forward to: a frozen table that the controller publishes and the gateway only reads."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.access.keys import NO_KEYS, KeySnapshot
from serve_app.config.settings import ModelSettings, ModeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One ready engine replica.

    `url` is the base address of its own HTTP server; `deployment` is `<model>@<node>`.
    `checkpoint_step` is the trainer's step, None when the checkpoint does not say.
    """

    replica: str
    model: str
    deployment: str
    url: str
    weights_version: str
    checkpoint_step: int | None
    device: str
    max_num_seqs: int
    max_model_len: int
    max_in_flight: int | None = None
    """Most requests at a time while its device is throttled, over all gateways; None sets no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One gateway replica, for finding the owner of a cache key."""

    replica: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What callers may ask for; it changes while the cluster runs."""

    models: tuple[ModelSettings, ...]
    modes: tuple[ModeSettings, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """New weights of a model beside the old: `share` of its requests, 0 to 1, goes to `weights_version`.

    `seed` is constant through one rollout and differs between rollouts, so that each tries other requests. With
    share 0 only requests that pin the version reach it.
    """

    model: str
    weights_version: str
    share: float
    seed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTable:
    version: int
    backends: tuple[Backend, ...]
    peers: tuple[Peer, ...]
    internal_secret: str
    """Sent as `x-headroom-internal` to engines and peers, who refuse requests without it."""
    refusals: tuple[tuple[str, str], ...] = ()
    """Model and sentence of each model that the plan in force, or its checkpoint, does not let serve."""
    wakeable: tuple[str, ...] = ()
    """Models without a replica that a request may bring back."""
    offer: Offer | None = None
    """None: what the gateway's own settings say."""
    canaries: tuple[Canary, ...] = ()
    """At most one of each model."""
    access: KeySnapshot = NO_KEYS
    """Whose requests are answered; without keys everybody's, and then nothing listens beyond loopback."""
