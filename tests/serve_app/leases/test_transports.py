"""gRPC, ZeroMQ and REST: the same answers, the same refusals, each in its own form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import zmq.asyncio
from google.protobuf import (  # type: ignore[import-untyped]  # ships no types
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]  # ships no types

from serve_app.leases.calls import LeaseCalls
from serve_app.leases.grpc_server import Tls, serve_grpc
from serve_app.leases.keyring import ANYBODY, Asker, KeyRefused, ListenerRefused
from serve_app.leases.rest import RestAnswer, answer_rest
from serve_app.leases.rpcs import Handlers, RpcError, messages_and_services
from serve_app.leases.service import LeaseService
from serve_app.leases.zeromq_server import Curve, serve_zeromq
from tests.serve_app.leases.serving import Bench, grpc_stub, running, zeromq_socket

GOOD = {"client": "anna", "model_name": "qwen", "vram_estimate_mb": 1000}
BAD_VALUES: list[tuple[dict[str, Any], str, str, int]] = [
    ({"ttl_seconds": 0.0}, "INVALID_ARGUMENT", "bad_ttl", 400),
    ({"ttl_seconds": -1.0}, "INVALID_ARGUMENT", "bad_ttl", 400),
    ({"ttl_seconds": float("nan")}, "INVALID_ARGUMENT", "bad_ttl", 400),
    ({"ttl_seconds": 365 * 86_400.0}, "INVALID_ARGUMENT", "bad_ttl", 400),
    ({"vram_estimate_mb": 0}, "INVALID_ARGUMENT", "bad_size", 400),
    ({"vram_estimate_mb": -5}, "INVALID_ARGUMENT", "bad_size", 400),
    ({"vram_estimate_mb": 2**62}, "OUT_OF_RANGE", "too_large", 422),
    ({"vram_estimate_mb": 17_281}, "OUT_OF_RANGE", "too_large", 422),
    ({"client": ""}, "INVALID_ARGUMENT", "bad_name", 400),
    ({"priority": 2**60}, "INVALID_ARGUMENT", "bad_priority", 400),
]
"""Changed fields, the gRPC status, the reason, the HTTP status."""
BAD_HOLDS: list[tuple[dict[str, Any], str, str, int]] = [
    ({"lease_id": "lease-999"}, "NOT_FOUND", "unknown_lease", 404),
    ({"client": "ben"}, "PERMISSION_DENIED", "not_yours", 403),
    ({"epoch": 7}, "FAILED_PRECONDITION", "stale_epoch", 409),
]
MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"client": 5}',
    b'{"client": "a", "model_name": "m", "vram_estimate_mb": "12GB"}',
    b'{"client": "a", "model_name": "m", "vram_estimate_mb": 1.5}',
    b'{"client": "a", "model_name": "m", "vram_estimate_mb": 1, "surprise": 1}',
    b"\xff\xfe",
]


async def rest(service: LeaseService, method: str, path: str, body: object = None, **query: str) -> RestAnswer:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await answer_rest(LeaseCalls(service), ANYBODY, method=method, path=path, query=query, body=sent)


async def over_zeromq(socket: zmq.asyncio.Socket, message: bytes) -> Any:
    await socket.send(message)
    return json.loads(await socket.recv())


class TestBadInput:
    @pytest.mark.parametrize(("changed", "code", "_reason", "_status"), BAD_VALUES)
    async def test_grpc_has_a_status_for_it(
        self, bench: Bench, changed: dict[str, Any], code: str, _reason: str, _status: int
    ) -> None:
        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AcquireGpuLease(pb.AcquireGpuLeaseRequest(**{**GOOD, **changed}))
            assert caught.value.code().name == code
            assert await service.held() == ()

    @pytest.mark.parametrize(("changed", "_code", "reason", "status"), BAD_VALUES)
    async def test_rest_and_zeromq_name_its_reason(
        self, bench: Bench, changed: dict[str, Any], _code: str, reason: str, status: int
    ) -> None:
        body = json.dumps({**GOOD, **changed}).encode()
        async with running(bench) as service, zeromq_socket(service) as socket:
            answer = await rest(service, "POST", "/v1/leases", body)
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, reason)
            told = await over_zeromq(socket, b'{"rpc": "AcquireGpuLease", "request": ' + body + b"}")
            assert told["error"]["code"] == reason
            assert await service.held() == ()

    @pytest.mark.parametrize("rpc", ["RenewGpuLease", "ReleaseGpuLease"])
    @pytest.mark.parametrize(("changed", "code", "reason", "status"), BAD_HOLDS)
    async def test_nobody_can_touch_a_lease_that_is_not_theirs(
        self, bench: Bench, rpc: str, changed: dict[str, Any], code: str, reason: str, status: int
    ) -> None:
        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service) as stub, zeromq_socket(service) as socket:
            lease = await stub.AcquireGpuLease(pb.AcquireGpuLeaseRequest(**GOOD))
            fields = {"client": "anna", "lease_id": lease.lease_id, "epoch": lease.epoch, **changed}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stub, rpc)(getattr(pb, f"{rpc}Request")(**fields))
            told = await over_zeromq(socket, json.dumps({"rpc": rpc, "request": fields}).encode())
            lease_id = fields.pop("lease_id")
            method, tail = ("POST", "/renew") if rpc == "RenewGpuLease" else ("DELETE", "")
            answer = await rest(service, method, f"/v1/leases/{lease_id}{tail}", fields)
            assert (caught.value.code().name, told["error"]["code"], answer.status) == (code, reason, status)
            assert [one.lease_id for one in await service.held()] == [lease.lease_id]

    @pytest.mark.parametrize("body", MALFORMED)
    async def test_malformed_json_is_told_what_was_expected_and_never_repeated(self, bench: Bench, body: bytes) -> None:
        async with running(bench) as service, zeromq_socket(service) as socket:
            answer = await rest(service, "POST", "/v1/leases", body)
            error = json.loads(answer.body)["error"]
            assert (answer.status, error["code"], error["type"]) == (400, "malformed", "invalid_request_error")
            assert "Expected" in error["message"]
            assert "12GB" not in error["message"]
            told = await over_zeromq(socket, body)
            assert told["error"]["code"] == "malformed"
            assert await service.held() == ()

    @pytest.mark.parametrize(("method", "path", "status"), [
        ("PUT", "/v1/leases", 405),
        ("GET", "/v1/leases/lease-1", 405),
        ("GET", "/v1/leases/lease-1/renew", 405),
        ("GET", "/v1/leases/lease-1/renew/twice", 404),
    ])  # fmt: skip
    async def test_rest_knows_its_pages_and_methods(self, bench: Bench, method: str, path: str, status: int) -> None:
        async with running(bench) as service:
            assert (await rest(service, method, path)).status == status

    async def test_zeromq_knows_its_rpcs(self, bench: Bench) -> None:
        async with running(bench) as service, zeromq_socket(service) as socket:
            told = await over_zeromq(socket, b'{"rpc": "StealGpuLease", "request": {}}')
            assert told["error"]["code"] == "unknown_rpc"


class TestOneAnswerInThreeForms:
    async def test_what_one_transport_grants_the_others_list_and_release(self, bench: Bench) -> None:
        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service) as stub, zeromq_socket(service) as socket:
            lease = await stub.AcquireGpuLease(pb.AcquireGpuLeaseRequest(**GOOD, ttl_seconds=60, priority=3))
            assert (lease.granted, lease.vram_reserved_mb, lease.device, lease.node) == (True, 1000, "GPU-0", "node-1")
            assert lease.expires_in_ms == 60_000
            listed = json.loads((await rest(service, "GET", "/v1/leases", client="anna")).body)
            assert [one["lease_id"] for one in listed["leases"]] == [lease.lease_id]
            fields = {"client": "anna", "lease_id": lease.lease_id, "epoch": lease.epoch}
            told = await over_zeromq(socket, json.dumps({"rpc": "ReleaseGpuLease", "request": fields}).encode())
            assert told == {"answer": {"released": True, "lease_id": lease.lease_id}}

    async def test_no_room_is_an_answer_with_a_retry_hint(self, bench: Bench) -> None:
        pb, _ = messages_and_services()
        full = {**GOOD, "vram_estimate_mb": 17_280}
        async with running(bench) as service, grpc_stub(service) as stub, zeromq_socket(service) as socket:
            assert (await rest(service, "POST", "/v1/leases", full)).status == 201
            answer = await stub.AcquireGpuLease(pb.AcquireGpuLeaseRequest(**full))
            assert (answer.granted, answer.reason, answer.retry_after_ms) == (False, "no_room", 250)
            page = await rest(service, "POST", "/v1/leases", full)
            assert (page.status, dict(page.headers)[b"retry-after"]) == (503, b"1")
            told = await over_zeromq(socket, json.dumps({"rpc": "AcquireGpuLease", "request": full}).encode())
            assert (told["error"]["code"], told["error"]["retry_after_ms"]) == ("no_room", 250)

    async def test_lists_come_in_pages(self, bench: Bench) -> None:
        async with running(bench) as service:
            for number in range(5):
                await rest(service, "POST", "/v1/leases", {**GOOD, "client": f"c{number % 2}"})
            seen, token = [], ""
            while True:
                body = json.loads((await rest(service, "GET", "/v1/leases", page_size="2", page_token=token)).body)
                seen += [one["epoch"] for one in body["leases"]]
                token = body["next_page_token"]
                if not token:
                    break
            assert seen == sorted(seen)
            assert len(seen) == body["total"] == 5
            assert (await rest(service, "GET", "/v1/leases", page_size="many")).status == 400
            filtered = json.loads((await rest(service, "GET", "/v1/leases", client="c1")).body)
            assert filtered["total"] == 2


class TestGrpcServer:
    async def test_a_client_that_knows_nothing_of_us_can_acquire_list_and_release(self, bench: Bench) -> None:
        async with running(bench) as service:
            server = await serve_grpc(service, port=0)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                ask = await reflected(channel, "modelops.ModelOps")
                lease = await ask("AcquireGpuLease", client="x", model_name="m", vram_estimate_mb=5)
                assert lease.granted
                assert [one.epoch for one in (await ask("ListGpuLeases")).leases] == [lease.epoch]
                assert (await ask("ReleaseGpuLease", client="x", lease_id=lease.lease_id, epoch=lease.epoch)).released
            await server.close()

    async def test_its_health_is_served_too(self, bench: Bench) -> None:
        async with running(bench) as service:
            server = await serve_grpc(service, port=0)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                told = await stub.Check(health_pb2.HealthCheckRequest(service="modelops.ModelOps"))
            await server.close()
            assert told.status == health_pb2.HealthCheckResponse.SERVING

    async def test_what_nobody_serves_says_so(self, bench: Bench) -> None:
        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.LoadModel(pb.ModelRequest(model_name="qwen"))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "LoadModel" in str(caught.value.details())

    async def test_a_given_handler_answers_and_its_refusals_keep_their_status(self, bench: Bench) -> None:
        pb, _ = messages_and_services()

        async def load(fields: dict[str, Any]) -> dict[str, Any]:
            if fields["model_name"] != "qwen":
                raise RpcError(code="NOT_FOUND", message="No such model.")
            return {"status": "loading"}

        handlers = Handlers(by_rpc={"LoadModel": load})
        async with running(bench) as service, grpc_stub(service, handlers=handlers) as stub:
            assert (await stub.LoadModel(pb.ModelRequest(model_name="qwen"))).status == "loading"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.LoadModel(pb.ModelRequest(model_name="gpt"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_a_watcher_sees_grants_as_they_happen(self, bench: Bench) -> None:
        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service) as stub:
            watch = stub.WatchGpuLeases(pb.WatchGpuLeasesRequest(client="anna"))
            await watch.initial_metadata()
            lease = await stub.AcquireGpuLease(pb.AcquireGpuLeaseRequest(**GOOD))
            event = await watch.read()
            watch.cancel()
            assert (event.kind, event.lease.epoch) == ("granted", lease.epoch)

    async def test_watching_ends_when_the_server_closes(self, bench: Bench) -> None:
        pb, services = messages_and_services()
        async with running(bench) as service:
            server = await serve_grpc(service, port=0)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                watch = services.ModelOpsStub(channel).WatchGpuLeases(pb.WatchGpuLeasesRequest())
                await watch.initial_metadata()
                await server.close()
                assert await watch.read() is grpc.aio.EOF

    async def test_a_key_the_keyring_refuses_gets_nowhere(self, bench: Bench) -> None:
        class OneKey:
            def may_listen(self, host: str, *, encrypted: bool) -> str | None:
                return None

            def asker(self, key: str | None, *, rpc: str) -> Asker | KeyRefused:
                return ANYBODY if key == "right" else KeyRefused(message="Wrong key.")

        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service, keyring=OneKey()) as stub:
            for metadata in ((), (("authorization", "Bearer wrong"),)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ListGpuLeases(pb.ListGpuLeasesRequest(), metadata=metadata)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
                watch = stub.WatchGpuLeases(pb.WatchGpuLeasesRequest(), metadata=metadata)
                with pytest.raises(grpc.aio.AioRpcError):
                    await watch.read()
            assert (
                await stub.ListGpuLeases(pb.ListGpuLeasesRequest(), metadata=(("authorization", "Bearer right"),))
            ).total == 0

    async def test_it_speaks_tls_and_then_nothing_else(self, bench: Bench, tmp_path: Path) -> None:
        tls = self_signed(tmp_path)
        pb, services = messages_and_services()
        async with running(bench) as service:
            server = await serve_grpc(service, port=0, tls=tls)
            address, trusted = f"localhost:{server.port}", grpc.ssl_channel_credentials(tls.certificate_chain)
            async with grpc.aio.secure_channel(address, trusted) as channel:
                assert (await services.ModelOpsStub(channel).GetHealth(pb.GetHealthRequest())).status == "ok"
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await services.ModelOpsStub(channel).GetHealth(pb.GetHealthRequest())
            await server.close()

    async def test_an_oversized_message_is_refused(self, bench: Bench) -> None:
        pb, _ = messages_and_services()
        async with running(bench) as service, grpc_stub(service) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Infer(pb.InferRequest(prompt="x" * (5 << 20)))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestListeners:
    @pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
    async def test_without_keys_nothing_but_loopback_is_bound(self, bench: Bench, host: str) -> None:
        async with running(bench) as service:
            with pytest.raises(ListenerRefused):
                await serve_grpc(service, host=host, port=0)
            with zmq.asyncio.Context() as context, pytest.raises(ListenerRefused):
                await serve_zeromq(LeaseCalls(service), context=context, host=host, port=0)

    async def test_zeromq_can_be_encrypted(self, bench: Bench) -> None:
        public, secret = zmq.curve_keypair()
        async with running(bench) as service:
            with zmq.asyncio.Context() as context:
                curve = Curve(public_key=public, secret_key=secret)
                server = await serve_zeromq(LeaseCalls(service), context=context, port=0, curve=curve)
                socket = context.socket(zmq.REQ)
                socket.setsockopt(zmq.LINGER, 0)
                socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
                socket.curve_serverkey = public
                socket.connect(f"tcp://127.0.0.1:{server.port}")
                told = await over_zeromq(socket, b'{"rpc": "GetHealth", "request": {}}')
                socket.close()
                await server.close()
        assert told["answer"]["status"] == "ok"


def self_signed(folder: Path) -> Tls:
    """For `localhost`, made by the system's openssl."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    files = ["-keyout", str(key), "-out", str(certificate)]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    subprocess.run(["openssl", "req", *kind, *files, *names], check=True, capture_output=True)
    return Tls(private_key=key.read_bytes(), certificate_chain=certificate.read_bytes())


async def reflected(channel: grpc.aio.Channel, service: str) -> Any:
    """Calls by name, made of nothing but what the server's reflection tells."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asking = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    answers = stub.ServerReflectionInfo(iter([asking]))
    answer = await answers.read()
    pool = descriptor_pool.DescriptorPool()
    for serialized in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    methods = pool.FindServiceByName(service).methods_by_name

    async def ask(name: str, **fields: Any) -> Any:
        method = methods[name]
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        answer_class = message_factory.GetMessageClass(method.output_type)
        call: Any = channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_class.FromString,
        )
        return await call(request)

    return ask


class TestCompiling:
    def test_the_solver_can_be_loaded_beside_it(self) -> None:
        """protoc's library in the same process would abort it."""
        program = "from serve_app.leases.rpcs import messages_and_services as m; m(); import placement.solver"
        subprocess.run([sys.executable, "-c", program], check=True)
