"""The least an ASGI route can do: read the body, answer fixed bytes. A cached answer is held against it."""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn


def echo_app(answer: bytes, *, num_more_headers: int = 0) -> Any:
    """`num_more_headers` are as many as the gateway adds, to tell the server's cost for them from ours."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    headers += [(b"x-headroom-header-%d" % number, b"some-value") for number in range(num_more_headers)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Echo route under uvicorn on 127.0.0.1.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", default="{}")
    parser.add_argument("--more-headers", type=int, default=0)
    args = parser.parse_args()
    app = echo_app(args.answer.encode(), num_more_headers=args.more_headers)
    uvicorn.run(app, host="127.0.0.1", port=args.port, access_log=False, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
