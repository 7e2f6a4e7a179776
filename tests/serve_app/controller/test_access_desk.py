"""Keys in the controller: made and revoked by REST, shown to gateways and lease servers at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import orjson
import pytest

from serve_app.access.keys import KeySnapshot
from serve_app.api.control_routes import ControlAsked
from serve_app.config.settings import AccessSettings
from serve_app.controller.access_desk import AccessDesk
from serve_app.errors import HeadroomError
from serve_app.leases.keyring import Asker, KeyRefused
from tests.serve_app.access.makers import NOW_S, counting


class Desk:
    def __init__(self, path: str = ":memory:", *, settings: AccessSettings | None = None) -> None:
        self.shown: list[KeySnapshot] = []
        self.desk = AccessDesk(
            sqlite3.connect(path, isolation_level=None),
            settings=settings or AccessSettings(),
            has_ray_token=True,
            changed=self.shown.append,
            randomness=counting(),
            now_s=lambda: NOW_S,
        )

    def asked(self, method: str, path: str, body: object = None, *, by: str = "") -> tuple[int, dict[str, str]]:
        sent = b"" if body is None else orjson.dumps(body)
        answer = self.desk.answer(ControlAsked(method=method, path=path, body=sent, key_id=by))
        return answer.status, orjson.loads(answer.body)


class TestAKey:
    def test_made_is_shown_to_the_gateways_at_once(self) -> None:
        one = Desk()
        status, view = one.asked("POST", "/admin/keys", {"roles": ["admin"]})
        assert status == 201
        assert [shown.holder(view["key"].encode(), now_s=NOW_S) is not None for shown in one.shown] == [True]

    def test_revoked_is_gone_from_what_is_shown_and_from_the_lease_servers(self) -> None:
        one = Desk()
        _, root = one.asked("POST", "/admin/keys", {"roles": ["admin"]})
        _, view = one.asked("POST", "/admin/keys", {"roles": ["leases"], "tenant": "acme"}, by=root["id"])
        assert isinstance(one.desk.keyring.asker(view["key"], rpc="AcquireGpuLease"), Asker)
        assert one.asked("DELETE", f"/admin/keys/{view['id']}", by=root["id"])[0] == 200
        assert one.shown[-1].holder(view["key"].encode(), now_s=NOW_S) is None
        assert isinstance(one.desk.keyring.asker(view["key"], rpc="AcquireGpuLease"), KeyRefused)

    def test_that_was_refused_changes_nothing_for_anybody(self) -> None:
        one = Desk()
        assert one.asked("POST", "/admin/keys", {"roles": ["jobs"]})[0] == 403
        assert one.asked("GET", "/admin/keys")[0] == 200
        assert one.shown == []

    def test_outlives_the_controller(self, tmp_path: Path) -> None:
        path = str(tmp_path / "store.sqlite")
        _, view = Desk(path).asked("POST", "/admin/keys", {"roles": ["admin"]})
        assert Desk(path).desk.snapshot().holder(view["key"].encode(), now_s=NOW_S) is not None


class TestTls:
    def test_is_of_the_files_that_are_named_or_none(self, tmp_path: Path) -> None:
        chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
        chain.write_text("chain")
        key.write_text("key")
        tls = Desk(settings=AccessSettings(certificate_file=chain, key_file=key)).desk.tls()
        assert tls is not None
        assert (tls.certificate_chain, tls.private_key) == (b"chain", b"key")
        assert Desk().desk.tls() is None

    def test_that_cannot_be_read_is_said_and_not_left_out(self, tmp_path: Path) -> None:
        missing = AccessSettings(certificate_file=tmp_path / "none.pem", key_file=tmp_path / "none.pem")
        with pytest.raises(HeadroomError, match=r"access\.certificate_file"):
            Desk(settings=missing).desk.tls()
