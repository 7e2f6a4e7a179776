"""Leases belong to the tenant of the key that acquired them: to everybody else they are as if they never were."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import zmq.asyncio
from hypothesis import given
from hypothesis import strategies as st

from placement.lease import LOCAL_TENANT, Hold, Lease, LeaseRefusal, LeaseRefusalReason, LeaseRequest
from placement.lease_index import LeaseIndex
from placement.lease_rules import acquire, release, renew
from serve_app.access.keys import KeyRecord, Role
from serve_app.access.lease_keys import LeaseKeys
from serve_app.access.needs import ROUTE_NEEDS
from serve_app.access.store import KeyStore
from serve_app.errors import HeadroomError
from serve_app.leases.book import LeaseBook
from serve_app.leases.calls import LeaseCalls
from serve_app.leases.client import Grant, LeaseClient
from serve_app.leases.grpc_server import serve_grpc
from serve_app.leases.rest import answer_rest
from serve_app.leases.rpcs import messages_and_services
from serve_app.leases.service import LeaseService
from serve_app.leases.zeromq_server import serve_zeromq
from tests.serve_app.access.makers import NOW_S, grant, made, opened
from tests.serve_app.leases.serving import MB, ROOM, Bench, running
from tests.serve_app.leases.test_transports import self_signed

GOOD = {"client": "anna", "model_name": "qwen", "vram_estimate_mb": 1000}
NEVER = "lease-99999"
PROTO = Path(__file__).parents[3] / "serve_app/leases/modelops.proto"
Asked = tuple[Any, Any]
"""A word for how it went (`ok`, or the refusal's) and the fields of the answer, or the refusal's sentence."""


@dataclass(slots=True, kw_only=True)
class Key:
    record: KeyRecord
    text: str


@dataclass(slots=True, kw_only=True)
class Office:
    """A lease service with keys of two tenants and its three transports."""

    service: LeaseService
    store: KeyStore
    keyring: LeaseKeys
    root: Key
    acme: Key
    umbrella: Key
    channel: grpc.aio.Channel
    socket: zmq.asyncio.Socket

    async def grpc(self, key: Key, rpc: str, fields: dict[str, Any]) -> Asked:
        pb, services = messages_and_services()
        stub = services.ModelOpsStub(self.channel)
        try:
            answer = await getattr(stub, rpc)(getattr(pb, f"{rpc}Request")(**fields), metadata=bearer(key))
        except grpc.aio.AioRpcError as error:
            return error.code().name.lower(), error.details()
        return "ok", {field.name: value for field, value in answer.ListFields()}

    async def zeromq(self, key: Key, rpc: str, fields: dict[str, Any]) -> Asked:
        await self.socket.send(orjson.dumps({"rpc": rpc, "request": fields, "key": key.text}))
        told = json.loads(await self.socket.recv())
        return ("ok", told["answer"]) if "answer" in told else (told["error"]["code"], told["error"]["message"])

    async def rest(self, key: Key, rpc: str, fields: dict[str, Any]) -> Asked:
        """As the gateway passes it on: with the id of the key that it has checked."""
        rest = {name: value for name, value in fields.items() if name != "lease_id"}
        lease_id = fields.get("lease_id", "")
        method, path, query, body = {
            "AcquireGpuLease": ("POST", "", {}, rest),
            "ListGpuLeases": ("GET", "", rest, {}),
            "RenewGpuLease": ("POST", f"/{lease_id}/renew", {}, rest),
            "ReleaseGpuLease": ("DELETE", f"/{lease_id}", {}, rest),
        }[rpc]
        asker = self.keyring.named(key.record.id, need=Role.LEASES)
        answer = await answer_rest(
            LeaseCalls(self.service),
            asker,
            method=method,
            path=f"/v1/leases{path}",
            query={name: str(value) for name, value in query.items()},
            body=orjson.dumps(body),
        )
        told = json.loads(answer.body)
        return (answer.status, told["error"]["message"]) if "error" in told else ("ok", told)


@contextlib.asynccontextmanager
async def office(bench: Bench) -> AsyncIterator[Office]:
    store, root_record, root_text = opened()
    keyring = LeaseKeys(snapshot=store.snapshot, now_s=lambda: NOW_S, has_ray_token=True)
    keys = {}
    for tenant in ("acme", "umbrella"):
        record, text = made(store, grant(Role.LEASES, tenant=tenant), by=root_record.id)
        keys[tenant] = Key(record=record, text=text.decode())
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(running(bench))
        server = await serve_grpc(service, port=0, keyring=keyring)
        stack.push_async_callback(server.close)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
        context = stack.enter_context(zmq.asyncio.Context())
        json_server = await serve_zeromq(LeaseCalls(service), context=context, port=0, keyring=keyring)
        stack.push_async_callback(json_server.close)
        socket = stack.enter_context(context.socket(zmq.REQ))
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"tcp://127.0.0.1:{json_server.port}")
        yield Office(
            service=service,
            store=store,
            keyring=keyring,
            root=Key(record=root_record, text=root_text.decode()),
            channel=channel,
            socket=socket,
            **keys,
        )


def bearer(key: Key) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key.text}"),)


WAYS = ("grpc", "zeromq", "rest")
NOT_FOUND = {"grpc": "not_found", "zeromq": "unknown_lease", "rest": 404}
UNKNOWN_KEY = {"grpc": "unauthenticated", "zeromq": "invalid_api_key", "rest": 401}
HOLDS = ("RenewGpuLease", "ReleaseGpuLease")
TABLE = [(way, rpc) for way in WAYS for rpc in HOLDS]
Way = Callable[[Key, str, dict[str, Any]], Awaitable[Asked]]


class TestALeaseOfAnotherTenant:
    @pytest.mark.parametrize(("way", "rpc"), TABLE)
    async def test_is_refused_with_the_words_for_one_that_never_was(self, bench: Bench, way: str, rpc: str) -> None:
        async with office(bench) as one:
            ask: Way = getattr(one, way)
            _, lease = await ask(one.acme, "AcquireGpuLease", GOOD)
            hold = {"client": "anna", "lease_id": lease["lease_id"], "epoch": lease["epoch"]}
            refused = await ask(one.umbrella, rpc, hold)
            never = await ask(one.umbrella, rpc, {**hold, "lease_id": NEVER})
            assert refused[0] == never[0] == NOT_FOUND[way]
            assert refused[1] == never[1].replace(NEVER, lease["lease_id"])
            assert [held.lease_id for held in await one.service.held()] == [lease["lease_id"]]
            assert (await ask(one.acme, rpc, hold))[0] == "ok"

    @pytest.mark.parametrize(("way", "rpc"), TABLE)
    async def test_may_be_touched_by_an_admin_of_all_tenants(self, bench: Bench, way: str, rpc: str) -> None:
        async with office(bench) as one:
            ask: Way = getattr(one, way)
            _, lease = await ask(one.acme, "AcquireGpuLease", GOOD)
            hold = {"client": "anna", "lease_id": lease["lease_id"], "epoch": lease["epoch"]}
            assert (await ask(one.root, rpc, hold))[0] == "ok"

    @pytest.mark.parametrize("way", WAYS)
    async def test_is_in_no_list_and_in_no_count_but_an_admins(self, bench: Bench, way: str) -> None:
        async with office(bench) as one:
            ask: Way = getattr(one, way)
            for key in (one.acme, one.acme, one.umbrella):
                await ask(key, "AcquireGpuLease", GOOD)
            totals = [(await ask(key, "ListGpuLeases", {}))[1] for key in (one.acme, one.umbrella, one.root)]
            assert [(told["total"], len(told["leases"])) for told in totals] == [(2, 2), (1, 1), (3, 3)]
            named = (await ask(one.umbrella, "ListGpuLeases", {"client": "anna"}))[1]
            assert named["total"] == 1

    @pytest.mark.parametrize("way", WAYS)
    async def test_is_not_given_out_for_the_same_idempotency_key(self, bench: Bench, way: str) -> None:
        async with office(bench) as one:
            ask: Way = getattr(one, way)
            asked = {**GOOD, "idempotency_key": "once"}
            epochs = [(await ask(key, "AcquireGpuLease", asked))[1]["epoch"] for key in (one.acme, one.umbrella)]
            again = (await ask(one.acme, "AcquireGpuLease", asked))[1]["epoch"]
            assert epochs[0] != epochs[1]
            assert again == epochs[0]

    @pytest.mark.parametrize("way", WAYS)
    async def test_given_back_is_still_unknown(self, bench: Bench, way: str) -> None:
        async with office(bench) as one:
            ask: Way = getattr(one, way)
            _, lease = await ask(one.acme, "AcquireGpuLease", {**GOOD, "idempotency_key": "once"})
            hold = {"client": "anna", "lease_id": lease["lease_id"], "epoch": lease["epoch"]}
            told = [(await ask(key, "ReleaseGpuLease", hold))[0] for key in (one.acme, one.acme, one.umbrella)]
            assert told == ["ok", "ok", NOT_FOUND[way]]

    async def test_is_not_watched(self, bench: Bench) -> None:
        pb, services = messages_and_services()
        async with office(bench) as one:
            watch = services.ModelOpsStub(one.channel).WatchGpuLeases(
                pb.WatchGpuLeasesRequest(client="anna"), metadata=bearer(one.umbrella)
            )
            await watch.initial_metadata()
            await one.grpc(one.acme, "AcquireGpuLease", GOOD)
            _, own = await one.grpc(one.umbrella, "AcquireGpuLease", GOOD)
            assert (await watch.read()).lease.lease_id == own["lease_id"]
            watch.cancel()

    def test_is_looked_for_by_every_route_and_rpc_there_is(self) -> None:
        """The table above knows them all: a new one fails here until it stands in it."""
        named = set(re.findall(r"^\s*rpc (\w*GpuLeases?)\(", PROTO.read_text(), re.MULTILINE))
        assert named == {"AcquireGpuLease", "ListGpuLeases", "WatchGpuLeases", *HOLDS}
        assert {route for route in ROUTE_NEEDS if "lease" in route} == {
            "/v1/leases",
            "/v1/leases/{id}",
            "/v1/leases/{id}/renew",
        }


class TestARevokedKey:
    @pytest.mark.parametrize("way", WAYS)
    async def test_holds_and_sees_nothing_more(self, bench: Bench, way: str) -> None:
        async with office(bench) as one:
            ask: Way = getattr(one, way)
            _, lease = await ask(one.acme, "AcquireGpuLease", GOOD)
            hold = {"client": "anna", "lease_id": lease["lease_id"], "epoch": lease["epoch"]}
            one.store.revoke(one.acme.record.id, by=one.root.record.id, now_s=NOW_S)
            for rpc, fields in (("AcquireGpuLease", GOOD), ("ListGpuLeases", {}), *((rpc, hold) for rpc in HOLDS)):
                assert (await ask(one.acme, rpc, fields))[0] == UNKNOWN_KEY[way], rpc

    async def test_ends_its_watch_before_the_next_event(self, bench: Bench) -> None:
        pb, services = messages_and_services()
        async with office(bench) as one:
            other, text = made(one.store, grant(Role.LEASES, tenant="acme"), by=one.root.record.id)
            watch = services.ModelOpsStub(one.channel).WatchGpuLeases(
                pb.WatchGpuLeasesRequest(), metadata=bearer(one.acme)
            )
            await watch.initial_metadata()
            one.store.revoke(one.acme.record.id, by=one.root.record.id, now_s=NOW_S)
            await one.grpc(Key(record=other, text=text.decode()), "AcquireGpuLease", GOOD)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


class TestALedger:
    async def test_keeps_tenants_over_a_restart(self, bench: Bench) -> None:
        async with running(bench) as service:
            await service.acquire(LeaseRequest(client="anna", model_name="m", num_bytes=MB, tenant="acme"))
        async with running(bench) as service:
            assert [lease.tenant for lease in await service.held()] == ["acme"]

    async def test_of_before_there_were_tenants_is_of_those_without_a_key(self, bench: Bench) -> None:
        async with running(bench) as service:
            await service.acquire(LeaseRequest(client="anna", model_name="m", num_bytes=MB))
        with contextlib.closing(sqlite3.connect(bench.ledger)) as db:
            db.execute("ALTER TABLE leases DROP COLUMN tenant")
        book = LeaseBook(bench.ledger, clock=bench.clock, policy=bench.policy)
        assert [lease.tenant for lease in book.index.held.values()] == [LOCAL_TENANT]
        book.close()


names = st.sampled_from(["anna", "ben"])
tenants = st.sampled_from(["acme", "umbrella", "local"])


class TestTheRules:
    @given(st.lists(st.tuples(tenants, names, st.sampled_from(["", "k"])), max_size=6), tenants, names)
    def test_let_a_tenant_do_nothing_to_a_lease_of_another(
        self, grants: list[tuple[str, str, str]], tenant: str, client: str
    ) -> None:
        index = LeaseIndex()
        for owner, name, key in grants:
            request = LeaseRequest(client=name, model_name="m", num_bytes=MB, tenant=owner, key=key or None)
            decision = acquire(index, request, (ROOM,), policy=Bench(ledger=Path()).policy, now_s=0.0, now_unix_s=0.0)
            assert isinstance(decision.answer, Lease)
            assert (decision.answer.tenant, decision.answer.client) == (owner, name)
            decision.apply_to(index)
        for lease in tuple(index.held.values()):
            hold = Hold(client=client, lease_id=lease.lease_id, epoch=lease.epoch, tenant=tenant)
            for rule in (renew, release):
                answer = rule(index, hold, now_s=1.0).answer
                if tenant != lease.tenant:
                    assert isinstance(answer, LeaseRefusal)
                    assert answer.reason is LeaseRefusalReason.UNKNOWN_LEASE
                else:
                    assert isinstance(answer, Lease) == (client == lease.client)


class TestTheCommandsClient:
    async def test_sends_its_key_over_tls(self, bench: Bench, tmp_path: Path) -> None:
        store, root, _ = opened()
        _, text = made(store, grant(Role.LEASES), by=root.id)
        keyring = LeaseKeys(snapshot=store.snapshot, now_s=lambda: NOW_S, has_ray_token=True)
        tls = self_signed(tmp_path)
        async with running(bench) as service:
            server = await serve_grpc(service, port=0, keyring=keyring, tls=tls)
            where = f"localhost:{server.port}"
            with_key = LeaseClient(where, key=text.decode(), trusted=tls.certificate_chain)
            without = LeaseClient(where, trusted=tls.certificate_chain)
            asked = {"client": "anna", "model_name": "m", "vram_mb": 5, "priority": 0, "ttl_s": 30.0}
            granted = await asyncio.to_thread(with_key.acquire, **asked)  # type: ignore[arg-type]  # by name
            with pytest.raises(HeadroomError, match="needs a valid key"):
                await asyncio.to_thread(without.acquire, **asked)  # type: ignore[arg-type]  # by name
            for client in (with_key, without):
                client.close()
            await server.close()
            assert isinstance(granted, Grant)
            assert [lease.tenant for lease in await service.held()] == ["acme"]
