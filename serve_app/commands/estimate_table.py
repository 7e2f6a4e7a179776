"""The sizes of a model as one table: vLLM's account and a plan's side by side, then the KV cache."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placement.demand import PartName
from placement.units import MIB, gib
from serve_app.fleet.model_sizes import ModelSizes

KIB = 1024
ROWS = {
    "weights": PartName.WEIGHTS,
    "activation": PartName.ACTIVATION,
    "cuda_graphs": PartName.CUDA_GRAPHS,
    "non_torch": PartName.CONTEXT,
    "context": PartName.CONTEXT,
}
"""Our names of the parts in vLLM's account, and of those in a plan that hold them."""
LABELS = {"non_torch": "non-torch, context", "cuda_graphs": "CUDA graphs"}


def draw_sizes(console: Console, path: Path, sizes: ModelSizes) -> None:
    console.print(_headline(path, sizes))
    console.print()
    console.print(_parts(sizes))
    console.print()
    console.print(_cache(sizes))
    for note in sizes.report.notes:
        console.print(Text(f"  note: {note}", style="yellow"))


def _headline(path: Path, sizes: ModelSizes) -> Text:
    report, setting = sizes.report, sizes.setting
    each = "" if setting.tensor_parallel == 1 else f" on each of {setting.tensor_parallel} devices"
    return Text.assemble(
        (str(path), "bold"), f"  {report.model_type}, checkpoint {report.checkpoint_bytes:,} bytes",
        f" ({gib(report.checkpoint_bytes, decimals=2)})\n",
        (f"  {setting.device_kind.value}{each}, {sizes.dtype_bytes} bytes per number, ", "dim"),
        (f"at most {setting.max_num_seqs:,} sequences of {setting.max_model_len:,} tokens", "dim"),
    )  # fmt: skip


def _parts(sizes: ModelSizes) -> Table:
    report = sizes.report
    table = Table("part", box=None, padding=(0, 2, 0, 2), show_edge=False)
    for heading in ("bytes", "vLLM counts", "a plan reserves"):
        table.add_column(heading, justify="right")
    table.add_column("source", overflow="fold")
    for part in report.parts:
        reserved = report.planned.part_bytes(ROWS[part.name])
        label = LABELS.get(part.name, part.name)
        table.add_row(label, f"{part.num_bytes:,}", _gib(part.num_bytes), _gib(reserved), part.source)
    cache = report.planned.part_bytes(PartName.KV_CACHE)
    table.add_row("KV cache", "", "-", _gib(cache), "one sequence of full length, the least vLLM starts with")
    loading = report.planned.part_bytes(PartName.LOADING)
    if loading:
        table.add_row("while starting", "", "-", _gib(loading), "weights read beside their copy")
    total = Text(f"{report.total_bytes:,}", style="bold")
    table.add_row(
        Text("together", style="bold"), total, _gib(report.total_bytes), _gib(report.planned.peak_bytes),
        "on each device" if sizes.setting.tensor_parallel > 1 else "",
    )  # fmt: skip
    return table


def _cache(sizes: ModelSizes) -> Table:
    report, setting = sizes.report, sizes.setting
    table = Table("KV cache", box=None, padding=(0, 2, 0, 2), show_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column("", justify="right")
    table.add_column("how")
    rows = [("per token, all layers", report.kv_bytes_per_token, f"{sizes.kv_dtype_bytes} bytes per element")]
    if report.state_bytes_per_sequence:
        rows.append(("state per sequence", report.state_bytes_per_sequence, "linear layers"))
    block = f"{report.kv_block_tokens} tokens, {_groups(report.kv_groups)}"
    rows += [
        ("per block of the pool", report.kv_block_bytes, block),
        ("one sequence", report.kv_sequence_bytes, f"{setting.max_model_len:,} tokens and vLLM's own block"),
        (f"{setting.max_num_seqs:,} sequences", report.kv_cache_bytes, "all of full length at once"),
    ]
    for name, num_bytes, how in rows:
        short = f"{num_bytes / KIB:.1f} KiB" if num_bytes < MIB else _gib(num_bytes)
        table.add_row(name, f"{num_bytes:,}", short, how)
    return table


def _groups(groups: tuple[str, ...]) -> str:
    """`12 full + 12 sliding 128`, with repeated ones counted."""
    counted = {group: groups.count(group) for group in dict.fromkeys(groups)}
    return " + ".join(f"{number} × ({group})" if number > 1 else group for group, number in counted.items()) + " layers"


def _gib(num_bytes: int) -> str:
    return gib(num_bytes, decimals=2)
