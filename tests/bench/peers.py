"""Our address against `ray.serve.llm`: `python -m tests.bench.peers [--json] [--quick] [--clients 1,16,64]`.

Each peer is measured in turns with our address and vLLM's own server, then stopped. `ray.serve.llm` pins vLLM 0.29,
the others run the product's version: its row compares products, not engines. Uncached every prompt is new;
repeated is the same request again, which only we answer from a cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.bench import servers
from tests.bench.address import PATH, Options, add_arguments, ask, options_from
from tests.bench.address_report import GIB, OURS, conditions, ratios, table
from tests.bench.peer_environment import NoEnvironment, peer_programs
from tests.bench.ray_serve_llm import ray_serve_llm_command
from tests.bench.rounds import Row, Way, WrongAnswers, measure
from tests.bench.service import Service, ServiceFailed, end_services_on_sigterm, running


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One peer beside us. `pss_bytes` is its memory alone."""

    peer: str
    start_s: float
    pss_bytes: int
    uncached: list[Row]
    repeated: list[Row]


def run(options: Options) -> list[Comparison]:
    """Raises NoEnvironment, ServiceFailed, WrongAnswers."""
    programs = peer_programs()
    servers.prepare_home(options.home)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(running(servers.our_command(options.home)))
        engine = servers.engine_of(options.home)
        vllm = stack.enter_context(running(servers.vllm_command(engine, log=options.home / "vllm.log")))
        found = []
        for haproxy in (False, True):
            log = options.home / f"ray-serve-llm{'-haproxy' * haproxy}.log"
            with running(ray_serve_llm_command(engine, programs=programs, log=log, haproxy=haproxy)) as peer:
                found.append(_compared((ours, vllm, peer), options))
        return found


def _compared(services: Sequence[Service], options: Options) -> Comparison:
    peer = services[-1]
    rows = {
        varied: [
            row
            for num_clients in options.clients
            for row in measure(_ways(services, varied=varied), num_clients=num_clients, rounds=options.rounds)
        ]
        for varied in (True, False)
    }
    return Comparison(
        peer=peer.name,
        start_s=peer.start_s,
        pss_bytes=peer.pss_bytes(),
        uncached=rows[True],
        repeated=rows[False],
    )


def _ways(services: Sequence[Service], *, varied: bool) -> list[Way]:
    return [
        Way(
            name=service.name,
            url=service.url + PATH,
            body=ask("fast" if service.name == OURS else servers.MODEL, varied=varied),
            cpu_s=service.cpu_s,
        )
        for service in services
    ]


def _text(comparison: Comparison) -> str:
    parts = [f"\n{comparison.peer}: ready after {comparison.start_s:.1f} s, {comparison.pss_bytes / GIB:.2f} GiB"]
    for name, rows in (("uncached", comparison.uncached), ("repeated", comparison.repeated)):
        lines = [f"  {pair:44} {ratio:6.2f}" for pair, ratio in ratios(rows, ours=OURS).items()]
        parts += [f"\n{name}", table(rows), *lines]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    end_services_on_sigterm()
    try:
        found = run(options_from(arguments))
    except (NoEnvironment, ServiceFailed, WrongAnswers) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(conditions())
    for comparison in found:
        print(_text(comparison))
    if arguments.json:
        print(json.dumps([asdict(comparison) for comparison in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
