"""Builders of certificates: whose, until when, and with which key."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from serve_app.access.tls import TlsFiles

_DAY = datetime.timedelta(days=1)


def self_signed(directory: Path, *, name: str = "here", days: int = 90, password: bytes | None = None) -> TlsFiles:
    """For 127.0.0.1 and localhost, from two hundred days ago until `days` from now; negative: it is over."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 200 * _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(names, critical=False)
        .sign(key, SHA256())
    )
    files = TlsFiles(certificate=directory / f"{name}.pem", key=directory / f"{name}-key.pem")
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    lock = NoEncryption() if password is None else BestAvailableEncryption(password)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    return files
