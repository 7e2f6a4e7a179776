"""Keys at the gateway: who gets in where, whose answers are whose, and how much each may ask."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.access.keys import Role
from serve_app.access.needs import Anyone, need_of
from serve_app.access.store import KeyStore
from serve_app.gateway.routing_table import RoutingTable
from tests.serve_app.access.makers import grant, key_store, made, opened
from tests.serve_app.gateway.builders import SECRET, backend, chat, table
from tests.serve_app.gateway.serving import Stage, stage, two_gateways

FOREVER = 10**10
NOW_S = 1.0


class Closed:
    """A stage whose gateways ask for keys. `root` is the first key."""

    def __init__(self, *stages: Stage) -> None:
        self.stages = stages
        self.store: KeyStore = key_store()
        record, root = made(self.store, now_s=NOW_S)
        self.root_id, self.root = record.id, root.decode()
        self._version = 100
        self.publish()

    def key(self, *roles: Role, tenant: str = "acme", **bounds: Any) -> str:
        _, key = made(self.store, grant(*roles, tenant=tenant, **bounds), by=self.root_id, now_s=NOW_S)
        self.publish()
        return key.decode()

    def publish(self) -> None:
        """What the controller does with every change of the keys."""
        self._version += 1
        for one in self.stages:
            known: RoutingTable | None = one.gateway._table
            assert known is not None
            one.gateway.update(dataclasses.replace(known, version=self._version, access=self.store.snapshot()))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextlib.asynccontextmanager
async def closed(*models: str, **options: Any) -> AsyncIterator[tuple[Stage, Closed]]:
    async with stage(*(models or ("mini",)), **options) as one:
        yield one, Closed(one)


class TestARoute:
    async def test_refuses_whoever_has_no_key_each_with_the_same_words(self) -> None:
        async with closed() as (one, keys):
            bodies = set()
            for template in sorted(one.gateway.paths):
                for method in ("GET", "POST", "DELETE"):
                    if need_of(template, method) is Anyone.OPEN:
                        continue
                    answer = await one.http.request(method, template.replace("{id}", "x"), json={})
                    assert answer.status_code == 401, (method, template)
                    bodies.add(answer.content)
            assert len(bodies) == 1
            assert [one.control.asked, one.control.acted, one.control.applied] == [[], [], []]
            assert one.engine.counts.num_started == 0
            assert keys.root not in str(bodies)

    async def test_lets_a_role_do_what_is_its_own_and_nothing_else(self) -> None:
        async with closed() as (one, keys):
            for role in Role:
                key = bearer(keys.root if role is Role.ADMIN else keys.key(role))
                for template in sorted(one.gateway.paths):
                    may = need_of(template, "GET") in (role, *Anyone) or role is Role.ADMIN
                    answer = await one.http.get(template.replace("{id}", "x"), headers=key)
                    assert (answer.status_code in (401, 403)) != may, (role, template)

    async def test_that_does_not_exist_is_told_only_to_who_has_a_key(self) -> None:
        async with closed() as (one, keys):
            assert (await one.http.get("/admin/../v1/nothing")).status_code == 401
            assert (await one.http.get("/nothing", headers=bearer(keys.key()))).status_code == 404

    async def test_is_open_while_there_are_no_keys(self) -> None:
        async with stage("mini") as one:
            assert (await one.chat(chat())).status_code == 200
            assert (await one.http.get("/admin/cache/stats")).status_code == 200

    async def test_of_health_is_open_always(self) -> None:
        async with closed() as (one, _):
            assert (await one.http.get("/health")).status_code == 200

    async def test_says_to_the_controller_whose_key_it_was(self) -> None:
        async with closed() as (one, keys):
            await one.http.get("/v1/fleet", headers=bearer(keys.root))
            assert [asked.key_id for asked in one.control.asked] == [keys.root_id]


class TestAKey:
    async def test_that_was_revoked_is_refused_with_the_next_table(self) -> None:
        async with closed() as (one, keys):
            key = keys.key()
            assert (await one.chat(chat(), **bearer(key))).status_code == 200
            keys.store.revoke(key.split("_")[1], by=keys.root_id, now_s=NOW_S)
            keys.publish()
            assert (await one.chat(chat(), **bearer(key))).status_code == 401

    async def test_that_has_expired_is_refused(self) -> None:
        async with closed() as (one, keys):
            assert (await one.chat(chat(), **bearer(keys.key(expires_at_s=NOW_S + 1)))).status_code == 401
            assert (await one.chat(chat(), **bearer(keys.key(expires_at_s=FOREVER)))).status_code == 200

    async def test_sent_twice_or_in_a_megabyte_is_none(self) -> None:
        async with closed() as (one, keys):
            value = f"Bearer {keys.key()}".encode()
            sent: list[dict[str, Any]] = []

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"{}"}

            for headers in ([value, value], [b"Bearer " + b"x" * 1024 * 1024], [value + b"x" * 1024]):
                for path in ("/v1/chat/completions", "/v1/fleet"):
                    named = [(b"authorization", value) for value in headers]
                    scope = {"type": "http", "path": path, "method": "POST", "headers": named, "query_string": b""}
                    await one.gateway(scope, receive, send)
            assert {message["status"] for message in sent if "status" in message} == {401}
            assert len({message["body"] for message in sent if "body" in message}) == 1

    async def test_uses_the_models_it_names_and_no_other_not_behind_a_mode_either(self) -> None:
        async with closed("mini", "small") as (one, keys):
            small = bearer(keys.key(models=frozenset({"small"})))
            base = bearer(keys.key(models=frozenset({"base"})))
            assert (await one.chat(chat("small"), **small)).status_code == 200
            assert (await one.chat(chat("mini"), **small)).status_code == 403
            assert (await one.chat(chat("fast"), **small)).headers["x-headroom-model"] == "small"
            assert (await one.chat(chat("fast"), **base)).status_code == 503  # its own model, which is not ready
            nothing = bearer(keys.key(models=frozenset({"other"})))
            refused = await one.chat(chat("fast"), **nothing)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")

    async def test_is_neither_logged_nor_counted_nor_sent_to_an_engine(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with closed() as (one, keys):
            key = keys.key()
            await one.chat(chat(), **bearer(key))
            await one.chat(chat(stream=True), **bearer(key))
            await one.chat(chat(), **bearer(key[:-1] + "!"))
            secret = key.split("_", 2)[2]
            seen = [caplog.text, repr(one.recorder.drain()), repr(one.engine.counts), repr(keys.store.snapshot())]
            assert not [text for text in seen if secret in text]
            assert one.engine.counts.num_started == 2

    async def test_pins_weights_only_as_an_admin(self) -> None:
        async with closed() as (one, keys):
            pin = {"x-headroom-weights-version": "v1"}
            assert (await one.chat(chat(), **pin, **bearer(keys.key()))).status_code == 403
            assert (await one.chat(chat(), **pin, **bearer(keys.root))).status_code == 200


class TestATenant:
    async def test_never_gets_what_another_was_answered(self) -> None:
        async with closed() as (one, keys):
            ours, theirs = bearer(keys.key(tenant="ours")), bearer(keys.key(tenant="theirs"))
            states = [
                (await one.chat(chat(), **who)).headers["x-headroom-cache"] for who in (ours, theirs, ours, theirs)
            ]
            assert states == ["miss", "miss", "hit", "hit"]

    async def test_shares_answers_between_its_keys(self) -> None:
        async with closed() as (one, keys):
            await one.chat(chat(), **bearer(keys.key()))
            assert (await one.chat(chat(), **bearer(keys.key()))).headers["x-headroom-cache"] == "hit"

    async def test_keys_with_other_models_are_decided_apart(self) -> None:
        async with closed("mini", "small") as (one, keys):
            await one.chat(chat(), **bearer(keys.key()))
            answer = await one.chat(chat(), **bearer(keys.key(models=frozenset({"small"}))))
            assert answer.headers["x-headroom-model"] == "small"

    async def test_has_a_prefix_salt_of_its_own_and_only_where_there_are_keys(self) -> None:
        async with stage("mini") as one:
            await one.chat(chat())
            keys = Closed(one)
            for tenant in ("ours", "theirs", "ours"):
                await one.chat(chat(), **bearer(keys.key(tenant=tenant)), cache_control="no-cache")
            none, ours, theirs, again = (body.get("cache_salt") for body in one.engine.counts.bodies)
            assert none is None
            assert ours == again != theirs
            assert (await one.chat(chat(cache_salt=ours), **bearer(keys.root))).status_code == 400

    async def test_stays_himself_on_the_way_to_another_gateway(self) -> None:
        async with two_gateways() as gateways:
            keys = Closed(*gateways)
            ours, theirs = bearer(keys.key(tenant="ours")), bearer(keys.key(tenant="theirs"))
            for number in range(6):  # some keys are kept by either gateway
                for who in (ours, theirs):
                    first = await gateways[0].chat(chat(text=str(number)), **who)
                    second = await gateways[1].chat(chat(text=str(number)), **who)
                    assert [one.headers["x-headroom-cache"] for one in (first, second)] == ["miss", "hit"]
            salts = {body["cache_salt"] for body in gateways[0].engine.counts.bodies}
            assert (gateways[0].engine.counts.num_started, len(salts)) == (12, 2)

    async def test_cannot_name_himself(self) -> None:
        async with closed() as (one, keys):
            claimed = {"x-headroom-caller": keys.root_id}
            assert (await one.chat(chat(), **claimed)).status_code == 401
            assert (await one.http.get("/admin/keys", headers={**claimed, **bearer(keys.key())})).status_code == 403

    async def test_is_nobody_where_the_cluster_itself_asks(self) -> None:
        async with closed() as (one, _):
            internal = {"x-headroom-internal": SECRET}
            assert (await one.chat(chat(), **internal)).status_code == 200
            assert (await one.chat(chat(), **{"x-headroom-internal": "guess"})).status_code == 403


class TestARate:
    async def test_of_requests_is_kept_with_a_time_to_come_back(self) -> None:
        async with closed() as (one, keys):
            key = bearer(keys.key(requests_per_min=2))
            statuses = [(await one.chat(chat(), **key)).status_code for _ in range(2)]
            refused = await one.chat(chat(), **key)
            assert (statuses, refused.status_code) == ([200, 200], 429)
            assert 1 <= int(refused.headers["retry-after"]) <= 30
            assert (await one.chat(chat(), **bearer(keys.key()))).status_code == 200

    async def test_of_tokens_is_charged_for_engine_runs_and_not_for_hits(self) -> None:
        async with closed(num_words=8) as (one, keys):
            key = bearer(keys.key(tokens_per_min=30))
            for _ in range(20):  # one run and hits
                assert (await one.chat(chat(), **key)).status_code == 200
            statuses = [(await one.chat(chat(text=str(number)), **key)).status_code for number in range(8)]
            assert statuses[0] == 200
            assert statuses[-1] == 429

    async def test_is_divided_among_gateways_and_counted_where_the_request_came_in(self) -> None:
        async with two_gateways() as gateways:
            key = bearer(Closed(*gateways).key(requests_per_min=8))
            statuses = [(await gateways[0].chat(chat(text=str(n)), **key)).status_code for n in range(5)]
            assert statuses == [200, 200, 200, 200, 429]


class TestATable:
    def test_carries_the_keys_through_a_pickle(self) -> None:
        store, record, key = opened()
        sent = dataclasses.replace(table(backend("mini")), access=store.snapshot())
        assert pickle.loads(pickle.dumps(sent)).access.holder(key, now_s=NOW_S).id == record.id
