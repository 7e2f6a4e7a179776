"""schemathesis against the OpenAPI document: no answer of 500 or above, no route open without a key.

    python -m tests.load.fuzz [--examples 50] [--seed 1]

Starts its own target on loopback (`fuzz_target`), so nothing else is touched. schemathesis is no part of the lock:
install it anywhere and name its program by `--schemathesis`, or have it on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from serve_app.access.keys import KeySnapshot
from serve_app.api.control_routes import ControlAsked
from serve_app.engines.scripted import ScriptedEngine
from serve_app.gateway.app import Gateway
from serve_app.gateway.standalone import standalone_settings, standalone_table
from serve_app.http_server import HttpServer
from tests.load.fuzz_target import MODEL, PartsOfAController
from tracing.metrics import Recorder

_HOST = "127.0.0.1"
_SECRET = "fuzz"
_CHECKS = "not_a_server_error,ignored_auth,content_type_conformance,response_schema_conformance"
_NOT_INSTALLED = (
    "schemathesis is not installed. It is no part of the lock file: `python -m venv X && X/bin/pip install "
    "schemathesis`, then name it: `python -m tests.load.fuzz --schemathesis X/bin/schemathesis`."
)


def command(program: str, *, url: str, key: str, examples: int, seed: int) -> list[str]:
    """Its own way of saying it: every operation, each with good and bad data, with a key, and again without."""
    return [
        program,
        "run",
        f"{url}/openapi.json",
        f"--header=Authorization: Bearer {key}",
        f"--checks={_CHECKS}",
        f"--max-examples={examples}",
        f"--seed={seed}",
        "--phases=examples,coverage,fuzzing",
        "--continue-on-failure",
        # The keys that protect the run must outlive it.
        "--exclude-path-regex=^/admin/keys/",
    ]


async def attacked(program: str, *, examples: int, seed: int) -> int:
    """The exit code of schemathesis, 0 when it found nothing."""
    with tempfile.TemporaryDirectory(prefix="headroom-fuzz-") as folder:
        engine = HttpServer(ScriptedEngine(model=MODEL, secret=_SECRET, keep_bodies=False))
        await engine.start(host=_HOST)
        table = standalone_table([(MODEL, engine.url)], secret=_SECRET)

        def publish(keys: KeySnapshot) -> None:
            gateway.update(dataclasses.replace(table, version=1 + keys.version, access=keys))

        control = PartsOfAController(Path(folder), changed=publish)
        gateway = Gateway(settings=standalone_settings([MODEL]), control=control, recorder=Recorder("fuzz"))
        await control.start()
        server = HttpServer(gateway)
        await server.start(host=_HOST)
        try:
            made = control.access.answer(ControlAsked(method="POST", path="/admin/keys", body=b'{"roles": ["admin"]}'))
            key: str = orjson.loads(made.body)["key"]
            arguments = command(program, url=server.url, key=key, examples=examples, seed=seed)
            process = await asyncio.create_subprocess_exec(*arguments, cwd=folder)  # it leaves a cache there
            return await process.wait()
        finally:
            await server.stop()
            await gateway.aclose()
            await engine.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50, help="Most examples of each operation.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis", default="schemathesis", metavar="PROGRAM")
    asked = parser.parse_args(arguments)
    program = shutil.which(asked.schemathesis)
    if program is None:
        sys.stderr.write(f"{_NOT_INSTALLED}\n")
        return 2
    return asyncio.run(attacked(program, examples=asked.examples, seed=asked.seed))


if __name__ == "__main__":
    sys.exit(main())
