"""The published openb experiment again, for our online placement, best-fit and FGD.

python -m tests.bench.openb --nodes FILE --pods FILE [--published FILE] [--seeds 42,43,44] [--moves] [--learn] [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from placement.ask import Ask
from placement.online import OnlinePlacer
from placement.online_moves import MovingPlacer
from tests.bench.openb_report import Rows, as_json, as_table, published_rows
from tests.bench.openb_rivals import BestFit, Fgd
from tests.bench.openb_run import Place, Run, run
from tests.bench.openb_trace import BadTrace, Stream, read_nodes, read_pods, stream

Maker = Callable[[Stream, Sequence[Ask]], Place]

OURS, MOVING = "headroom", "headroom_moves"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 with one sentence on stderr where a file or a seed is not what it should be."""
    options = _parser().parse_args(arguments)
    try:
        nodes, pods = read_nodes(options.nodes), read_pods(options.pods)
        published = published_rows(options.published, options.pods) if options.published else {}
        streams = [stream(nodes, pods, seed) for seed in options.seeds]
        rows = _measure(_makers(options), streams, pods)
    except BadTrace as fault:
        print(fault, file=sys.stderr)
        return 2
    if not options.json:
        print(as_table(rows, published, title=f"{options.pods.stem}, {len(nodes)} nodes, {len(pods)} pods"))
    else:
        print(as_json(rows, ours=OURS))
    return 0


def _measure(makers: dict[str, Maker], streams: Sequence[Stream], pods: Sequence[Ask]) -> Rows:
    rows: dict[str, list[Run]] = {name: [] for name in makers}
    for one in streams:
        for name, make in makers.items():
            print(f"seed {one.seed}: {name} ...", file=sys.stderr, flush=True)
            rows[name].append(run(one, make(one, pods)))
    return {name: tuple(runs) for name, runs in rows.items()}


def _makers(options: argparse.Namespace) -> dict[str, Maker]:
    """Ours knows the mix of the workload beforehand, as FGD does; with `--learn` only what has arrived."""
    makers: dict[str, Maker] = {OURS: partial(_ours, learn=options.learn)}
    if options.moves:
        makers[MOVING] = partial(_moving, learn=options.learn)
    if not options.headroom_only:
        makers["fgd"] = lambda one, pods: Fgd(one.nodes, pods).place
        makers["bestfit"] = lambda one, pods: BestFit(one.nodes).place
    return makers


def _ours(one: Stream, pods: Sequence[Ask], *, learn: bool) -> Place:
    return OnlinePlacer(one.nodes, known=() if learn else pods).place


def _moving(one: Stream, pods: Sequence[Ask], *, learn: bool) -> Place:
    return MovingPlacer(OnlinePlacer(one.nodes, known=() if learn else pods)).place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.openb", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=Path, required=True, help="CSV: sn,cpu_milli,memory_mib,gpu,model")
    parser.add_argument(
        "--pods", type=Path, required=True, help="CSV: cpu_milli,memory_mib,num_gpu,gpu_milli[,gpu_spec]"
    )
    parser.add_argument("--published", type=Path, help="JSON with the published figures, shown beside ours")
    parser.add_argument("--seeds", type=_seeds, default=(42, 43, 44), help="numbers with commas between, 42,43,44")
    parser.add_argument("--moves", action="store_true", help="ours once more, moving up to 1 %% of the pods")
    parser.add_argument("--learn", action="store_true", help="ours knows only what has arrived, not the workload")
    parser.add_argument("--headroom-only", action="store_true", help="without best-fit and FGD")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON instead of a table")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of seeds; expected e.g. 42,43,44") from fault


if __name__ == "__main__":
    sys.exit(main())
