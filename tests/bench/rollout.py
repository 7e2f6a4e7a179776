"""What moving and deploying a checkpoint costs: `python -m tests.bench.rollout [--quick] [--gib 2.7] [--real-engine]`.

A checkpoint of random safetensors on the disk of a temporary folder. In turns, so that a busy machine is busy for
all: `cp` of the same files, our copy into a store, our stream over loopback from a depot in another process, the
rest of a shipment that broke off at half, and rsync where it is there. Every way ends with its bytes on the disk but
for `cp unflushed`; the source is in the page cache where it fits. Beside it the rate of SHA-256 alone on one core,
because nothing that verifies can be faster than that on one file. Then whole deployments by hand: see
`rollout_deploy.py`, and with `--real-engine` `rollout_engine.py`. Asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from serve_app.rollout.content_store import ContentStore
from serve_app.rollout.depot import Depot, DepotSettings
from serve_app.rollout.depot_fetch import StreamSource
from serve_app.rollout.depot_server import Offer
from serve_app.rollout.ship_errors import ShipFailed
from serve_app.rollout.ship_folder import FolderSource
from serve_app.rollout.ship_parcel import Packed, pack
from serve_app.training.manifest import digest_file
from serve_app.training.writer import Origin, write_checkpoint
from tests.bench.rollout_deploy import Deployed, scripted
from tests.bench.rollout_deploy import show as show_deployed
from tests.bench.rollout_engine import real

GIB: Final = 1 << 30
COPIES: Final = 5
"""Two checkpoints, the old one in a backup, the new one in the node's store, and as much again to spare."""
WEIGHTS: Final = "model.safetensors"
_PIECE: Final = 16 << 20
_WITHIN_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`mb_per_s`: median over the rounds, 10^6 bytes, over the whole time with its flush.

    `of_cp`: median of the rounds' own ratios. `rss_growth_mb`: by how much the peak of the process that received
    grew while it did.
    """

    way: str
    mb_per_s: float
    of_cp: float
    rounds_mb_per_s: tuple[float, ...]
    rss_growth_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    num_bytes: int
    duration_s: float
    rss_growth_mb: float | None

    @property
    def mb_per_s(self) -> float:
        return self.num_bytes / 1e6 / self.duration_s


class NoRoom(Exception):
    pass


def make(folder: Path, num_bytes: int, *, step: int = 1) -> Path:
    """A checkpoint that every rule accepts, its weights random."""

    def fill(into: Path) -> None:
        (into / "config.json").write_text('{"model_type": "llama"}')
        (into / "tokenizer.json").write_text('{"version": "1.0"}')
        tensor = {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}
        head = json.dumps({"weights": tensor}).encode()
        with (into / WEIGHTS).open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for done in range(0, num_bytes, _PIECE):
                file.write(os.urandom(min(_PIECE, num_bytes - done)))

    origin = Origin(model="bench", step=step, config_hash="", seed=0, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    return write_checkpoint(folder, origin, fill=fill)


# -- The ways; each in a process of its own, so that its peak of memory is its own ---------------------


def copied(packed: Packed, root: Path) -> Taken:
    return _received(root, packed, FolderSource(packed.path, packed.stamps))


def streamed(packed: Packed, root: Path, offer: Offer) -> Taken:
    return _received(root, packed, StreamSource(offer, node="source", deadline_s=time.monotonic() + _WITHIN_S))


def resumed(packed: Packed, root: Path, offer: Offer) -> Taken:
    """What is timed is the second half; its rate is that of the bytes still to come, the re-hash included."""
    half = packed.parcel.num_bytes // 2
    broken = _Broken(half)
    try:
        source = StreamSource(offer, node="source", deadline_s=time.monotonic() + _WITHIN_S)
        ContentStore(root).receive(packed.parcel, source, copied=broken)
    except ShipFailed:
        return streamed(packed, root, offer)
    raise RuntimeError("the shipment did not break off")


class _Broken:
    def __init__(self, after_bytes: int) -> None:
        self._left = after_bytes

    def __call__(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise ShipFailed("broken off by the bench")


def _received(root: Path, packed: Packed, source: FolderSource | StreamSource) -> Taken:
    store, before = ContentStore(root), _peak_mb(anew=True)
    began_s = time.perf_counter()
    received = store.receive(packed.parcel, source)
    took_s = time.perf_counter() - began_s
    return Taken(num_bytes=received.copied_bytes, duration_s=took_s, rss_growth_mb=_peak_mb() - before)


def cp(packed: Packed, root: Path, *, flushed: bool = True) -> Taken:
    return _by_program(["cp", "-r"], packed, root, flushed=flushed)


def cp_unflushed(packed: Packed, root: Path) -> Taken:
    return cp(packed, root, flushed=False)


def rsync(packed: Packed, root: Path) -> Taken:
    """Local to local, and then every byte read and hashed, because rsync's own check is of what it sent."""
    began_s = time.perf_counter()
    moved = _by_program(["rsync", "--archive", "--whole-file", "--inplace"], packed, root, flushed=True)
    for name, entry in packed.parcel.files.items():
        if digest_file(root / packed.path.name / name) != entry:
            raise RuntimeError(f"rsync brought another {name}")
    return Taken(num_bytes=moved.num_bytes, duration_s=time.perf_counter() - began_s, rss_growth_mb=None)


def _by_program(command: list[str], packed: Packed, root: Path, *, flushed: bool) -> Taken:
    root.mkdir()
    began_s = time.perf_counter()
    subprocess.run([*command, str(packed.path), str(root)], check=True)
    for path in root.rglob("*") if flushed else ():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return Taken(num_bytes=packed.parcel.num_bytes, duration_s=time.perf_counter() - began_s, rss_growth_mb=None)


