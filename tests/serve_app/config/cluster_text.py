"""Builders of cluster.yaml texts for tests: a good one, and the same with something changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

MODEL = {"id": "mini", "source": "default:mini"}
GOOD: dict[str, Any] = {
    "applications": [
        {
            "name": "headroom",
            "import_path": "serve_app.app:build",
            "args": {"models": [MODEL], "modes": {"fast": {"candidates": ["mini"]}}},
        }
    ]
}


def changed(*keys: str | int, value: object) -> dict[str, Any]:
    """The good file with the value at `keys` set."""
    data = copy.deepcopy(GOOD)
    here: Any = data
    for key in keys[:-1]:
        here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
    here[keys[-1]] = value
    return data


def changed_args(*keys: str | int, value: object) -> dict[str, Any]:
    return changed("applications", 0, "args", *keys, value=value)


def written(directory: Path, data: dict[str, Any] | str) -> Path:
    path = directory / "cluster.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
    return path
