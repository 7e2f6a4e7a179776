"""Keys as they are kept: by their digest, never wider than their maker, each change a newer snapshot."""

from __future__ import annotations

import pickle
import sqlite3
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.keys import EVERYTHING, Grant, Role, digest_of, new_key, wider_than
from serve_app.access.rest import answer_keys
from serve_app.access.store import KeyStore
from serve_app.api.control_routes import ControlAsked
from tests.serve_app.access.makers import NOW_S, counting, grant, key_store, made, opened

names = st.sampled_from(["mini", "small", "base"])
grants = st.builds(
    Grant,
    roles=st.frozensets(st.sampled_from(Role), min_size=1),
    tenant=st.sampled_from([None, "acme", "zeta"]),
    models=st.none() | st.frozensets(names, min_size=1),
    requests_per_min=st.none() | st.integers(1, 9),
    tokens_per_min=st.none() | st.integers(1, 9),
    expires_at_s=st.none() | st.floats(1, 9),
)


def allowed(of: Grant) -> set[tuple[object, ...]]:
    """Everything a grant allows in a world of a few words, for comparing two without our own rules."""
    return {
        (role, tenant, model, requests, tokens, at_s)
        for role in Role
        if of.has(role)
        for tenant in (["acme", "zeta"] if of.tenant is None else [of.tenant])
        for model in (["mini", "small", "base"] if of.models is None else of.models)
        for requests in range(1, 11)
        if of.requests_per_min is None or requests <= of.requests_per_min
        for tokens in (1, 5, 10)
        if of.tokens_per_min is None or tokens <= of.tokens_per_min
        for at_s in (0, 3, 6, 9, 12)
        if of.expires_at_s is None or at_s < of.expires_at_s
    }


class TestAKey:
    def test_is_kept_as_its_digest_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "keys.sqlite"
        store = key_store(sqlite3.connect(file, isolation_level=None))
        record, text = made(store)
        assert record.digest == digest_of(text)
        assert text[16:] not in file.read_bytes()
        assert text.decode() not in repr(record)
        assert repr(record.digest) not in repr(record)

    def test_has_a_secret_of_256_bits(self) -> None:
        key_id, text = new_key(bytes(38))
        assert (key_id, len(text)) == ("0" * 12, 59)
        assert text != new_key(bytes(37) + b"\x01")[1]

    def test_survives_a_restart(self, tmp_path: Path) -> None:
        file = tmp_path / "keys.sqlite"
        first = key_store(sqlite3.connect(file, isolation_level=None))
        root, text = made(first)
        again = KeyStore(sqlite3.connect(file, isolation_level=None), randomness=counting())
        assert again.snapshot() == first.snapshot()
        assert again.snapshot().holder(text, now_s=NOW_S) == root

    @given(grants, grants)
    def test_is_never_wider_than_its_maker(self, wanted: Grant, maker: Grant) -> None:
        if wider_than(wanted, maker) is None:
            assert allowed(wanted) <= allowed(maker)

    @given(grants)
    def test_may_always_be_as_wide_as_its_maker(self, maker: Grant) -> None:
        assert wider_than(maker, maker) is None

    def test_is_not_made_by_one_that_is_not_valid_any_more(self) -> None:
        store, root, _ = opened()
        short, _ = made(store, grant(Role.ADMIN, expires_at_s=NOW_S + 1), by=root.id)
        wanted = grant(expires_at_s=NOW_S + 1)
        assert "not valid any more" in str(store.create(wanted, note="", made_by=short.id, now_s=NOW_S + 1))
        assert "not valid any more" in str(store.create(wanted, note="", made_by="", now_s=NOW_S))

    def test_needs_a_tenant_unless_it_is_bound_by_nothing(self) -> None:
        store, root, _ = opened()
        assert "needs a tenant" in str(store.create(grant(tenant=None), note="", made_by=root.id, now_s=NOW_S))


