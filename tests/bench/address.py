"""Our address against vLLM's own server: `python -m tests.bench.address [--json] [--quick] [--clients 1,16,64]`.

Side by side in one run, in turns, on the same model with the same engine settings and cores. Uncached: every prompt
is new, 16 tokens out. Cached: the same request again, against a bare echo route on the same ingress. Only one server
is under load at a time; what the others use while idle is measured and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from tests.bench import servers
from tests.bench.address_report import Figures, as_document, as_text
from tests.bench.echo_route import ECHO_PATH
from tests.bench.first_request import first_request
from tests.bench.http_load import VARIED
from tests.bench.pairs import ask_in_pairs
from tests.bench.rounds import Rounds, Row, Way, WrongAnswers, measure
from tests.bench.service import Service, ServiceFailed, end_services_on_sigterm, running

PATH = "/v1/chat/completions"
NUM_TOKENS = 16
CLIENTS = (1, 16, 64)
_IDLE_S = 3.0
_SETTLE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    clients: tuple[int, ...]
    rounds: Rounds
    num_pairs: int
    as_user: bool
    home: Path


def ask(model: str, *, varied: bool = True) -> bytes:
    """A chat request for exactly 16 tokens."""
    text = f"Count the letters of headroom {VARIED}" if varied else "Count the letters of headroom"
    fields = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0}
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields})


def run(options: Options) -> Figures:
    """Raises ServiceFailed, WrongAnswers."""
    servers.prepare_home(options.home)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(running(servers.our_command(options.home)))
        firsts = [first_request(ours.url + PATH, ask(model), model=model) for model in servers.MODELS]
        engine = servers.engine_of(options.home)
        others = [servers.vllm_command(engine, log=options.home / "vllm.log")]
        if options.as_user:
            others.append(servers.vllm_as_user_command(engine, log=options.home / "vllm-as-user.log"))
        services = [ours, *(stack.enter_context(running(command)) for command in others)]
        time.sleep(_SETTLE_S)
        idle = {service.name: service.busy_cores(over_s=_IDLE_S) for service in services}
        ways = _ways(services)
        pairs = ask_in_pairs(ways[1], ways[0], num_pairs=options.num_pairs)
        uncached = [row for n in options.clients for row in measure(ways, num_clients=n, rounds=options.rounds)]
        _add_echo_route(ours, _cached_answer(ours))
        cached = _cached(ours, options)
        return Figures(
            start_s={service.name: service.start_s for service in services},
            pss_bytes={service.name: service.pss_bytes() for service in services},
            idle_cores=idle,
            firsts=firsts,
            pairs=pairs,
            uncached=uncached,
            cached=cached,
            engine=engine,
        )


def _ways(services: Sequence[Service]) -> list[Way]:
    """Ours first, then vLLM's own server, then any other."""
    return [
        Way(
            name=service.name,
            url=service.url + PATH,
            body=ask("fast" if service is services[0] else servers.MODEL),
            cpu_s=service.cpu_s,
        )
        for service in services
    ]


def _cached(ours: Service, options: Options) -> list[Row]:
    body = ask("fast", varied=False)
    ways = [
        Way(name="cached", url=ours.url + PATH, body=body, cpu_s=ours.cpu_s),
        Way(name="echo route", url=ours.url + ECHO_PATH, body=body, cpu_s=ours.cpu_s),
    ]
    return [row for n in options.clients for row in measure(ways, num_clients=n, rounds=options.rounds)]


def _cached_answer(ours: Service) -> bytes:
    """The stored answer, asked for until it comes from the cache."""
    for _ in range(3):
        answer = httpx.post(
            ours.url + PATH, content=ask("fast", varied=False), headers={"content-type": "application/json"}, timeout=60
        )
        if answer.headers.get("x-headroom-cache") == "hit":
            return answer.content
    raise WrongAnswers("the same request three times never was a cache hit")


def _add_echo_route(ours: Service, answer: bytes) -> None:
    variables = {**os.environ, **servers.ray_variables(ours)}
    command = [sys.executable, "-m", "tests.bench.echo_route", "--answer", answer.decode()]
    done = subprocess.run(command, env=variables, cwd=servers.REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailed(f"the echo route could not be deployed:\n{done.stderr[-2000:]}")


def options_from(arguments: argparse.Namespace) -> Options:
    rounds = Rounds(num_rounds=2, duration_s=3) if arguments.quick else Rounds(num_rounds=4, duration_s=4)
    clients = tuple(int(number) for number in arguments.clients.split(","))
    num_pairs = 100 if arguments.quick else 400
    return Options(
        clients=clients, rounds=rounds, num_pairs=num_pairs, as_user=not arguments.quick, home=arguments.home
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds; without vLLM's defaults")
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="numbers of clients")
    parser.add_argument("--home", type=Path, default=servers.RESULTS / "home", help="home of the measured cluster")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    end_services_on_sigterm()
    try:
        figures = run(options_from(arguments))
    except (ServiceFailed, WrongAnswers) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(as_text(figures))
    if arguments.json:
        print(json.dumps(as_document(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
