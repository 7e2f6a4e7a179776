"""The name of an answer: equal exactly when everything an answer may depend on is equal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b, sha256
from typing import Any

import orjson

from serve_app.gateway.routing_table import Peer

_FORM = "headroom-answer-1"
"""Changed whenever what is stored under a key changes its form."""


def cache_key(
    *, tenant: str, mode: str, model: str, weights_version: str, endpoint: str, fields: Mapping[str, Any]
) -> bytes:
    """32 bytes. `fields` is the body to forward, defaults applied, `stream` and `stream_options` included.

    The text hashed is one JSON list, so no delimiter inside a value can move a border. The order of the top
    fields does not matter; order inside them does, because a chat template may print it.
    """
    ordered = sorted(fields.items())
    return sha256(orjson.dumps([_FORM, tenant, mode, model, weights_version, endpoint, ordered])).digest()


def owner(key: bytes, peers: tuple[Peer, ...]) -> Peer:
    """The gateway replica that keeps `key`: the highest of one hash per replica (rendezvous hashing).

    When a replica joins or leaves, only the keys it gains or held move.
    """
    return max(peers, key=lambda peer: (blake2b(key + peer.replica.encode(), digest_size=8).digest(), peer.replica))