def hashed(packed: Packed, root: Path) -> Taken:
    began_s = time.perf_counter()
    entry = digest_file(packed.path / WEIGHTS)
    return Taken(num_bytes=entry.bytes, duration_s=time.perf_counter() - began_s, rss_growth_mb=None)


def _peak_mb(*, anew: bool = False) -> float:
    """Most resident memory since the start of this process, or since it was last counted `anew`.

    From /proc: the peak of `getrusage` is inherited from the process that started this one.
    """
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


# -- The rounds ----------------------------------------------------------------------------------------


def measure(folder: Path, packed: Packed, offer: Offer, num_rounds: int) -> list[Row]:
    ways: dict[str, tuple[Callable[..., Taken], tuple[object, ...]]] = {
        "cp": (cp, ()),
        "cp unflushed": (cp_unflushed, ()),
        "copy": (copied, ()),
        "stream": (streamed, (offer,)),
        "resumed": (resumed, (offer,)),
        "sha256": (hashed, ()),
    }
    if shutil.which("rsync"):
        ways["rsync+sha256"] = (rsync, ())
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for number in range(num_rounds):
        names = list(ways) if number % 2 == 0 else list(reversed(ways))
        for name in names:
            way, more = ways[name]
            taken[name].append(_alone(way, packed, folder / "target", *more))
    base = [one.mb_per_s for one in taken["cp"]]
    return [_row(name, done, base) for name, done in taken.items()]


def _alone(way: Callable[..., Taken], *arguments: object) -> Taken:
    """In a fresh process, with nothing left to be written by the one before."""
    os.sync()
    target = arguments[1]
    assert isinstance(target, Path)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(way, *arguments).result()
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _row(name: str, done: list[Taken], base: list[float]) -> Row:
    rates = tuple(one.mb_per_s for one in done)
    growths = [one.rss_growth_mb for one in done if one.rss_growth_mb is not None]
    return Row(
        way=name,
        mb_per_s=statistics.median(rates),
        of_cp=statistics.median(mine / theirs for mine, theirs in zip(rates, base, strict=True)),
        rounds_mb_per_s=rates,
        rss_growth_mb=max(growths, default=None),
    )


@contextmanager
def source_process(home: Path, checkpoint: Path) -> Iterator[Offer]:
    """A depot in a process of its own that offers the checkpoint."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_be_source, args=(home, checkpoint, theirs))
    process.start()
    try:
        offer: Offer = ours.recv()
        yield offer
    finally:
        ours.send(None)
        process.join()


def _be_source(home: Path, checkpoint: Path, pipe: Connection) -> None:
    depot = Depot(DepotSettings(node="source", home=home, roots=(home / "models",)))
    pipe.send(depot.offer(depot.pack(checkpoint)))
    pipe.recv()
    depot.close()


def show(rows: list[Row], num_bytes: int) -> None:
    print(f"checkpoint of {num_bytes / 1e9:.2f} GB, one file of weights; MB/s are 10^6 bytes, flush included")
    print(f"{'way':14}{'MB/s':>9}{'of cp':>8}{'peak grew':>12}   rounds")
    for row in rows:
        grew = "-" if row.rss_growth_mb is None else f"{row.rss_growth_mb:.1f} MB"
        rounds = " ".join(f"{rate:.0f}" for rate in row.rounds_mb_per_s)
        print(f"{row.way:14}{row.mb_per_s:>9.0f}{row.of_cp:>8.2f}{grew:>12}   {rounds}", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    rows: list[Row]
    num_bytes: int
    deployed: Deployed


def run(*, gib: float, num_rounds: int, below: Path | None) -> Measured:
    """Prints the rows before it deploys, which takes as long again. Raises: NoRoom."""
    num_bytes = int(gib * GIB)
    with tempfile.TemporaryDirectory(prefix="headroom-rollout-", dir=below) as name:
        folder = Path(name)
        if (free := shutil.disk_usage(folder).free) < COPIES * num_bytes + GIB:
            raise NoRoom(f"{free / GIB:.1f} GiB are free below {folder}; {COPIES * gib + 1:.1f} are needed")
        checkpoint = make(folder / "models" / "bench", num_bytes)
        packed = pack(checkpoint)
        with source_process(folder, checkpoint) as offer:
            rows = measure(folder, packed, offer, num_rounds)
        show(rows, packed.parcel.num_bytes)
        new = make(folder / "models" / "bench", num_bytes, step=2)
        deployed = asyncio.run(scripted(folder, checkpoint, new))
        return Measured(rows=rows, num_bytes=packed.parcel.num_bytes, deployed=deployed)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="a small checkpoint, two rounds")
    parser.add_argument("--gib", type=float, default=2.7, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--below", type=Path, help="a folder on the disk to measure; the temporary folder if left out")
    parser.add_argument("--real-engine", action="store_true", help="also deploy to vLLM on the CPU; takes minutes")
    asked = parser.parse_args()
    gib, num_rounds = (0.25, 2) if asked.quick else (asked.gib, asked.rounds)
    try:
        measured = run(gib=gib, num_rounds=num_rounds, below=asked.below)
    except NoRoom as error:
        print(error, file=sys.stderr)
        return 1
    show_deployed(measured.deployed, measured.num_bytes)
    if asked.real_engine:
        asyncio.run(real(gib, below=asked.below))
    if asked.json:
        print(json.dumps({"bench": "rollout", **asdict(measured)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
