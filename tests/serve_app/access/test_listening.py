"""Where HTTP may be served: loopback for everybody on it, anywhere else only with keys, Ray's token and encryption."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from serve_app.access.keys import EVERYTHING
from serve_app.access.listening import HttpListener, http_has_tls, http_refusal
from serve_app.access.store import KeyStore, has_keys
from serve_app.config.settings import AccessSettings
from tests.serve_app.access.makers import NOW_S, counting

PLAIN = AccessSettings()
BEHIND_A_PROXY = AccessSettings(encrypted_elsewhere=True)
WITH_TLS = AccessSettings(certificate_file=Path("c.pem"), key_file=Path("k.pem"))
OUTSIDE = ("0.0.0.0", "::", "192.0.2.1", "example.org", None)  # None: Ray's own choice, which is everywhere


def refused(host: str | None, access: AccessSettings, *, tls: bool, keys: bool = True, token: bool = True) -> str:
    """The sentence; empty when it may be served."""
    listener = HttpListener(host=host, has_tls=tls)
    return http_refusal(listener, access, has_keys=keys, has_ray_token=token) or ""


class TestHttp:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_on_loopback_needs_nothing(self, host: str) -> None:
        assert refused(host, PLAIN, tls=False, keys=False, token=False) == ""

    @pytest.mark.parametrize("host", OUTSIDE)
    def test_beyond_loopback_needs_keys_rays_token_and_encryption(self, host: str | None) -> None:
        assert "there are no keys" in refused(host, WITH_TLS, tls=True, keys=False)
        assert "RAY_AUTH_MODE=token" in refused(host, WITH_TLS, tls=True, token=False)
        assert "keys would be readable" in refused(host, PLAIN, tls=False)
        assert refused(host, WITH_TLS, tls=True) == ""

    def test_may_be_encrypted_by_a_proxy_before_it(self) -> None:
        assert refused("0.0.0.0", BEHIND_A_PROXY, tls=False) == ""
        assert "there are no keys" in refused("0.0.0.0", BEHIND_A_PROXY, tls=False, keys=False)

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
    def test_is_never_plain_where_a_certificate_is_configured(self, host: str) -> None:
        assert "HTTP is not encrypted" in refused(host, WITH_TLS, tls=False)


class TestTls:
    def test_of_rays_configuration_counts_for_rays_own_proxy_only(self) -> None:
        assert http_has_tls(haproxy=False, haproxy_has_tls=False, ray_certificate="c.pem")
        assert not http_has_tls(haproxy=True, haproxy_has_tls=False, ray_certificate="c.pem")

    def test_of_our_haproxy_counts_for_haproxy_only(self) -> None:
        assert http_has_tls(haproxy=True, haproxy_has_tls=True, ray_certificate=None)
        assert not http_has_tls(haproxy=False, haproxy_has_tls=True, ray_certificate=None)


class TestKeysBeforeTheStart:
    def test_are_none_without_a_store_and_none_is_made(self, tmp_path: Path) -> None:
        assert not has_keys(tmp_path / "none.sqlite")
        assert list(tmp_path.iterdir()) == []

    def test_are_none_in_a_store_of_something_else(self, tmp_path: Path) -> None:
        sqlite3.connect(tmp_path / "store.sqlite").close()
        assert not has_keys(tmp_path / "store.sqlite")

    def test_are_there_from_the_first_one_on(self, tmp_path: Path) -> None:
        path = tmp_path / "store.sqlite"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")  # as the controller's
        store = KeyStore(connection, randomness=counting())
        assert not has_keys(path)
        made = store.create(EVERYTHING, note="", made_by="", now_s=NOW_S)
        assert not isinstance(made, str)
        assert has_keys(path)
        connection.close()
        assert has_keys(path), "also after the controller has ended and its log is gone"
