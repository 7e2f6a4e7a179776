"""Cached answers against LiteLLM's proxy: `python -m tests.bench.litellm_proxy [--quick] [--json] [--address URL]`.

LiteLLM answers from a mocked model with its own cache in memory, one worker, in an environment of its own; ours is
the stand-alone gateway with a scripted engine, or the cluster at `--address`. The same request again and again, in
turns on the same cores, so that only the proxies differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.bench.address_report import conditions, ratios, table
from tests.bench.gateway_parts import NUM_WORDS, PATH, SECRET, chat_body
from tests.bench.peer_environment import LITELLM_VERSION, NoEnvironment, litellm_programs
from tests.bench.rounds import Rounds, Row, Way, WrongAnswers, measure
from tests.bench.server_process import free_port, python_server
from tests.bench.servers import RESULTS
from tests.bench.service import Command, Service, ServiceFailed, answers_a_chat, end_services_on_sigterm, running

CLIENTS = (1, 16)
OURS, THEIRS = "headroom, cached", "LiteLLM, cached"
AIM = 20
"""Times LiteLLM's rate at 16 clients."""
_FRESH = "LiteLLM, mocked"
_CONFIG = {
    "model_list": [
        {
            "model_name": "fast",
            "litellm_params": {"model": "openai/mini", "api_key": "none", "mock_response": "word " * NUM_WORDS},
        }
    ],
    "litellm_settings": {
        "cache": True,
        "cache_params": {"type": "local", "supported_call_types": ["acompletion", "completion"]},
    },
}


def litellm_command(programs: Path) -> Command:
    """On loopback only. Without a master key it starts only when told so, and asks no database."""
    folder = RESULTS / "litellm"
    config = folder / "config.json"  # JSON is YAML
    config.write_text(json.dumps(_CONFIG))
    port = free_port()
    return Command(
        name=THEIRS,
        arguments=[
            *(str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        variables={
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        },
        url=f"http://127.0.0.1:{port}",
        ready=answers_a_chat(PATH, chat_body("fast")),
        log=folder / "litellm.log",
    )


def run(*, rounds: Rounds, address: str | None) -> list[Row]:
    """Raises NoEnvironment, ServiceFailed, WrongAnswers."""
    command = litellm_command(litellm_programs())
    with running(command) as theirs, _ours(address) as ours:
        ways = [ours, _way(THEIRS, theirs), _way(_FRESH, theirs, cache={"no-cache": True})]
        return [row for num_clients in CLIENTS for row in measure(ways, num_clients=num_clients, rounds=rounds)]


def _way(name: str, service: Service, **fields: object) -> Way:
    return Way(name=name, url=service.url + PATH, body=chat_body("fast", **fields), cpu_s=service.cpu_s)


@contextlib.contextmanager
def _ours(address: str | None) -> Iterator[Way]:
    body = chat_body("fast")
    if address is not None:  # CPU of a cluster's processes is not ours to know
        yield Way(name=OURS, url=address + PATH, body=body, cpu_s=lambda: 0.0)
        return
    with (
        python_server("serve_app.engines.scripted", "--words", str(NUM_WORDS), "--secret", SECRET) as engine,
        python_server("serve_app.gateway.standalone", "--backend", f"mini={engine.url}", "--secret", SECRET) as gateway,
    ):
        yield Way(name=OURS, url=gateway.url + PATH, body=body, cpu_s=gateway.cpu_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    parser.add_argument("--address", help="of a running cluster, instead of the stand-alone gateway")
    asked = parser.parse_args()
    end_services_on_sigterm()
    rounds = (
        Rounds(num_rounds=3, duration_s=2, warm_up_s=3)
        if asked.quick
        else Rounds(num_rounds=6, duration_s=4, warm_up_s=3)
    )
    try:
        rows = run(rounds=rounds, address=asked.address)
    except (NoEnvironment, ServiceFailed, WrongAnswers) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    found = ratios(rows, ours=OURS)
    print(f"{conditions()}; LiteLLM {LITELLM_VERSION}, one worker; ours: {asked.address or 'stand-alone gateway'}")
    print(table(rows))
    for pair, ratio in found.items():
        print(f"  {pair:44} {ratio:6.1f}")
    reached = found[f"{OURS} / {THEIRS} @16"]
    print(f"{'met   ' if reached >= AIM else 'MISSED'} cached at 16 clients: {reached:.1f} times LiteLLM's (>= {AIM})")
    if asked.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "ratios": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