class TestTheFirstKey:
    @pytest.mark.parametrize(
        "wanted",
        [
            grant(),
            grant(Role.ADMIN),
            replace(EVERYTHING, requests_per_min=5),
            replace(EVERYTHING, expires_at_s=NOW_S + 9),
            replace(EVERYTHING, models=frozenset({"mini"})),
        ],
    )
    def test_is_an_admins_that_is_bound_by_nothing(self, wanted: Grant) -> None:
        store = key_store()
        assert "The first key must be" in str(store.create(wanted, note="", made_by="", now_s=NOW_S))
        assert not store.snapshot().is_closed

    def test_closes_the_door_for_good(self) -> None:
        store, root, _ = opened()
        assert store.snapshot().is_closed
        assert "is the last" in str(store.revoke(root.id, by=root.id, now_s=NOW_S))

    def test_may_go_once_there_is_another_like_it(self) -> None:
        store, root, _ = opened()
        second, _ = made(store, EVERYTHING, by=root.id)
        gone = store.revoke(root.id, by=second.id, now_s=NOW_S)
        assert not isinstance(gone, str)
        assert gone is not None
        assert gone.revoked_at_s == NOW_S


class TestRevoking:
    def test_takes_a_key_out_of_the_next_snapshot_which_is_newer(self) -> None:
        store, root, _ = opened()
        record, key = made(store, grant(), by=root.id)
        before = store.snapshot()
        store.revoke(record.id, by=root.id, now_s=NOW_S)
        after = store.snapshot()
        assert after.version > before.version
        assert (before.holder(key, now_s=NOW_S), after.holder(key, now_s=NOW_S)) == (record, None)

    def test_twice_changes_nothing(self) -> None:
        store, root, _ = opened()
        record, _ = made(store, grant(), by=root.id)
        store.revoke(record.id, by=root.id, now_s=NOW_S)
        version = store.snapshot().version
        again = store.revoke(record.id, by=root.id, now_s=NOW_S + 5)
        assert not isinstance(again, str)
        assert again is not None
        assert (again.revoked_at_s, store.snapshot().version) == (NOW_S, version)

    def test_is_not_for_keys_that_may_more_than_the_one_that_asks(self) -> None:
        store, root, _ = opened()
        admin, _ = made(store, grant(Role.ADMIN, tenant="acme"), by=root.id)
        other, _ = made(store, grant(tenant="zeta"), by=root.id)
        assert "may do more" in str(store.revoke(other.id, by=admin.id, now_s=NOW_S))
        assert "may do more" in str(store.revoke(root.id, by=admin.id, now_s=NOW_S))


class TestASnapshot:
    def test_travels_between_processes(self) -> None:
        store, root, key = opened()
        came = pickle.loads(pickle.dumps(store.snapshot()))
        assert came == store.snapshot()
        assert came.holder(key, now_s=NOW_S) == root


