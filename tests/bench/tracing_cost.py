"""What tracing costs the request path: CPU of the three spans of one request, by where they go.

    python -m tests.bench.tracing_cost [--json] [--requests N]

All ways alternate in one run and the best of several rounds counts, because the machine may be shared. `cpu_us`
is the process's CPU per request, export included (of a dead receiver only what falls into the time, as its export
never ends); `path_us` is what the request itself waits for.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.tracing.otlp_receiver import http_receiver
from tracing import names, setup
from tracing.metrics import Recorder
from tracing.settings import ExportSettings, Otlp, Protocol
from tracing.setup import EXPORTER_LOGS, Exporting
from tracing.spans import begin_request

TRACEPARENT = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"traceparent", TRACEPARENT)]
DEAD = "otlp, dead receiver"


def one_request(exporting: Exporting | None) -> None:
    request = begin_request("POST", "/v1/chat/completions", HEADERS, exporting=exporting)
    route = request.route("fast", requested_model="fast")
    route.decided(model="mini", deployment="mini@node-1", cache="miss")
    call = route.call(names.Operation.CHAT, "mini", max_tokens=16, temperature=0.2)
    call.outgoing_headers()
    call.answered(response_model="mini", response_id="chatcmpl-1", input_tokens=7, output_tokens=3, device="n/host")
    call.end()
    route.end()
    request.end(status=200)


def measure(exporting: Exporting | None, num_requests: int, *, flushed: bool) -> tuple[float, float]:
    """(path µs, CPU µs) per request; the CPU includes the export of all spans."""
    cpu_s, path_s = time.process_time(), time.thread_time()
    for _ in range(num_requests):
        one_request(exporting)
    path_s = time.thread_time() - path_s
    if exporting is not None and flushed:
        for processor in exporting.processors:
            processor.force_flush(60_000)
    return path_s / num_requests * 1e6, (time.process_time() - cpu_s) / num_requests * 1e6


def ways(stack: ExitStack) -> dict[str, Exporting | None]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    receiver = stack.enter_context(http_receiver())  # its own CPU is part of `cpu_us` of otlp: it lives here too
    probe = stack.enter_context(socket.socket())
    probe.bind(("127.0.0.1", 0))
    dead = f"http://127.0.0.1:{probe.getsockname()[1]}/v1/traces"

    def begun(otlp: str | None, files: str | None, max_per_s: float | None) -> Exporting:
        settings = ExportSettings(
            otlp=Otlp(protocol=Protocol.HTTP, endpoint=otlp) if otlp else None,
            directory=directory / files if files else None,
            max_per_s=max_per_s,
        )
        exporting = setup.start(settings, names.GATEWAY)
        stack.callback(exporting.provider.shutdown)
        return exporting

    return {
        "disabled": None,
        "files, 20 traces/s": begun(None, "bounded", 20.0),
        "files, every request": begun(None, "all", None),
        "otlp, every request": begun(receiver.endpoint + "/v1/traces", None, None),
        DEAD: begun(dead, None, None),
    }


def per_call_ns(call: Callable[[], object], num_calls: int = 200_000) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(num_calls):
            call()
        best = min(best, time.perf_counter() - start)
    return best / num_calls * 1e9


def metrics_ns() -> dict[str, float]:
    recorder = Recorder("bench")
    counter = recorder.counter(names.TOKENS, "mini", "output")
    histogram = recorder.histogram(names.TIME_TO_FIRST_TOKEN, "mini")
    return {
        "counter.inc, kept cell": per_call_ns(counter.inc),
        "histogram.observe, kept cell": per_call_ns(lambda: histogram.observe(0.03)),
        "counter looked up and inc": per_call_ns(lambda: recorder.counter(names.TOKENS, "mini", "output").inc()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    for exporter_log in EXPORTER_LOGS:
        logging.getLogger(exporter_log).disabled = True
    best: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        every = ways(stack)
        for _ in range(7):
            for name, exporting in every.items():
                path_us, cpu_us = measure(exporting, options.requests, flushed=name != DEAD)
                known = best.get(name, (float("inf"), float("inf")))
                best[name] = (min(known[0], path_us), min(known[1], cpu_us))
    base = best["disabled"][0]
    spans = {
        name: {"path_us": round(path, 2), "cpu_us": round(cpu, 2), "ratio": round(path / base, 1)}
        for name, (path, cpu) in best.items()
    }
    cells = {name: round(nanoseconds) for name, nanoseconds in metrics_ns().items()}
    if options.json:
        print(json.dumps({"requests": options.requests, "spans": spans, "metrics_ns": cells}))
        return
    for name, figures in spans.items():
        print(f"{name:24} path {figures['path_us']:8.2f} µs  cpu {figures['cpu_us']:8.2f} µs  x{figures['ratio']}")
    for name, nanoseconds in cells.items():
        print(f"{name:32} {nanoseconds} ns")


if __name__ == "__main__":
    main()
