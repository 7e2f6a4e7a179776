"""May HTTP be served where Serve listens? Asked by `headroom up` before anything starts, and by the controller.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve_app.access.authorize import may_listen
from serve_app.config.settings import AccessSettings

HTTPS_VARIABLE: Final = "HEADROOM_HTTPS"
"""Set to 1 by `headroom up` where it starts HAProxy with a certificate: HAProxy cannot be asked."""
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - what Serve means by no host


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpListener:
    """`host` as in `http_options`, None for Ray's own choice; `has_tls` when it speaks nothing but TLS."""

    host: str | None
    has_tls: bool


def http_has_tls(*, haproxy: bool, haproxy_has_tls: bool, ray_certificate: str | None) -> bool:
    """Serve hands `ssl_certfile` to its own proxy only; in HAProxy mode it changes nothing. Source: Ray 2.60."""
    return haproxy_has_tls if haproxy else ray_certificate is not None


def http_refusal(listener: HttpListener, access: AccessSettings, *, has_keys: bool, has_ray_token: bool) -> str | None:
    """None, or a sentence about why nothing is served there."""
    if access.certificate_file is not None and not listener.has_tls:
        return (
            "`access.certificate_file` is set, but HTTP is not encrypted: Serve was started without it. Start with "
            "`headroom up`; or, with Ray's own proxy, give `http_options.ssl_certfile` and `ssl_keyfile` the same."
        )
    encrypted = listener.has_tls or access.encrypted_elsewhere
    host = listener.host or _EVERYWHERE
    return may_listen(host, has_keys=has_keys, has_ray_token=has_ray_token, is_encrypted=encrypted)
