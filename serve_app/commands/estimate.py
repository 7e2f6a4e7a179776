"""`headroom estimate`: bytes of a model before it ever ran, part by part; with --compare, against what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import click

from serve_app.commands.options import json_option

BAD_INPUT_EXIT_CODE = 2
DEFAULT_FILE = Path("cluster.yaml")


class BadInput(click.ClickException):
    """A file or an argument that nothing can be estimated from."""

    exit_code = BAD_INPUT_EXIT_CODE


@click.command("estimate")
@click.argument("path", type=click.Path(path_type=Path), required=False, metavar="[PATH_OR_CONFIG]")
@click.option("--tp", "tensor_parallel", type=int, default=1, show_default=True, help="Devices that share the model.")
@click.option(
    "--dtype",
    type=click.Choice(["config", "auto", "bfloat16", "float16", "float32"]),
    default="config",
    show_default=True,
    help="Number format of the weights; auto is vLLM's, which runs float32 in 2 bytes.",
)
@click.option("--max-model-len", type=int, help="Longest prompt plus answer in tokens; the model's own when left out.")
@click.option("--max-num-seqs", type=int, help="Most requests at the same time; 1024 (cuda) or 128 when left out.")
@click.option(
    "--kv-dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32", "fp8", "fp8_e4m3", "fp8_e5m2"]),
    default="auto",
    show_default=True,
    help="Number format of the KV cache; auto is that of the weights.",
)
@click.option(
    "--device",
    type=click.Choice(["cuda", "host"]),
    default="cuda",
    show_default=True,
    help="Where it would run.",
)
@click.option(
    "--compare", is_flag=True, help="Compare the models of a cluster.yaml (PATH, or here) with what was measured."
)
@json_option
def command(
    *,
    path: Path | None,
    tensor_parallel: int,
    dtype: str,
    max_model_len: int | None,
    max_num_seqs: int | None,
    kv_dtype: str,
    device: str,
    compare: bool,
    as_json: bool,
) -> None:
    """Show what a model needs on each device, every part with its source.

    PATH_OR_CONFIG is a checkpoint directory, or a config.json alone. Reads it and safetensors headers; loads nothing.
    Exit code 2: nothing can be estimated from it.
    """
    if compare:
        _compare(path or DEFAULT_FILE, as_json=as_json)
        return
    if path is None:
        raise BadInput("There is nothing to estimate. Name a checkpoint directory or a config.json, or use --compare.")
    from placement.errors import PlacementError
    from placement.inventory import DeviceKind
    from serve_app.errors import HeadroomError
    from serve_app.fleet.model_sizes import Asked, as_json_value, sizes_of

    asked = Asked(
        dtype=dtype,
        kv_dtype=kv_dtype,
        tensor_parallel=tensor_parallel,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        device_kind=DeviceKind(device),
    )
    try:
        sizes = sizes_of(path, asked)
    except (PlacementError, HeadroomError) as error:
        raise BadInput(_said(path, error)) from error
    if as_json:
        click.echo(json.dumps(as_json_value(sizes), indent=2))
        return
    from serve_app.commands.estimate_table import draw_sizes
    from serve_app.commands.screen import console

    draw_sizes(console(), path, sizes)


def _said(path: Path, error: Exception) -> str:
    from serve_app.errors import HeadroomError

    return str(error) if isinstance(error, HeadroomError) else f"{path} cannot be estimated: {error}."


def _compare(file: Path, *, as_json: bool) -> None:
    from serve_app.config.load import load_settings
    from serve_app.fleet.model_comparison import as_json_value, compared

    entries = compared(load_settings(file))
    if as_json:
        click.echo(json.dumps(as_json_value(entries), indent=2))
        return
    from serve_app.commands.comparison_table import draw_comparison
    from serve_app.commands.screen import console

    draw_comparison(console(), entries)
