"""What faults cost on plain Ray Serve and on Headroom: `python -m tests.bench.faults [--json] [--only N ...]`.

Two clusters on this machine, one after the other, each with two replicas of the default model `mini` on real vLLM
engines, the same steady clients and the same faults; loads that need a known capacity have scripted engines and say
so. About half an hour for all. Nothing here is asserted: a fault that could not be made says so in its row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from tests.bench.faults.cases import ALONE, LIVE
from tests.bench.faults.outcome import Alone, Case, Live, Outcome, Row, table
from tests.bench.faults.sides import Side, headroom, plain_serve_of_vllm
from tests.bench.service import end_services_on_sigterm

_NOT_RUN = Outcome(saw="not run")
_SIDES = {"base": plain_serve_of_vllm, "product": headroom}


def _on_live(name: str, cases: Sequence[Case[Live]]) -> list[Outcome]:
    """All of them on one cluster, which is not started when none of them needs it."""
    faults = [case.base if name == "base" else case.product for case in cases]
    if all(isinstance(fault, str) for fault in faults):
        return [Outcome(saw=str(fault)) for fault in faults]
    with contextlib.ExitStack() as stack:
        side: Side = stack.enter_context(_SIDES[name]())
        return [
            Outcome(saw=fault) if isinstance(fault, str) else _tried(name, case.fault, lambda fault=fault: fault(side))  # type: ignore[misc]  # bound now
            for fault, case in zip(faults, cases, strict=True)
        ]


def _alone(name: str, case: Case[Alone]) -> Outcome:
    fault = case.base if name == "base" else case.product
    return Outcome(saw=fault) if isinstance(fault, str) else _tried(name, case.fault, fault)


def _tried(name: str, fault: str, happen: Callable[[], Outcome]) -> Outcome:
    try:
        outcome = happen()
    except AssertionError as late:
        outcome = Outcome(saw=f"not measured: {late}")
    print(f"{name}: {fault}: {outcome}", file=sys.stderr, flush=True)
    return outcome


def measured(sides: Sequence[str], numbers: Sequence[int]) -> list[Row]:
    """Rows of these numbers, in their order."""
    live = [case for case in LIVE if case.number in numbers]
    alone = [case for case in ALONE if case.number in numbers]
    outcomes = {
        name: [*_on_live(name, live), *(_alone(name, case) for case in alone)]
        if name in sides
        else [_NOT_RUN] * (len(live) + len(alone))
        for name in _SIDES
    }
    cases: list[Case[Live] | Case[Alone]] = [*live, *alone]
    rows = [
        Row(number=case.number, fault=case.fault, promise=case.promise, base=base, product=product)
        for case, base, product in zip(cases, outcomes["base"], outcomes["product"], strict=True)
    ]
    return sorted(rows, key=lambda row: row.number)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    numbers = sorted({case.number for case in LIVE} | {case.number for case in ALONE})
    parser.add_argument("--only", type=int, action="append", choices=numbers, help="this row; may be given again")
    parser.add_argument("--side", choices=tuple(_SIDES), help="one of the two")
    arguments = parser.parse_args()
    end_services_on_sigterm()
    rows = measured([arguments.side] if arguments.side else list(_SIDES), arguments.only or numbers)
    print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
