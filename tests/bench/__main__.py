"""All benches one after the other: `python -m tests.bench [--quick]`; with `--peers` those against other servers."""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.bench.servers import REPOSITORY

_OWN = (
    "tests.bench.address",
    "tests.bench.gateway",
    "tests.bench.gateway_growth",
    "tests.bench.tracing_cost",
    "tests.bench.packing",
    "tests.bench.planner",
    "tests.bench.leases",
    "tests.bench.rollout",
)
_PEERS = ("tests.bench.litellm_proxy", "tests.bench.peers")
_KNOW_QUICK = (
    "tests.bench.address",
    "tests.bench.gateway_growth",
    "tests.bench.litellm_proxy",
    "tests.bench.peers",
    "tests.bench.packing",
    "tests.bench.leases",
    "tests.bench.rollout",
)


def main() -> int:
    """Each in a process of its own, so that none inherits another's state. Returns how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peers", action="store_true", help="those of LiteLLM and ray.serve.llm, in environments of their own"
    )
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    arguments = parser.parse_args()
    failed = 0
    for module in _PEERS if arguments.peers else _OWN:
        print(f"== {module}", flush=True)
        quick = ["--quick"] if arguments.quick and module in _KNOW_QUICK else []
        failed += subprocess.run([sys.executable, "-m", module, *quick], cwd=REPOSITORY, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
