"""Certificates of the edge: what is said of them before anything starts, and who trusts whom."""

from __future__ import annotations

import dataclasses
import ssl
import time
from pathlib import Path

import pytest

from serve_app.access.tls import CertificateUnusable, Doubt, TlsFiles, doubt_about, pinned, trusting
from tests.serve_app.access.certificates import self_signed


class TestACertificate:
    def test_that_lasts_is_not_spoken_of(self, tmp_path: Path) -> None:
        assert doubt_about(self_signed(tmp_path), now_s=time.time()) is None

    def test_that_ends_soon_is_warned_of(self, tmp_path: Path) -> None:
        doubt = doubt_about(self_signed(tmp_path, days=10), now_s=time.time())
        assert doubt is not None
        assert (doubt.is_over, doubt.message.startswith("it expires at ")) == (False, True)

    def test_whose_time_is_over_is_warned_of(self, tmp_path: Path) -> None:
        doubt = doubt_about(self_signed(tmp_path, days=-3), now_s=time.time())
        assert doubt == Doubt(message="no client will accept it: certificate has expired", is_over=True)

    def test_with_the_key_of_another_cannot_serve(self, tmp_path: Path) -> None:
        mixed = dataclasses.replace(self_signed(tmp_path), key=self_signed(tmp_path, name="other").key)
        with pytest.raises(CertificateUnusable, match="is not the one of the certificate"):
            doubt_about(mixed, now_s=0)

    def test_with_a_key_that_needs_a_password_cannot_serve_and_asks_nobody_for_it(self, tmp_path: Path) -> None:
        with pytest.raises(CertificateUnusable, match="without password"):
            doubt_about(self_signed(tmp_path, password=b"secret"), now_s=0)

    @pytest.mark.parametrize("damaged", ["certificate", "key"])
    def test_cannot_serve_when_a_file_is_missing_or_no_pem(self, tmp_path: Path, damaged: str) -> None:
        files = self_signed(tmp_path)
        file: Path = getattr(files, damaged)
        file.write_text("not PEM")
        with pytest.raises(CertificateUnusable, match="are no PEM certificate and private key"):
            doubt_about(files, now_s=0)
        file.unlink()
        with pytest.raises(CertificateUnusable, match=f"'{file}' cannot be read: No such file"):
            doubt_about(files, now_s=0)


class TestTrust:
    def test_in_ones_own_certificate_asks_for_no_name(self, tmp_path: Path) -> None:
        assert shaken(self_signed(tmp_path), pinned(tmp_path / "here.pem"), name="192.0.2.1")

    def test_in_ones_own_certificate_is_in_no_other(self, tmp_path: Path) -> None:
        self_signed(tmp_path)
        with pytest.raises(ssl.SSLCertVerificationError):
            shaken(self_signed(tmp_path, name="other"), pinned(tmp_path / "here.pem"), name="localhost")

    def test_in_a_file_of_authorities_still_asks_for_the_name(self, tmp_path: Path) -> None:
        files = self_signed(tmp_path)
        assert shaken(files, trusting(files.certificate), name="localhost")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shaken(files, trusting(files.certificate), name="example.org")


def shaken(files: TlsFiles, client: ssl.SSLContext, *, name: str) -> bool:
    """Whether a handshake with a server of these files comes to its end. Raises: ssl.SSLError."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files.certificate, files.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(down, up, server_hostname=name), serving.wrap_bio(up, down, server_side=True)
    waiting = True
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
                waiting = False
            except ssl.SSLWantReadError:
                waiting = True
    return not waiting
