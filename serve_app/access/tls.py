"""TLS of the edge: whether a certificate and its key can serve, and how our own programs trust it. Reads files only."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SOON_S: Final = 14 * 86_400
_ROUNDS: Final = 8
"""Flights of a handshake; TLS 1.3 needs two each way."""


class CertificateUnusable(Exception):
    """Its message says what is wrong with the two files, without naming any key of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Two PEM files: the chain, the server's own certificate first, and its private key without a password."""

    certificate: Path
    key: Path


def trusting(ca_file: Path | str) -> ssl.SSLContext:
    """A client that trusts the authorities in `ca_file`, and certificates that stand there themselves.

    Raises: OSError when it cannot be read, ssl.SSLError when it holds no certificate.
    """
    context = ssl.create_default_context(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def pinned(certificate: Path) -> ssl.SSLContext:
    """A client of our own server: takes this very certificate and no other, whatever name it was made for.

    Raises: as `trusting`.
    """
    context = trusting(certificate)
    context.check_hostname = False
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What clients hold against the dates of a certificate: now (`is_over`), or in 14 days."""

    message: str
    is_over: bool


def doubt_about(files: TlsFiles, *, now_s: float) -> Doubt | None:
    """None when all is well. `now_s` is Unix time.

    Serves and asks itself once in memory, so that the judge is the same OpenSSL as in earnest.
    Raises: CertificateUnusable when these files cannot serve at all.
    """
    server = _server(files)
    try:
        shown = _shaken_hands(server, pinned(files.certificate))
    except ssl.SSLCertVerificationError as error:
        return Doubt(message=f"no client will accept it: {error.verify_message}", is_over=True)
    until = str(shown["notAfter"])
    ends_soon = ssl.cert_time_to_seconds(until) < now_s + _SOON_S
    return Doubt(message=f"it expires at {until}", is_over=False) if ends_soon else None


def _server(files: TlsFiles) -> ssl.SSLContext:
    for file in (files.certificate, files.key):
        try:
            file.read_bytes()
        except OSError as error:
            raise CertificateUnusable(f"'{file}' cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password of ours OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        raise CertificateUnusable(_said(error, files)) from error
    return context


def _said(error: ssl.SSLError, files: TlsFiles) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in '{files.key}' is not the one of the certificate in '{files.certificate}'"
    return (
        f"'{files.certificate}' and '{files.key}' are no PEM certificate and private key without password "
        f"({error.reason or error})"
    )


def _shaken_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, object]:
    """The server's certificate as the client saw it. Raises: ssl.SSLCertVerificationError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(down, up)
    serving = server.wrap_bio(up, down, server_side=True)
    for _ in range(_ROUNDS):
        for side in (asking, serving):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return dict(asking.getpeercert() or {})
