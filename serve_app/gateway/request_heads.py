"""The heads of requests the gateway sends, built by hand from parts that are made once per replica. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

PASSED_TO_PEER = frozenset(
    {
        b"x-headroom-mode",
        b"x-headroom-weights-version",
        b"x-headroom-downshift",
        b"cache-control",
        b"content-type",
        b"accept",
    }
)


@lru_cache(maxsize=512)
def _prefix(method: str, url: str, path: str, secret: str) -> bytes:
    host = urlsplit(url).netloc
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-headroom-internal: {secret}\r\n".encode()


def engine_head(
    *, url: str, path: str, secret: str, num_bytes: int, request_id: bytes, trace_headers: Mapping[str, str]
) -> bytes:
    """Head of a POST to an engine replica. Only what the gateway made itself goes out, nothing of the caller's."""
    lines = [
        _prefix("POST", url, path, secret),
        b"content-type: application/json\r\ncontent-length: %d\r\n" % num_bytes,
    ]
    lines.append(b"x-request-id: %s\r\n" % request_id)
    lines.extend(f"{name}: {value}\r\n".encode("latin-1", "ignore") for name, value in trace_headers.items())
    lines.append(b"\r\n")
    return b"".join(lines)


def peer_request(
    *,
    url: str,
    path: str,
    secret: str,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    request_id: bytes,
    key_id: str,
    trace_headers: Mapping[str, str],
) -> bytes:
    """A caller's request for a peer gateway, whole: the same body, and those headers that decide something.

    The key stays here; the peer finds its record by the id, empty where there are no keys.
    """
    lines = [
        _prefix("POST", url, path, secret),
        b"content-length: %d\r\nx-request-id: %s\r\n" % (len(body), request_id),
        b"x-headroom-caller: %s\r\n" % key_id.encode(),
    ]
    lines.extend(b"%s: %s\r\n" % (name, value) for name, value in headers if name in PASSED_TO_PEER)
    lines.extend(f"{name}: {value}\r\n".encode("latin-1", "ignore") for name, value in trace_headers.items())
    return b"".join([*lines, b"\r\n", body])


def get_request(*, url: str, path: str, secret: str) -> bytes:
    return _prefix("GET", url, path, secret) + b"\r\n"
