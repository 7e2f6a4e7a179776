"""What Infer costs over HTTP: `python -m tests.bench.infer [--json] [--calls N]`.

A scripted engine, a stand-alone gateway and a stand-alone lease server, each a process of its own. One client asks
for the same answer, which the cache has, by turns over HTTP, gRPC and ZeroMQ, so that a busy machine is busy for all.
Asserts nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import zmq

from serve_app.leases.rpcs import messages_and_services
from tests.bench.server_process import free_port, python_server

SECRET = "local-secret"
ASKED = {"model": "mini", "messages": [{"role": "user", "content": "How many letters has headroom?"}]}


def measure(url: str, grpc_address: str, zeromq_port: int, *, num_calls: int) -> dict[str, list[float]]:
    """Milliseconds of each call, by way."""
    pb, services = messages_and_services()
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=url))
        stub = services.ModelOpsStub(stack.enter_context(grpc.insecure_channel(grpc_address)))
        socket = stack.enter_context(stack.enter_context(zmq.Context()).socket(zmq.REQ))
        socket.connect(f"tcp://127.0.0.1:{zeromq_port}")

        def over_zeromq() -> Any:
            socket.send_json({"rpc": "Infer", "request": ASKED})
            told: Any = socket.recv_json()
            return told["answer"]

        ways: dict[str, Callable[[], Any]] = {
            "http": lambda: http.post("/v1/chat/completions", json=ASKED).raise_for_status(),
            "grpc": lambda: stub.Infer(pb.InferRequest(**ASKED)),
            "zeromq": over_zeromq,
        }
        taken_ms: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(num_calls):
            for name, ask in ways.items():
                began_s = time.perf_counter()
                ask()
                taken_ms[name].append(1e3 * (time.perf_counter() - began_s))
    return taken_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--calls", type=int, default=1000)
    asked = parser.parse_args()
    zeromq_port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        python_server("serve_app.engines.scripted", "--model", "mini", "--secret", SECRET) as engine,
        python_server("serve_app.gateway.standalone", "--secret", SECRET, "--backend", f"mini={engine.url}") as gateway,
        python_server(
            "serve_app.leases.standalone",
            *("--simulated-device", "GPU-0=24GB", "--ledger", str(Path(folder) / "leases.db")),
            *("--zeromq-port", str(zeromq_port), "--gateway", gateway.url),
        ) as leases,
    ):
        taken_ms = measure(gateway.url, urlsplit(leases.url).netloc, zeromq_port, num_calls=asked.calls)
    rows = {name: {"median_ms": statistics.median(ms), "p99_ms": statistics.quantiles(ms, n=100)[-1]}
            for name, ms in taken_ms.items()}  # fmt: skip
    for name, row in rows.items():
        print(f"{name:>8}  median {row['median_ms']:.2f} ms  p99 {row['p99_ms']:.2f} ms")
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
