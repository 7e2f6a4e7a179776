"""Who gets in: by the route that was matched, with one valid key, and everybody else with one and the same answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.authorize import ANONYMOUS, LOCAL, NOT_KNOWN, Caller, authorize, may_listen, may_use
from serve_app.access.keys import NO_KEYS, KeySnapshot, Role
from serve_app.access.lease_keys import LeaseKeys
from serve_app.access.needs import ROUTE_NEEDS, RPC_NEEDS, Anyone, need_of
from serve_app.api.control_routes import CONTROL_ROUTES
from serve_app.api.errors import ApiError
from serve_app.engines.protocol import Endpoint
from serve_app.gateway.standalone import standalone_gateway
from serve_app.leases.keyring import ANYBODY, Asker, KeyRefused
from tests.serve_app.access.makers import NOW_S, bearer, grant, key_store, made, opened

CHAT = "/v1/chat/completions"
PROTO = Path(__file__).parents[3] / "serve_app" / "leases" / "modelops.proto"


def routes() -> set[str]:
    """Every route that the gateway serves, asked of the gateway itself."""
    gateway = standalone_gateway([], secret="s")
    return {endpoint.value for endpoint in Endpoint} | set(gateway.paths) | {one.template for one in CONTROL_ROUTES}


def status(answer: Caller | ApiError) -> int:
    return answer.status if isinstance(answer, ApiError) else 200


class TestRoutes:
    def test_each_has_a_role(self) -> None:
        assert routes() - set(ROUTE_NEEDS) == set()

    def test_are_all_closed_but_health(self) -> None:
        assert {route for route, needs in ROUTE_NEEDS.items() if Anyone.OPEN in (needs.reads, needs.acts)} == {
            "/health"
        }

    @pytest.mark.parametrize("route", sorted(ROUTE_NEEDS))
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
    def test_refuse_whoever_has_no_key(self, route: str, method: str) -> None:
        store, _, _ = opened()
        open_to_all = need_of(route, method) is Anyone.OPEN
        assert status(authorize(route, method, [], store.snapshot(), now_s=NOW_S)) == (200 if open_to_all else 401)

    @pytest.mark.parametrize("role", [Role.INFERENCE, Role.JOBS, Role.LEASES])
    def test_are_served_to_their_role_alone(self, role: Role) -> None:
        store, root, _ = opened()
        _, key = made(store, grant(role), by=root.id)
        for route in ROUTE_NEEDS:
            for method in ("GET", "POST"):
                allowed = need_of(route, method) in (role, *Anyone)
                answer = authorize(route, method, bearer(key), store.snapshot(), now_s=NOW_S)
                assert status(answer) == (200 if allowed else 403), (route, method)

    def test_of_nobody_knows_need_an_admin(self) -> None:
        assert need_of("/admin/of-tomorrow", "GET") is Role.ADMIN


class TestRpcs:
    def test_each_has_a_role(self) -> None:
        named = set(re.findall(r"^\s*rpc (\w+)", PROTO.read_text(), re.MULTILINE))
        assert len(named) >= 10
        assert named - set(RPC_NEEDS) == set()

    def test_are_refused_by_the_same_keys(self) -> None:
        store, root, _ = opened()
        _, key = made(store, grant(Role.LEASES), by=root.id)
        keys = LeaseKeys(snapshot=store.snapshot, now_s=lambda: NOW_S, has_ray_token=True)
        role_missing = KeyRefused(message="This needs a key of the role 'admin'.", is_valid=True)
        assert keys.asker(key.decode(), rpc="AcquireGpuLease") == Asker(tenant="acme", within="acme")
        assert keys.asker(key.decode(), rpc="LoadModel") == role_missing
        assert keys.asker(None, rpc="GetHealth") == ANYBODY
        assert keys.asker(key.decode(), rpc="Unheard") == role_missing
        for bad in (None, "", "hr_", key.decode()[:-1], key.decode() + "A" * 2**20, "ü"):
            assert keys.asker(bad, rpc="AcquireGpuLease") == KeyRefused(message=NOT_KNOWN.message)

    def test_an_admin_sees_all_tenants_only_with_a_key_that_is_bound_to_none(self) -> None:
        store, root, root_key = opened()
        _, bound = made(store, grant(Role.ADMIN), by=root.id)
        keys = LeaseKeys(snapshot=store.snapshot, now_s=lambda: NOW_S, has_ray_token=True)
        assert keys.asker(root_key.decode(), rpc="ListGpuLeases") == Asker(tenant="local", within=None)
        assert keys.asker(bound.decode(), rpc="ListGpuLeases") == Asker(tenant="acme", within="acme")

    def test_a_key_that_a_gateway_has_checked_is_looked_up_anew(self) -> None:
        store, root, _ = opened()
        record, _ = made(store, grant(Role.LEASES), by=root.id)
        other, _ = made(store, grant(Role.INFERENCE), by=root.id)
        keys = LeaseKeys(snapshot=store.snapshot, now_s=lambda: NOW_S, has_ray_token=True)
        assert keys.named(record.id, need=Role.LEASES) == Asker(tenant="acme", within="acme")
        assert keys.named(other.id, need=Role.LEASES) == KeyRefused(
            message="This needs a key of the role 'leases'.", is_valid=True
        )
        store.revoke(record.id, by=root.id, now_s=NOW_S)
        for refused in (record.id, "", "ffffffffffff"):
            assert keys.named(refused, need=Role.LEASES) == KeyRefused(message=NOT_KNOWN.message)

    def test_while_there_are_no_keys_nothing_is_hidden(self) -> None:
        keys = LeaseKeys(snapshot=key_store().snapshot, now_s=lambda: NOW_S, has_ray_token=True)
        assert (keys.asker(None, rpc="ListGpuLeases"), keys.named("", need=Role.LEASES)) == (ANYBODY, ANYBODY)


class TestHeaders:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda key: [],
            lambda key: bearer(key) * 2,
            lambda key: [*bearer(key), (b"authorization", b"Bearer hr_other")],
            lambda key: [(b"authorization", key)],
            lambda key: [(b"authorization", b"Basic " + key)],
            lambda key: [(b"authorization", b"Bearer")],
            lambda key: [(b"authorization", b"Bearer " + key + b"A" * 2**20)],
            lambda key: [(b"authorization", b"Bearer " + b" " * 300 + key)],
            lambda key: [(b"authorization", b"Bearer " + key + b"\n")],
            lambda key: [(b"authorization", b"Bearer " + key + b"," + key)],
            lambda key: [(b"authorization", b"Bearer \xff\xfe")],
            lambda key: bearer(key[:-1] + (b"A" if key[-1:] != b"A" else b"B")),
            lambda key: bearer(b"hr_ffffffffffff" + key[15:]),
            lambda key: bearer(key.upper()),
            lambda key: [(b"x-api-key", key)],
        ],
    )
    def test_that_hold_no_single_valid_key_all_get_the_same_answer(self, spoil: object) -> None:
        assert callable(spoil)
        store, _, key = opened()
        assert authorize(CHAT, "POST", spoil(key), store.snapshot(), now_s=NOW_S) is NOT_KNOWN

    @pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
    def test_may_write_the_scheme_as_they_like(self, scheme: bytes) -> None:
        store, root, key = opened()
        answer = authorize(CHAT, "POST", [(b"authorization", scheme + key)], store.snapshot(), now_s=NOW_S)
        assert isinstance(answer, Caller)
        assert answer.key_id == root.id

    @given(st.binary(max_size=300))
    def test_of_any_bytes_open_nothing(self, value: bytes) -> None:
        store, _, _ = opened()
        sent = [(b"authorization", value)]
        assert authorize(CHAT, "POST", sent, store.snapshot(), now_s=NOW_S) is NOT_KNOWN

    def test_are_not_looked_at_while_there_are_no_keys(self) -> None:
        assert authorize("/admin/keys", "POST", [(b"authorization", b"x")], NO_KEYS, now_s=NOW_S) is LOCAL

    def test_a_401_says_how_to_come_in(self) -> None:
        assert (b"www-authenticate", b"Bearer") in NOT_KNOWN.headers()

    def test_an_open_route_tells_nobody_who_he_is(self) -> None:
        store, _, key = opened()
        assert authorize("/health", "GET", bearer(key), store.snapshot(), now_s=NOW_S) is ANONYMOUS


class TestAKey:
    def test_ends_at_its_end(self) -> None:
        store, root, _ = opened()
        _, key = made(store, grant(expires_at_s=NOW_S + 60), by=root.id)
        assert status(authorize(CHAT, "POST", bearer(key), store.snapshot(), now_s=NOW_S + 59.9)) == 200
        assert authorize(CHAT, "POST", bearer(key), store.snapshot(), now_s=NOW_S + 60) is NOT_KNOWN

    def test_that_was_revoked_is_as_unknown_as_any(self) -> None:
        store, root, _ = opened()
        record, key = made(store, grant(), by=root.id)
        store.revoke(record.id, by=root.id, now_s=NOW_S)
        assert authorize(CHAT, "POST", bearer(key), store.snapshot(), now_s=NOW_S) is NOT_KNOWN

    def test_names_its_tenant(self) -> None:
        store, root, _ = opened()
        _, key = made(store, grant(tenant="acme"), by=root.id)
        answer = authorize(CHAT, "POST", bearer(key), store.snapshot(), now_s=NOW_S)
        assert isinstance(answer, Caller)
        assert answer.tenant == "acme"

    def test_may_use_its_models_only(self) -> None:
        caller = Caller(key_id="a", tenant="acme", grant=grant(models=frozenset({"mini", "small"})))
        assert may_use(caller, "mini") is None
        refused = may_use(caller, "base")
        assert refused is not None
        assert (refused.status, refused.message) == (
            403,
            "This key may not use the model 'base'. It may use: mini, small.",
        )
        assert may_use(LOCAL, "base") is None


class TestListening:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
    def test_on_loopback_is_always_allowed(self, host: str) -> None:
        assert may_listen(host, has_keys=False, has_ray_token=False, is_encrypted=False) is None

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])
    @pytest.mark.parametrize(
        ("has_keys", "has_ray_token", "is_encrypted", "said"),
        [
            (False, True, True, "there are no keys"),
            (True, False, True, "without its token"),
            (True, True, False, "readable on the way"),
        ],
    )
    def test_beyond_needs_keys_rays_token_and_encryption(
        self, host: str, has_keys: bool, has_ray_token: bool, is_encrypted: bool, said: str
    ) -> None:
        refusal = may_listen(host, has_keys=has_keys, has_ray_token=has_ray_token, is_encrypted=is_encrypted)
        assert said in str(refusal)
        assert may_listen(host, has_keys=True, has_ray_token=True, is_encrypted=True) is None

    def test_of_leases_follows_the_same_rule(self) -> None:
        keys = LeaseKeys(snapshot=lambda: NO_KEYS, now_s=lambda: NOW_S, has_ray_token=True)
        assert keys.may_listen("127.0.0.1", encrypted=False) is None
        assert "there are no keys" in str(keys.may_listen("0.0.0.0", encrypted=True))


class TestASnapshot:
    def test_that_was_closed_stays_closed_with_no_key_left(self) -> None:
        snapshot = KeySnapshot(version=9, is_closed=True, records=())
        assert authorize(CHAT, "POST", [], snapshot, now_s=NOW_S) is NOT_KNOWN
