"""Recorded telemetry: one row per device per poll in CSV or Parquet, read into lives of devices. Format: DESIGN.md.

Imports polars only when a file is read or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from placement.backtest import Life
from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Poll, Silence
from serve_app.errors import HeadroomError

if TYPE_CHECKING:
    import polars as pl

MAX_ROWS = 20_000_000
MAX_STORIES = 100
TEXT, REAL, WHOLE = "text", "number", "whole number"
COLUMNS = {
    "device": TEXT,
    "time_s": REAL,
    "temperature_c": REAL,
    "slowdown_c": REAL,
    "power_w": REAL,
    "power_limit_w": REAL,
    "ecc_corrected": WHOLE,
    "pcie_replays": WHOLE,
    "failed": REAL,
}
OPTIONAL = {"utilization": REAL, "ecc_uncorrected": WHOLE, "story": TEXT}
KEYS = ("device", "time_s", "failed", "story")
READINGS = tuple(name for name in {**COLUMNS, **OPTIONAL} if name not in KEYS)
SUFFIXES = (".csv", ".parquet")


class BadTelemetry(HeadroomError):
    """A file of telemetry that is not one, or does not say what it must."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Checked rows: ordered by time within each device, all columns there, right types."""

    rows: pl.DataFrame

    @property
    def num_lives(self) -> int:
        return self.rows.select("device", "failed").n_unique()

    def lives(self) -> Iterator[Life]:
        """Each device until it fails; a device whose `failed` changes was replaced and begins anew.

        Rows at or after the failure are left out.
        """
        for of_device in self.rows.partition_by("device", maintain_order=True):
            for of_life in of_device.partition_by("failed", maintain_order=True):
                yield _life(of_life)


def _life(rows: pl.DataFrame) -> Life:
    first = rows.row(0, named=True)
    failed_s = first["failed"]
    before = rows if failed_s is None else rows.filter(rows["time_s"] < failed_s)
    story = first["story"] or ("healthy" if failed_s is None else "failure")
    return Life(device=first["device"], polls=_polls(first["device"], before), failed_s=failed_s, story=story)


def _polls(device: str, rows: pl.DataFrame) -> Iterator[tuple[float, Poll]]:
    for time_s, *values in rows.select("time_s", *READINGS).iter_rows():
        yield time_s, _poll(device, dict(zip(READINGS, values, strict=True)))


def _poll(device: str, readings: dict[str, Any]) -> Poll:
    if all(value is None for value in readings.values()):
        return Silence(device=device, reason="the row has no reading")
    return DeviceSignals(
        device=device, uuid=device, kind=DeviceKind.CUDA, product="recorded", total_bytes=0, used_bytes=0, **readings
    )


def read_telemetry(path: Path) -> Telemetry:
    """Raises BadTelemetry with the column and row that are wrong."""
    import polars as pl

    _check_suffix(path)
    try:
        rows = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except FileNotFoundError as error:
        raise BadTelemetry(f"There is no file '{path}'.", advice="`headroom forecast generate` makes one.") from error
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadTelemetry(f"'{path}' cannot be read as {path.suffix[1:]}: {line}.") from error
    _check_shape(path, rows)
    rows = _typed(path, rows)
    _check_values(path, rows)
    return Telemetry(rows)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise BadTelemetry(
            f"'{path}' ends in '{path.suffix}'.", expected=f"Telemetry is read and written as {' or '.join(SUFFIXES)}."
        )


def _check_shape(path: Path, rows: pl.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in rows.columns]
    unknown = [name for name in rows.columns if name not in COLUMNS and name not in OPTIONAL]
    if missing:
        _refuse(path, f"lacks the column '{missing[0]}'", f"Columns: {', '.join(COLUMNS)}; may be: {_optional()}.")
    if unknown:
        _refuse(
            path, f"has the column '{unknown[0]}', which is none of ours", f"Rename or drop it. Also: {_optional()}."
        )
    if rows.is_empty():
        _refuse(path, "has no rows", "Expected one row per device per poll.")
    if rows.height > MAX_ROWS:
        _refuse(path, f"has {rows.height:,} rows", f"At most {MAX_ROWS:,} are read: split it by device.")


def _optional() -> str:
    return ", ".join(OPTIONAL)


def _typed(path: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Every column in its type, those that may be absent as nulls."""
    import polars as pl

    types: dict[str, Any] = {TEXT: pl.String, REAL: pl.Float64, WHOLE: pl.Int64}
    typed = {}
    for name, kind in {**COLUMNS, **OPTIONAL}.items():
        column = rows[name] if name in rows.columns else pl.Series(name, [None] * rows.height, dtype=types[kind])
        if kind == TEXT and column.dtype not in (pl.String, pl.Null):
            _refuse(path, f"has '{name}' as {column.dtype}", "Expected text.")
        cast = column.cast(types[kind], strict=False)
        wrong = (column.is_not_null() & cast.is_null()).arg_true()
        if len(wrong):
            _refuse(path, f"has '{column[wrong[0]]}' as '{name}' in row {wrong[0] + 1}", f"Expected a {kind}.")
        typed[name] = cast
    return pl.DataFrame(typed)


def _check_values(path: Path, rows: pl.DataFrame) -> None:
    import polars as pl

    for name in ("device", "time_s"):
        absent = rows[name].is_null().arg_true()
        if len(absent):
            _refuse(path, f"has no '{name}' in row {absent[0] + 1}", "Every row needs one.")
    for name in ("time_s", "failed"):
        endless = (~rows[name].is_finite()).fill_null(value=False).arg_true()
        if len(endless):
            _refuse(
                path, f"has '{rows[name][endless[0]]}' as '{name}' in row {endless[0] + 1}", "Expected a finite number."
            )
    back = rows.select(pl.col("time_s") < pl.col("time_s").shift(1).over("device")).to_series().fill_null(value=False)
    if back.any():
        row = back.arg_true()[0]
        device = rows["device"][row]
        _refuse(path, f"goes back in time in row {row + 1}, device '{device}'", "Sort it by device and time_s.")
    if rows["story"].n_unique() > MAX_STORIES:
        _refuse(path, f"has {rows['story'].n_unique()} different stories", f"At most {MAX_STORIES} are told apart.")


def _refuse(path: Path, what: str, expected: str) -> NoReturn:
    raise BadTelemetry(f"'{path}' {what}.", expected=expected)


def write_telemetry(path: Path, devices: Iterable[Mapping[str, Sequence[object]]]) -> int:
    """Writes the columns of each device one below the other; the number of rows. Holds all of them in memory."""
    import polars as pl

    _check_suffix(path)
    types = {TEXT: pl.String, REAL: pl.Float64, WHOLE: pl.Int64}
    schema = {name: types[kind] for name, kind in {**COLUMNS, **OPTIONAL}.items()}
    rows = pl.concat(pl.DataFrame(dict(columns), schema=schema) for columns in devices)
    try:
        rows.write_csv(path) if path.suffix == ".csv" else rows.write_parquet(path)
    except OSError as error:
        raise BadTelemetry(f"'{path}' cannot be written: {error.strerror or error}.") from error
    return rows.height
