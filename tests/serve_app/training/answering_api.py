"""An OpenAI API on loopback that knows one model and answers with a function of the question."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import MappingProxyType
from typing import Any

MODEL = "mini"


class Seen:
    """What the server was asked, and how many questions it held at once at most."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.cache_controls: list[str | None] = []
        self.secrets: list[str | None] = []
        self.most_at_once = 0
        self._now, self._lock = 0, Lock()

    @contextmanager
    def one(self, body: dict[str, Any], headers: Message) -> Iterator[None]:
        with self._lock:
            self.bodies.append(body)
            self.cache_controls.append(headers.get("cache-control"))
            self.secrets.append(headers.get("x-headroom-internal"))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        yield
        with self._lock:
            self._now -= 1


@contextmanager
def openai_api(
    say: Callable[[str], str | None], *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, Seen]]:
    """Its base URL, and what it saw. `status` other than 200 is the answer to every known question."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(
                200, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "x"}]}
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with seen.one(body, self.headers):
                if body["model"] != MODEL:
                    self._send(404, {"error": {"message": "no such model", "type": "not_found", "code": "x"}})
                elif status != 200:
                    self._send(status, {"error": {"message": "not well", "type": "invalid", "code": "x"}})
                else:
                    told = _completion(say(body["messages"][-1]["content"]), logprobs=bool(body.get("logprobs")))
                    self._send(200, told)

        def _send(self, code: int, content: object) -> None:
            raw = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its own signature
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def _completion(text: str | None, *, logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if logprobs:
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.25}]}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
