"""Checkpoints broken on purpose, for drills: each is a copy of a good one with one thing wrong.

All but the half-written one have a manifest that fits, where the fault allows it, so that a drill tries the rule it
names and not the digests. Never used by anything that serves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from serve_app.training.checkpoints import TRAINER_STATE_NAME, read_manifest, step_of
from serve_app.training.file_rules import CONFIG_NAME, TOKENIZER_NAMES
from serve_app.training.manifest import MANIFEST_NAME
from serve_app.training.writer import Origin, write_checkpoint

WEIGHTS_NAME: Final = "model.safetensors"
LENGTH_BYTES: Final = 8
PICKLE_OF_NOTHING: Final = b"\x80\x04N."
DRILL_SEED: Final = 20_260


class DrillCheckpoint(StrEnum):
    FLIPPED_BYTE = "drill-flipped-byte"
    """One byte of the weights was changed after the manifest was written."""
    GARBAGE = "drill-garbage"
    """Whole and safe, loads everywhere, and talks nonsense: every tensor has its own values in another order."""
    HALF_WRITTEN = "drill-half-written"
    """The weights stop in the middle; no manifest yet."""
    WITHOUT_TOKENIZER = "drill-without-tokenizer"
    OTHER_SHAPES = "drill-other-shapes"
    """Whole and safe, but every tensor has twice the rows its config.json says."""
    PICKLE = "drill-pickle"
    AUTO_MAP = "drill-auto-map"


def make_drill_checkpoint(drill: DrillCheckpoint, source: Path, *, folder: Path, step: int) -> Path:
    """`folder/checkpoint-<step>`, made from the good checkpoint `source`, which is left as it is.

    Raises: ValueError if the step is taken, OSError if it cannot be written.
    """
    if (folder / f"checkpoint-{step}").exists():
        raise ValueError(f"{folder} has a checkpoint-{step} already; a drill replaces nothing")
    before, after = _SPOIL[drill]
    made = write_checkpoint(folder, _origin(source, folder, step), fill=lambda at: _copy(source, at, step, before))
    after(made)
    return made


def _origin(source: Path, folder: Path, step: int) -> Origin:
    manifest = read_manifest(source)
    return Origin(
        model=folder.name,
        step=step,
        config_hash="drill",
        seed=DRILL_SEED,
        created_at=datetime.now(UTC),
        parent=manifest.weights_version if manifest is not None else None,
    )


def _copy(source: Path, target: Path, step: int, spoil: Callable[[Path], object]) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_NAME))
    if step_of(source) is not None:
        _edit(target / TRAINER_STATE_NAME, global_step=step)
    spoil(target)


def _edit(path: Path, **entries: object) -> None:
    content = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps({**content, **entries}, indent=2))


def _leave(_directory: Path) -> None:
    pass


def _flip_one_byte(directory: Path) -> None:
    path = directory / WEIGHTS_NAME
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 1)
        last = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([last ^ 0x01]))


def _cut(directory: Path) -> None:
    (directory / MANIFEST_NAME).unlink()
    path = directory / WEIGHTS_NAME
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _drop_tokenizer(directory: Path) -> None:
    for name in TOKENIZER_NAMES:
        (directory / name).unlink(missing_ok=True)


def _shuffle_values(directory: Path) -> None:
    """The values of each tensor in another order: as large as before, so nothing overflows, and without sense."""
    header, data = _read_weights(directory)
    rng = np.random.default_rng(DRILL_SEED)
    for tensor in header.values():
        begin, end = tensor["data_offsets"]
        elements = max(1, int(np.prod(tensor["shape"])))
        values = np.frombuffer(bytes(data[begin:end]), dtype=np.uint8).reshape(elements, -1)
        data[begin:end] = rng.permutation(values).tobytes()
    _write_weights(directory, header, data)


def _double_rows(directory: Path) -> None:
    header, data = _read_weights(directory)
    doubled, wider = bytearray(), dict[str, Any]()
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        first, *rest = tensor["shape"]
        offsets = [len(doubled), len(doubled) + 2 * (end - begin)]
        doubled += data[begin:end] * 2
        wider[name] = {**tensor, "shape": [2 * first, *rest], "data_offsets": offsets}
    _write_weights(directory, wider, doubled)


def _read_weights(directory: Path) -> tuple[dict[str, Any], bytearray]:
    raw = (directory / WEIGHTS_NAME).read_bytes()
    end = LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little")
    header = {name: entry for name, entry in json.loads(raw[LENGTH_BYTES:end]).items() if name != "__metadata__"}
    return header, bytearray(raw[end:])


def _write_weights(directory: Path, header: Mapping[str, Any], data: bytearray) -> None:
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    head += b" " * (-len(head) % LENGTH_BYTES)
    (directory / WEIGHTS_NAME).write_bytes(len(head).to_bytes(LENGTH_BYTES, "little") + head + bytes(data))


_SPOIL: Final[Mapping[DrillCheckpoint, tuple[Callable[[Path], object], Callable[[Path], object]]]] = {
    DrillCheckpoint.FLIPPED_BYTE: (_leave, _flip_one_byte),
    DrillCheckpoint.GARBAGE: (_shuffle_values, _leave),
    DrillCheckpoint.HALF_WRITTEN: (_leave, _cut),
    DrillCheckpoint.WITHOUT_TOKENIZER: (_drop_tokenizer, _leave),
    DrillCheckpoint.OTHER_SHAPES: (_double_rows, _leave),
    DrillCheckpoint.PICKLE: (lambda at: (at / "pytorch_model.bin").write_bytes(PICKLE_OF_NOTHING), _leave),
    DrillCheckpoint.AUTO_MAP: (lambda at: _edit(at / CONFIG_NAME, auto_map={"AutoModel": "drill.Drill"}), _leave),
}
"""What is done before the manifest is written, and after the checkpoint is in its place."""