class TestThePages:
    def ask(
        self, store: KeyStore, method: str, path: str = "", *, by: str = "", body: object = None, **query: str
    ) -> tuple[int, dict[str, object]]:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        asked = ControlAsked(method=method, path=f"/admin/keys{path}", query=query, body=raw, key_id=by)
        answer = answer_keys(store, asked, now_s=NOW_S)
        return answer.status, orjson.loads(answer.body)

    def test_show_a_key_when_it_is_made_and_never_again(self) -> None:
        store = key_store()
        status, root = self.ask(store, "POST", body={"roles": ["admin"], "note": "mine"})
        assert (status, root["state"], root["note"]) == (201, "valid", "mine")
        text = str(root["key"])
        assert store.snapshot().holder(text.encode(), now_s=NOW_S) is not None
        by = str(root["id"])
        for path in ("", f"/{by}"):
            status, shown = self.ask(store, "GET", path, by=by)
            assert status == 200
            assert text[16:] not in orjson.dumps(shown).decode()
            assert "digest" not in orjson.dumps(shown).decode()

    def test_make_keys_with_all_their_bounds(self) -> None:
        store, root, _ = opened()
        bounds = {"requests_per_min": 60, "tokens_per_min": 1000, "lifetime_s": 86400}
        body = {"roles": ["inference"], "tenant": "acme", "models": ["mini"], **bounds}
        status, key = self.ask(store, "POST", by=root.id, body=body)
        assert (status, key["models"], key["requests_per_min"]) == (201, ["mini"], 60)
        assert (key["expires_at_s"], key["made_by"]) == (NOW_S + 86400, root.id)

    @pytest.mark.parametrize(
        "spoil",
        [
            *(
                {"roles": []},
                {"roles": ["root"]},
                {"tenant": ""},
                {"tenant": "../x"},
                {"tenant": "a b"},
                {"models": []},
            ),
            *({"requests_per_min": 0}, {"requests_per_min": -1}, {"requests_per_min": 1.5}, {"tokens_per_min": "9"}),
            *({"lifetime_s": 0}, {"lifetime_s": -1}, {"lifetime_s": 1e12}, {"expires": 5}, {"note": "x" * 129}),
        ],
    )
    def test_refuse_a_malformed_wish_and_name_its_field(self, spoil: dict[str, object]) -> None:
        store, root, _ = opened()
        status, told = self.ask(store, "POST", by=root.id, body={"roles": ["jobs"], "tenant": "acme"} | spoil)
        assert status == 400
        (name,) = spoil
        error = told["error"]
        assert isinstance(error, dict)
        assert str(error["param"]).startswith(name)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"roles":["jobs"],"lifetime_s":NaN}'])
    def test_refuse_what_is_no_wish(self, body: bytes) -> None:
        store, root, _ = opened()
        assert self.ask(store, "POST", by=root.id, body=body)[0] == 400

    def test_refuse_a_key_wider_than_its_maker(self) -> None:
        store, root, _ = opened()
        admin, _ = made(store, grant(Role.ADMIN, tenant="acme"), by=root.id)
        status, told = self.ask(store, "POST", by=admin.id, body={"roles": ["jobs"], "tenant": "zeta"})
        assert (status, "tenant 'acme'" in str(told)) == (403, True)

    def test_show_the_admin_of_a_tenant_only_its_own(self) -> None:
        store, root, _ = opened()
        admin, _ = made(store, grant(Role.ADMIN, tenant="acme"), by=root.id)
        other, _ = made(store, grant(tenant="zeta"), by=root.id)
        _, listed = self.ask(store, "GET", by=admin.id, tenant="zeta")
        assert [key["id"] for key in listed["keys"]] == [admin.id]  # type: ignore[attr-defined]  # JSON
        assert self.ask(store, "GET", f"/{other.id}", by=admin.id)[0] == 404
        assert self.ask(store, "DELETE", f"/{other.id}", by=admin.id)[0] == 404

    def test_turn_page_by_page(self) -> None:
        store, root, _ = opened()
        for _ in range(4):
            made(store, grant(), by=root.id)
        seen: list[str] = []
        after: object = ""
        while after is not None:
            _, page = self.ask(store, "GET", by=root.id, limit="2", after=str(after))
            seen += [key["id"] for key in page["keys"]]  # type: ignore[attr-defined]  # JSON
            after = page["next"]
        assert len(seen) == len(set(seen)) == 5

    def test_revoke_and_say_so(self) -> None:
        store, root, _ = opened()
        record, _ = made(store, grant(), by=root.id)
        status, told = self.ask(store, "DELETE", f"/{record.id}", by=root.id, body={})
        assert (status, told["state"]) == (200, "revoked")

    @pytest.mark.parametrize(
        ("method", "path", "query", "status"),
        [
            ("GET", "/nobody", {}, 404),
            ("DELETE", "/nobody", {}, 404),
            ("POST", "/nobody", {}, 405),
            ("DELETE", "", {}, 405),
            ("GET", "", {"limit": "0"}, 400),
            ("GET", "", {"limit": "-1"}, 400),
            ("GET", "", {"limit": "1001"}, 400),
            ("GET", "", {"color": "red"}, 400),
        ],
    )
    def test_refuse_what_there_is_not(self, method: str, path: str, query: dict[str, str], status: int) -> None:
        store, root, _ = opened()
        assert self.ask(store, method, path, by=root.id, body={}, **query)[0] == status
