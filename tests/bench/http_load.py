"""Load on one POST route from a process of its own: `wrk` where it is installed, else a small asyncio client.

Closed loop: each client asks again as soon as it has its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_LUA = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = [==[%s]==]
%s
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.read + summary.errors.connect + summary.errors.timeout
  io.write(string.format('\\nJSON{"num_requests":%%d,"duration_s":%%f,"num_errors":%%d,"median_ms":%%f,"p99_ms":%%f}\\n',
    summary.requests, summary.duration / 1e6, bad, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
_TIMEOUT = "60s"
"""wrk calls every answer after 2 s an error unless told otherwise."""
VARIED = "@@@@@@@@"
"""Stands in a body for eight digits that differ from request to request."""
MOST_VARIANTS = 10**8
_LUA_VARIED = """
local before, after = wrk.body:match("^(.-)@@@@@@@@(.*)$")
local number = %d
request = function()
  number = (number + 1) %% %d
  return wrk.format(nil, nil, nil, before .. string.format("%%08d", number) .. after)
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    num_requests: int
    duration_s: float
    num_errors: int
    median_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.num_requests / self.duration_s


def load(url: str, body: bytes, *, num_clients: int, duration_s: int, num_variants: int = MOST_VARIANTS) -> Load:
    """POST `body` to `url` from `num_clients` connections for `duration_s` seconds.

    `VARIED` in it becomes a number below `num_variants`.
    """
    if shutil.which("wrk"):
        return _wrk(url, body, num_clients=num_clients, duration_s=duration_s, num_variants=num_variants)
    arguments = [url, body.decode(), str(num_clients), str(duration_s), str(num_variants)]
    done = subprocess.run([sys.executable, "-m", "tests.bench.http_load", *arguments], capture_output=True, check=True)
    return Load(**json.loads(done.stdout))


def tool() -> str:
    """What makes the load, and what would make it better."""
    return "wrk" if shutil.which("wrk") else "asyncio client in Python (`apt-get install wrk` for a compiled one)"


def _wrk(url: str, body: bytes, *, num_clients: int, duration_s: int, num_variants: int) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        text = body.decode()
        varied = _LUA_VARIED % (random.randrange(num_variants), num_variants) if VARIED in text else ""
        script.write_text(_LUA % (text, varied))
        command = ["wrk", "-t1", f"-c{num_clients}", f"-d{duration_s}s", "--timeout", _TIMEOUT, "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON"))
    return Load(**json.loads(line.removeprefix("JSON")))


class _Client(asyncio.Protocol):
    """Sends the same request for ever; understands answers with a length and chunked ones that end in `0`."""

    def __init__(self, request: bytes, took_s: list[float], ends_s: float, num_variants: int) -> None:
        self._num_variants = num_variants
        self._before, self._varied, self._after = request.partition(VARIED.encode())
        self._took_s = took_s
        self._ends_s = ends_s
        self._since_s = 0.0
        self._answer = b""
        self.num_errors = 0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not _is_whole(self._answer):
            return
        now_s = time.perf_counter()
        self._took_s.append(now_s - self._since_s)
        self.num_errors += not self._answer.startswith(b"HTTP/1.1 200")
        if now_s < self._ends_s:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)

    def _ask(self) -> None:
        self._answer = b""
        self._since_s = time.perf_counter()
        number = b"%08d" % random.randrange(self._num_variants) if self._varied else b""
        self._transport.write(self._before + number + self._after)


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])


async def _own(url: str, body: bytes, num_clients: int, duration_s: float, num_variants: int) -> Load:
    host, path = url.removeprefix("http://").split("/", 1)
    address, port = host.split(":")
    request = f"POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    took_s: list[float] = []
    began_s = time.perf_counter()
    loop = asyncio.get_running_loop()

    def client() -> _Client:
        return _Client(request, took_s, began_s + duration_s, num_variants)

    clients = [(await loop.create_connection(client, address, int(port)))[1] for _ in range(num_clients)]
    await asyncio.gather(*(client.over for client in clients))
    took_s.sort()
    return Load(
        num_requests=len(took_s),
        duration_s=time.perf_counter() - began_s,
        num_errors=sum(client.num_errors for client in clients),
        median_ms=1e3 * took_s[len(took_s) // 2],
        p99_ms=1e3 * took_s[int(len(took_s) * 0.99)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Closed-loop load on one POST route; prints JSON.")
    parser.add_argument("url")
    parser.add_argument("body")
    parser.add_argument("num_clients", type=int)
    parser.add_argument("duration_s", type=float)
    parser.add_argument("num_variants", type=int)
    args = parser.parse_args()
    own = _own(args.url, args.body.encode(), args.num_clients, args.duration_s, args.num_variants)
    print(json.dumps(asdict(asyncio.run(own))))


if __name__ == "__main__":
    main()
